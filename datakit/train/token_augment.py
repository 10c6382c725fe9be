"""Augmentations on tokens: Token-EDA on ids (SeiT), Emb-Noise, ColorAdapt and CutMix on embedded maps (SeiT++)."""

from __future__ import annotations

import torch
from torch import Tensor

EDA = (0.25, 0.25)  # shares of images that get synonyms, and two squares swapped; the rest stays
SWAP = 0.25  # of the grid's side: the largest square
EPSILON = 1e-5  # under a channel's deviation, so that a constant map divides by something
TRIES = 20


def synonyms(
    ids_NHW: Tensor, synonyms_KS: Tensor, generator: torch.Generator, *, share: float = 0.25
) -> Tensor:
    """Each token with probability `share` becomes one of its S nearest codes (SeiT, Token-EDA). int64 (N, h, w)."""
    change = torch.rand(ids_NHW.shape, generator=generator) < share
    which = torch.randint(synonyms_KS.shape[1], ids_NHW.shape, generator=generator)
    return torch.where(change, synonyms_KS[ids_NHW, which], ids_NHW)


def patch_swap(ids_NHW: Tensor, generator: torch.Generator) -> Tensor:
    """Two squares of each grid change places; side ⌊h·U(0, 0.25)⌋, corners farther apart than the side (SeiT).

    A grid for which no such pair is drawn in 20 tries, or whose squares have no side, stays.
    """
    found = ids_NHW.clone()
    height, width = ids_NHW.shape[1:]
    for grid in found:
        side = int(min(height, width) * SWAP * float(torch.rand((), generator=generator)))
        for _ in range(TRIES if side else 0):
            rows = torch.randint(height - side + 1, (2,), generator=generator).tolist()
            columns = torch.randint(width - side + 1, (2,), generator=generator).tolist()
            if max(abs(rows[0] - rows[1]), abs(columns[0] - columns[1])) >= side:
                one, other = (
                    (slice(y, y + side), slice(x, x + side)) for y, x in zip(rows, columns, strict=True)
                )
                kept = grid[one].clone()
                grid[one] = grid[other]
                grid[other] = kept
                break
    return found


def token_eda(
    ids_NHW: Tensor,
    synonyms_KS: Tensor | None,
    generator: torch.Generator,
    *,
    shares: tuple[float, float] = EDA,
) -> Tensor:
    """One choice an image: synonyms, a patch swap, or nothing (SeiT, Token-EDA). Shape and range stay.

    Without a table of synonyms their share stays as it is.
    """
    drawn = torch.rand(len(ids_NHW), generator=generator)
    to_swap = (drawn >= shares[0]) & (drawn < sum(shares))
    found = ids_NHW.clone()
    if synonyms_KS is not None and (chosen := drawn < shares[0]).any():
        found[chosen] = synonyms(ids_NHW[chosen], synonyms_KS, generator)
    if to_swap.any():
        found[to_swap] = patch_swap(ids_NHW[to_swap], generator)
    return found


def emb_noise(
    map_NDHW: Tensor,
    generator: torch.Generator,
    *,
    colour: float = 1.0,
    pixel: float = 1.0,
    share: float = 0.5,
) -> Tensor:
    """z + a ε₁[c] + b ε₂[c, h, w], both N(0, 1), on a share of the batch (SeiT++, Emb-Noise): a part shared over the
    map, which moves its colour, and one of each position.
    """
    count, dims = map_NDHW.shape[:2]
    chosen = (torch.rand(count, generator=generator) < share).to(map_NDHW.dtype)[:, None, None, None]
    shared = torch.randn((count, dims, 1, 1), generator=generator)
    own = torch.randn(map_NDHW.shape, generator=generator)
    return map_NDHW + chosen * (colour * shared + pixel * own).to(map_NDHW)


def color_adapt(
    map_NDHW: Tensor, generator: torch.Generator, *, share: float = 0.5, partner_N: Tensor | None = None
) -> Tensor:
    """(z - μ) / σ · σ' + μ' on a share of the batch, moments over h, w of each channel, those with ' of a partner
    (SeiT++, ColorAdapt; AdaIN of Huang and Belongie 2017). Partners are drawn; nobody is its own where there are two.

    A channel without deviation stays constant, at the partner's mean: σ is never below 1e-5.
    """
    count = len(map_NDHW)
    if partner_N is None:
        partner_N = derangement(count, generator)
    mean = map_NDHW.mean(dim=(2, 3), keepdim=True)
    deviation = map_NDHW.std(dim=(2, 3), keepdim=True, unbiased=False)
    adapted = (map_NDHW - mean) / deviation.clamp_min(EPSILON) * deviation[partner_N] + mean[partner_N]
    chosen = (torch.rand(count, generator=generator) < share)[:, None, None, None]
    return torch.where(chosen, adapted, map_NDHW)


def derangement(count: int, generator: torch.Generator) -> Tensor:
    """A partner for each of the batch, never itself where there are two: a cycle through all in a drawn order."""
    order = torch.randperm(count, generator=generator)
    partner = torch.empty_like(order)
    partner[order] = order.roll(1)
    return partner


def cutmix(
    map_NDHW: Tensor, generator: torch.Generator, *, alpha: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """(mixed, partner (N,), share (N,) of the own label): a box of each map is its partner's (Yun et al. 2019).

    Works on ids (N, h, w) as on embedded maps; λ ~ Beta(α, α), the box has 1 - λ of the area, cut at the border, and
    the share is of what is left.
    """
    count, (height, width) = len(map_NDHW), map_NDHW.shape[-2:]
    partner = derangement(count, generator)
    drawn = torch._sample_dirichlet(torch.full((count, 2), alpha, dtype=torch.float64), generator)[:, 0]
    side = (1 - drawn).sqrt()
    centre = torch.rand((count, 2), generator=generator, dtype=torch.float64)
    top = ((centre[:, 0] - side / 2) * height).round().clamp(0, height)
    end = ((centre[:, 0] + side / 2) * height).round().clamp(0, height)
    left = ((centre[:, 1] - side / 2) * width).round().clamp(0, width)
    right = ((centre[:, 1] + side / 2) * width).round().clamp(0, width)
    row, column = torch.arange(height), torch.arange(width)
    rows = (row >= top[:, None]) & (row < end[:, None])
    columns = (column >= left[:, None]) & (column < right[:, None])
    inside = rows[:, :, None] & columns[:, None, :]
    share = 1 - inside.double().mean(dim=(1, 2))
    if map_NDHW.ndim == 4:
        inside = inside[:, None]
    return torch.where(inside, map_NDHW[partner], map_NDHW), partner, share.float()
