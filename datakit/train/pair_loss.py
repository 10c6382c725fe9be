"""Losses over a batch of pairs: InfoNCE, and hinges on a margin with the negatives stated; nested or not.

Row i of both sides is one pair. Two pairs of one group (two captions of one image, two drawings of one thing) are
never negatives of each other: their similarity is left out, neither pulled nor pushed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from datakit.errors import ConfigError

# (left_BD, right_BD, group_B) to a scalar; scales rows to length 1 by itself
PairLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


def info_nce(left_BD: Tensor, right_BD: Tensor, group_B: Tensor, *, scale: Tensor | float) -> Tensor:
    """Symmetric cross-entropy of each pair against all others of the batch (van den Oord et al. 2018; CLIP).

    scale: the inverse temperature that multiplies cosines.
    """
    logit_BB = cosines(left_BD, right_BD) * scale
    logit_BB = logit_BB.masked_fill(_kin(group_B), -torch.inf)
    target_B = torch.arange(len(logit_BB), device=logit_BB.device)
    return (F.cross_entropy(logit_BB, target_B) + F.cross_entropy(logit_BB.T, target_B)) / 2


def ranking(left_BD: Tensor, right_BD: Tensor, group_B: Tensor, *, margin: float, negatives: str) -> Tensor:
    """Hinge max(0, margin - s(pair) + s(negative)) on cosines, both directions; mean over the anchors.

    negatives, of each anchor among the other side of the batch:
    batch_all   the sum over all of them (Kiros et al. 2014)
    hardest     the nearest one (VSE++, Faghri et al. 2018)
    semi_hard   the nearest one that is farther than the pair itself (FaceNet, Schroff et al. 2015); an anchor
                without one, its pair being farther than every negative, adds nothing
    Raises ConfigError for another name.
    """
    pick = _SAMPLING.get(negatives)
    if pick is None:
        raise ConfigError(f"negatives={negatives}: must be one of {', '.join(_SAMPLING)}")
    cosine_BB = cosines(left_BD, right_BD)
    pair_B1 = cosine_BB.diagonal().unsqueeze(1)
    own_BB = torch.eye(len(cosine_BB), dtype=torch.bool, device=cosine_BB.device) | _kin(group_B)
    both = [pick(side_BB, pair_B1, own_BB, margin) for side_BB in (cosine_BB, cosine_BB.T)]
    return torch.cat(both).mean()


def nested(loss: PairLoss, dims: Sequence[int], weights: Sequence[float] | None = None) -> PairLoss:
    """The Matryoshka loss over any loss of pairs: Σ_m c_m · loss(left[:m], right[:m]), c_m = 1 unless given.

    As sentence-transformers' MatryoshkaLoss; every prefix is scaled to length 1 on its own, within `loss`.
    """
    shares = [1.0] * len(dims) if weights is None else list(weights)

    def whole(left_BD: Tensor, right_BD: Tensor, group_B: Tensor) -> Tensor:
        parts = [
            share * loss(left_BD[:, :m], right_BD[:, :m], group_B)
            for m, share in zip(dims, shares, strict=True)
        ]
        return torch.stack(parts).sum()

    return whole


def cosines(left_BD: Tensor, right_BD: Tensor) -> Tensor:
    return F.normalize(left_BD, dim=1) @ F.normalize(right_BD, dim=1).T


def _kin(group_B: Tensor) -> Tensor:
    """Pairs of one group, but for each pair itself."""
    same_BB = group_B.unsqueeze(0) == group_B.unsqueeze(1)
    return same_BB & ~torch.eye(len(group_B), dtype=torch.bool, device=group_B.device)


def _batch_all(cosine_BB: Tensor, pair_B1: Tensor, own_BB: Tensor, margin: float) -> Tensor:
    return (margin - pair_B1 + cosine_BB).clamp(min=0).masked_fill(own_BB, 0).sum(dim=1)


def _hardest(cosine_BB: Tensor, pair_B1: Tensor, own_BB: Tensor, margin: float) -> Tensor:
    # where nothing is left to stand against the pair, minus infinity makes the hinge 0 and its gradient too
    nearest_B1 = cosine_BB.masked_fill(own_BB, -torch.inf).amax(dim=1, keepdim=True)
    return (margin - pair_B1 + nearest_B1).clamp(min=0).squeeze(1)


def _semi_hard(cosine_BB: Tensor, pair_B1: Tensor, own_BB: Tensor, margin: float) -> Tensor:
    return _hardest(cosine_BB, pair_B1, own_BB | (cosine_BB >= pair_B1), margin)


_SAMPLING: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "batch_all": _batch_all,
    "hardest": _hardest,
    "semi_hard": _semi_hard,
}
