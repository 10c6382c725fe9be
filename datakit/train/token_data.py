"""Tokens as a data set: ids, or embedded maps; embedded first, then cropped.

SeiT makes one-hot maps of 391 x 32 x 32 numbers a sample, crops those and multiplies by the codebook. Cropping
(bicubic) and the product are both linear, so they commute: an embedded map of 32 channels is cropped instead, for the
same result to rounding and a twelfth of the memory.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from datakit.errors import ConfigError
from datakit.tokens.opened import TokenSet

SCALE = (0.08, 1.0)  # share of the grid's area that a training crop shows (SeiT's, torchvision's)
RATIO = (3 / 4, 4 / 3)  # of its width to its height
TRIES = 10

Emit = Literal["ids", "embedded"]
Sampling = Literal["bicubic", "bilinear"]


class TokenDataset(Dataset[tuple[Tensor, int]]):
    """By number: int64 (h, w), or `embedded` float16 (d, h, w); and the label, -1 where there is none.

    tokens: a token folder as opened, whose first views are the samples and whose codebook embeds, or uint16
    (N, h, w) with labels (N,) and codebook (K, d).
    """

    def __init__(
        self,
        tokens: TokenSet | NDArray[np.uint16],
        labels: NDArray[np.int64] | None = None,
        codebook_KD: NDArray[np.float32] | None = None,
        *,
        emit: Emit = "ids",
    ) -> None:
        if emit not in ("ids", "embedded"):
            raise ConfigError(f"emit={emit!r}: it is ids or embedded")
        self.tokens, self.emit = tokens, emit
        if isinstance(tokens, TokenSet):
            self.rows = np.flatnonzero(np.asarray(tokens.rows["view"]) == 0)
            named = "label" in tokens.rows.column_names
            labels = np.asarray(tokens.rows["label"])[self.rows] if labels is None and named else labels
            codebook_KD = tokens.codebook if codebook_KD is None else codebook_KD
        else:
            self.rows = np.arange(len(tokens))
        if labels is not None and len(labels) != len(self.rows):
            raise ConfigError(f"{len(labels)} labels for {len(self.rows)} images")
        if emit == "embedded" and codebook_KD is None:
            raise ConfigError("embedded tokens need a codebook (K, d)")
        self.labels = labels
        self._codebook = None if codebook_KD is None else torch.from_numpy(np.array(codebook_KD, np.float32))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row = self.rows[range(len(self))[index]]
        ids = self.tokens.read([row])[0] if isinstance(self.tokens, TokenSet) else self.tokens[row]
        label = -1 if self.labels is None else int(self.labels[index])
        ids_HW = torch.from_numpy(ids.astype(np.int64))
        if self.emit == "ids" or self._codebook is None:
            return ids_HW, label
        return embed(ids_HW[None], self._codebook)[0].half(), label


def embed(ids_NHW: Tensor, codebook_KD: Tensor) -> Tensor:
    """(N, d, h, w): each token's vector, int64 (N, h, w) by (K, d)."""
    return functional.embedding(ids_NHW, codebook_KD).permute(0, 3, 1, 2)


def draw_boxes(count: int, generator: torch.Generator, *, scale: tuple[float, float] = SCALE,
               ratio: tuple[float, float] = RATIO) -> Tensor:  # fmt: skip
    """(N, 4) float32: top, left, height and width of a crop each, as shares of a square map (Szegedy et al. 2015)."""
    shape = (count, TRIES)
    area = scale[0] + (scale[1] - scale[0]) * torch.rand(shape, generator=generator)
    low, high = np.log(ratio[0]), np.log(ratio[1])
    aspect = torch.exp(low + (high - low) * torch.rand(shape, generator=generator))
    high_, wide = (area / aspect).sqrt(), (area * aspect).sqrt()
    fits = (high_ <= 1) & (wide <= 1)
    first = fits.int().argmax(dim=1)
    own = torch.arange(count)
    none = ~fits.any(dim=1)
    high_, wide = high_[own, first].masked_fill(none, 1.0), wide[own, first].masked_fill(none, 1.0)
    place = torch.rand((count, 2), generator=generator)
    return torch.stack([place[:, 0] * (1 - high_), place[:, 1] * (1 - wide), high_, wide], dim=1)


def crop(
    map_NDHW: Tensor,
    boxes_N4: Tensor,
    side: int,
    flips_N: Tensor | None = None,
    *,
    sampling: Sampling = "bicubic",
) -> Tensor:
    """(N, D, side, side): each map's box, mirrored where `flips_N` says. Linear in the map."""
    top, left, high, wide = boxes_N4.to(map_NDHW).unbind(dim=1)
    sign = torch.ones_like(wide) if flips_N is None else 1 - 2 * flips_N.to(wide)
    zero = torch.zeros_like(wide)
    # From [-1, 1] of the crop to [-1, 1] of the map.
    theta = torch.stack(
        [sign * wide, zero, 2 * left + wide - 1, zero, high, 2 * top + high - 1], dim=1
    ).reshape(-1, 2, 3)  # fmt: skip
    grid = functional.affine_grid(theta, [len(map_NDHW), map_NDHW.shape[1], side, side], align_corners=False)
    found: Tensor = functional.grid_sample(
        map_NDHW, grid, mode=sampling, padding_mode="border", align_corners=False
    )
    return found


def random_resized_crop(
    map_NDHW: Tensor,
    side: int,
    generator: torch.Generator,
    *,
    scale: tuple[float, float] = SCALE,
    flip: bool = False,
    sampling: Sampling = "bicubic",
) -> Tensor:
    """Another crop of each map, `side` x `side`; flip: mirrored in half. Tokens of a mirrored image are others, so SeiT
    flips none; embedded maps are near enough that it is worth a word. Bicubic on tokens, as SeiT's; on pixels, which
    are many more, bilinear takes a third of the time.
    """
    boxes = draw_boxes(len(map_NDHW), generator, scale=scale)
    flips = torch.rand(len(map_NDHW), generator=generator) < 0.5 if flip else None
    return crop(map_NDHW, boxes, side, flips, sampling=sampling)


def centre_crop(map_NDHW: Tensor, side: int) -> Tensor:
    """The middle `side` x `side`, no pixel changed; maps that are smaller are scaled up to it."""
    height, width = map_NDHW.shape[-2:]
    if min(height, width) < side:
        scaled: Tensor = functional.interpolate(map_NDHW, (side, side), mode="bicubic", align_corners=False)
        return scaled
    top, left = (height - side) // 2, (width - side) // 2
    return map_NDHW[..., top : top + side, left : left + side]


def one_hot(ids_NHW: Tensor, codes: int) -> Tensor:
    """float32 (N, codes, h, w): SeiT's own order, for comparison; 1.6 MB an image of 391 codes."""
    found: Any = functional.one_hot(ids_NHW, codes).permute(0, 3, 1, 2).float()
    return found  # type: ignore[no-any-return]
