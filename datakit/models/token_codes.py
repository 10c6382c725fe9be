"""From vectors to code numbers and back, by formula: nearest codes, residual codes, finite scalars, signs.

All in numpy, on float32 vectors and whole numbers, so that what a tokenizer writes does not hang on the state of the
library it was trained with; a test holds each against that library's numbers. Half precision would not do: sums of
levels times bases leave its whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from datakit.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Codes = NDArray[np.int64]

ROWS_X_CODES = 1 << 22  # distances held at once, 16 MB
MARGIN = 1e-3  # FSQ: by this share the bounds lie outside of the last level, so that it can be reached


def unit(vectors_ND: Floats) -> Floats:
    """Each scaled to length 1; a zero vector stays zero."""
    length_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return np.asarray(vectors_ND / np.maximum(length_N1, 1e-6), dtype=np.float32)


def nearest(vectors_ND: Floats, codebook_KD: Floats, *, cosine: bool = False) -> Codes:
    """int64 (N,): the code of least distance, or of largest cosine (`codebook_KD` of unit length); first of equals."""
    queries = unit(vectors_ND) if cosine else vectors_ND
    squares_K = 0 if cosine else np.square(codebook_KD).sum(axis=1)
    rows = max(1, ROWS_X_CODES // len(codebook_KD))
    found = [
        np.argmin(squares_K - 2 * (queries[at : at + rows] @ codebook_KD.T), axis=1)
        for at in range(0, len(queries), rows)
    ]
    return np.concatenate([np.empty(0, np.int64), *found])


def residual(vectors_ND: Floats, codebook_KD: Floats, quantizers: int) -> Codes:
    """int64 (quantizers, N): each level codes what the levels before it left (Zeghidour et al. 2021, algorithm 1)."""
    left, found = vectors_ND, []
    for _ in range(quantizers):
        found.append(nearest(left, codebook_KD))
        left = left - codebook_KD[found[-1]]
    return np.stack(found)


def finite_scalars(vectors_ND: Floats, levels: Sequence[int]) -> Codes:
    """int64 (N,): each number rounded to one of its levels, the first number counting fastest (Mentzer et al. 2023).

    level = round(tanh(z + shift) · half - offset) + L // 2, with half = (L - 1)(1 + 0.001) / 2, offset = 1/2 for an
    even L, and shift so that zero stays in the middle.
    """
    counts = np.asarray(levels, dtype=np.int64)
    half = ((counts - 1) * (1 + MARGIN) / 2).astype(np.float32)
    offset = np.where(counts % 2 == 0, 0.5, 0.0).astype(np.float32)
    bounded = np.tanh(vectors_ND + np.arctanh(offset / half)) * half - offset
    level = np.clip(np.rint(bounded).astype(np.int64) + counts // 2, 0, counts - 1)
    return np.asarray((level * _bases(counts)).sum(axis=1), dtype=np.int64)


def scalar_codebook(levels: Sequence[int]) -> Floats:
    """float32 (product of levels, len(levels)), -1 to 1: the vector behind each number of `finite_scalars`."""
    counts = np.asarray(levels, dtype=np.int64)
    level = np.arange(int(counts.prod()))[:, None] // _bases(counts) % counts
    return ((level - counts // 2) / (counts // 2)).astype(np.float32)


def signs(vectors_ND: Floats) -> Codes:
    """int64 (N,): a bit for each number above zero, the first the highest (lookup-free: Yu et al. 2023)."""
    return np.asarray((vectors_ND > 0) @ (1 << np.arange(vectors_ND.shape[1])[::-1]), dtype=np.int64)


def sign_codebook(bits: int) -> Floats:
    """float32 (2^bits, bits) of -1 and 1: the vector behind each number of `signs`."""
    on = np.arange(1 << bits)[:, None] >> np.arange(bits)[::-1] & 1
    return (on * 2 - 1).astype(np.float32)


def levels_for(codes: int) -> tuple[int, ...]:
    """The fewest levels, each 3 to 8, whose product is `codes`, largest first: 512 is 8, 8, 8; 1000 is 8, 5, 5, 5.

    Raises ConfigError where no product is.
    """
    if codes in range(3, 9):
        return (codes,)
    for first in range(8, 2, -1):
        if codes % first == 0 and codes > first:
            try:
                return tuple(sorted((first, *levels_for(codes // first)), reverse=True))
            except ConfigError:
                continue
    raise ConfigError(f"codes={codes} is no product of levels from 3 to 8; take 240, 512, 1000, 4096 or such")


def _bases(counts: Codes) -> Codes:
    return np.concatenate([[1], np.cumprod(counts[:-1])]).astype(np.int64)
