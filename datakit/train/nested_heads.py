"""Classification heads on nested prefixes: the loss of Matryoshka Representation Learning (Kusupati et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class NestedHeads(nn.Module):
    """One linear head a nested size m on the first m features; `shared` (MRL-E): one weight matrix, its first m
    columns and one bias for all sizes.
    """

    def __init__(self, dims: Sequence[int], n_classes: int, *, shared: bool = False) -> None:
        super().__init__()
        self.dims, self.shared = tuple(dims), shared
        self.whole = nn.Linear(self.dims[-1], n_classes)
        self.parts = nn.ModuleList(() if shared else (nn.Linear(m, n_classes) for m in self.dims[:-1]))

    def forward(self, z_ND: Tensor) -> list[Tensor]:
        """Logits (N, K) of every size, smallest first."""
        if self.shared:
            weight_KD, bias_K = self.whole.weight, self.whole.bias
            parts = [F.linear(z_ND[:, :m], weight_KD[:, :m], bias_K) for m in self.dims[:-1]]
        else:
            parts = [head(z_ND[:, :m]) for m, head in zip(self.dims[:-1], self.parts, strict=True)]
        return [*parts, self.whole(z_ND)]


def nested_cross_entropy(
    logits: Sequence[Tensor], label_N: Tensor, weights: Sequence[float] | None = None
) -> tuple[Tensor, Tensor]:
    """(Σ_m c_m · CE(W_m z[:m], y), the CE of each size (M,) without gradient); c_m = 1 unless given."""
    losses_M = torch.stack([F.cross_entropy(logit_NK, label_N) for logit_NK in logits])
    share_M = torch.ones_like(losses_M) if weights is None else losses_M.new_tensor(list(weights))
    return (losses_M * share_M).sum(), losses_M.detach()
