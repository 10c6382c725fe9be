"""The order of an epoch: which sample stands at which position, found without making a list of them all.

A position tells its sample by arithmetic, so a loader can start anywhere at once, ranks and workers agree without
a word between them, and 10^9 samples cost no more memory than ten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from datakit.errors import ConfigError
from datakit.rng import seed_for

Shuffle = Literal["none", "window", "full"]
Indices = NDArray[np.int64]

WINDOW = 8  # shards whose samples are mixed with one another, and so read in turns
ROUNDS = 6  # of the Feistel network; four make a pseudo-random permutation (Luby and Rackoff 1988)
LEAST_BITS = 8  # of its domain: fewer give it too few permutations to choose from


class Order:
    """The samples 0 … n-1 of one epoch, by position.

    sizes: samples of each shard, whose samples are numbered one after the other.
    `none`: as they lie. `window`: shards shuffled, then the samples of each `window` shards among one another.
    `full`: all samples.  Same seed and epoch, same order, on any machine and with any library.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        shuffle: Shuffle = "none",
        *,
        seed: int = 0,
        epoch: int = 0,
        window: int = WINDOW,
    ) -> None:
        if window < 1:
            raise ConfigError(f"window={window}: it is a number of shards, at least 1")
        self.length = sum(sizes)
        self._shuffle = shuffle
        self._window = window
        self._names = (seed, "epoch", epoch)
        self._shards = np.arange(len(sizes), dtype=np.int64)
        self._ends = np.cumsum(np.asarray(sizes, np.int64))
        if shuffle == "window":
            self._shards = permuted(self._shards, len(sizes), seed_for(*self._names, "shards"))
            lengths = np.asarray(sizes, np.int64)[self._shards]
            self._ends = np.cumsum(lengths)  # position after each shard, in this epoch's order of shards
            firsts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
            self._shift = firsts[self._shards] - (self._ends - lengths)  # from a position to its sample
            self._windows = np.concatenate([[0], self._ends[window - 1 :: window], self._ends[-1:]])

    def __len__(self) -> int:
        return self.length

    def at(self, positions: Indices) -> Indices:
        """The samples at these positions, each in 0 … n-1; int64 of the same length."""
        if self._shuffle == "none":
            return positions
        if self._shuffle == "full":
            return permuted(positions, self.length, seed_for(*self._names))
        places = self._within_windows(positions)
        return places + self._shift[np.searchsorted(self._ends, places, side="right")]

    def shards_from(self, position: int) -> list[int]:
        """The shards to be read from this position on, to the end of the window after the next; [] where all are
        read in turns.
        """
        if self._shuffle == "full":
            return []
        first = int(np.searchsorted(self._ends, position, side="right"))
        if self._shuffle == "window":
            first -= first % self._window
        found: list[int] = self._shards[first : first + 2 * self._window].tolist()
        return found

    def _within_windows(self, positions: Indices) -> Indices:
        """Positions after each window has been shuffled."""
        windows = np.searchsorted(self._windows, positions, side="right") - 1
        places = np.empty_like(positions)
        for window in np.unique(windows):
            start, end = self._windows[window : window + 2]
            chosen = windows == window
            seed = seed_for(*self._names, "window", int(window))
            places[chosen] = start + permuted(positions[chosen] - start, int(end - start), seed)
        return places


def permuted(values: Indices, size: int, seed: int) -> Indices:
    """Where a seeded permutation of 0 … size-1 sends these values.

    A Feistel network over the next larger power of four, walked along until it is back below `size`
    (Black and Rogaway 2002). Integer arithmetic alone: no library's random numbers can change it.
    """
    half = max(LEAST_BITS, (max(size, 1) - 1).bit_length() + 1) // 2
    keys = _keys(seed)
    found = _feistel(np.asarray(values, np.int64).astype(np.uint64), half, keys)
    outside = np.flatnonzero(found >= size)
    while len(outside):
        walked = _feistel(found[outside], half, keys)
        found[outside] = walked
        outside = outside[walked >= size]
    return found.astype(np.int64)


def _keys(seed: int) -> list[np.uint64]:
    """One 64-bit key a round."""
    counter = np.arange(1, ROUNDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return list(_mixed(counter + np.uint64(seed & (2**64 - 1))))


def _feistel(values: NDArray[np.uint64], half: int, keys: Sequence[np.uint64]) -> NDArray[np.uint64]:
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return (left << shift) | right


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of splitmix64 (Steele, Lea and Flood 2014); arithmetic modulo 2^64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
