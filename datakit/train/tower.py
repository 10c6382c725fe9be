"""A small perceptron over fixed features, and its weights as numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from datakit.models.projection import Features, Layer, Projection, standard


class Tower(nn.Module):
    """Standardise, then linear; with `hidden` units between, linear, ReLU, dropout, linear. Gives (N, dim) as it comes.

    Mean and deviation are those of the features it is made with: those it will be trained on.
    """

    def __init__(self, features_ND: Features, dim: int, *, hidden: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.mean_D: Tensor
        self.scale_D: Tensor
        for name, array_D in zip(("mean_D", "scale_D"), standard(features_ND), strict=True):
            self.register_buffer(name, torch.from_numpy(array_D))
        width = features_ND.shape[1]
        if not hidden:
            self.net = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, dim))
        else:
            self.net = nn.Sequential(
                nn.Dropout(dropout),
                nn.Linear(width, hidden),
                nn.ReLU(),
                nn.Dropout(dropout),
                nn.Linear(hidden, dim),
            )

    def forward(self, x_ND: Tensor) -> Tensor:
        z_ND: Tensor = self.net((x_ND - self.mean_D) / self.scale_D)
        return z_ND

    def projection(self, dims: Sequence[int]) -> Projection:
        """What it learned, for numpy: dropout is not part of it."""
        layers = [module for module in self.net if isinstance(module, nn.Linear)]
        return Projection(
            mean_D=_array(self.mean_D),
            scale_D=_array(self.scale_D),
            layers=tuple(Layer(_array(layer.weight.T), _array(layer.bias)) for layer in layers),
            dims=tuple(dims),
        )


def _array(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=np.float32)
