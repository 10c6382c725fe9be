"""A small vision transformer over patches of tokens: the encoder that masked token modelling pre-trains."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def sincos(side: int, dim: int) -> Tensor:
    """(side², dim): fixed sine and cosine positions of a square grid, half for rows and half for columns (Vaswani et
    al. 2017; in two dimensions as MAE's). dim is a multiple of 4.
    """
    rates = 1.0 / 10_000 ** (torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * rates
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows = line[:, None, :].expand(side, side, -1)
    columns = line[None, :, :].expand(side, side, -1)
    return torch.cat([rows, columns], dim=2).reshape(side * side, dim).float()


def layers(depth: int, dim: int, heads: int, ratio: int = 4) -> nn.Sequential:
    """Pre-norm transformer layers (N, L, dim) → (N, L, dim)."""
    return nn.Sequential(
        *(
            nn.TransformerEncoderLayer(
                dim, heads, ratio * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
    )


class TokenViT(nn.Module):
    """(N, d, side, side) embedded tokens → patches of `patch` x `patch` → logits of the mean of all patches."""

    positions: Tensor

    def __init__(
        self,
        dim: int,
        classes: int,
        *,
        side: int = 28,
        patch: int = 4,
        width: int = 96,
        depth: int = 3,
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.side, self.patch = side, patch
        self.project = nn.Conv2d(dim, width, patch, patch)
        self.before = nn.LayerNorm(width)  # what a patch holds is then as large as where it lies
        self.register_buffer("positions", sincos(side // patch, width), persistent=False)
        self.layers = layers(depth, width, heads)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def patches(self, map_NDHW: Tensor) -> Tensor:
        """(N, L, width), with positions."""
        found: Tensor = self.project(map_NDHW).flatten(2).transpose(1, 2)
        return torch.as_tensor(self.before(found) + self.positions)

    def forward(self, map_NDHW: Tensor) -> Tensor:
        found = self.norm(self.layers(self.patches(map_NDHW)))
        return torch.as_tensor(self.head(found.mean(dim=1)))
