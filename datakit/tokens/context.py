"""Tokens at less than their order-0 entropy: what a code is, told by its left, upper and upper right neighbours.

All grids of a block are coded in step, position by position in raster order. A position's distribution is made of
counts over all positions before it, of all grids: how often each code came, and how often beside each code as its left
(l), upper (u) and upper right (r) neighbour. With P, P_l, P_u, P_r from the counts (each smoothed towards P), p(x) is

    0.8 of  (P_l P_u P_r / P²)^(3/4) P^(1/4)     neighbours independent given x, tempered since they are not quite
    0.2 of  (P_l + P_u + P_r) / 3                which is never far off

Nothing is stored but the codes: a decoder counts as the encoder did. A distribution becomes whole numbers by
multiplications, divisions, square roots and a floor alone, which IEEE 754 rounds alike on every machine; sums are of
whole numbers. The codes themselves are coded by rANS (Duda 2009), four grids a state, states side by side. It is the
codec for archives: a row is read with its whole block, some hundred grids of 1,024 tokens a second.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from datakit.errors import ConfigError, StoreError

Tokens = NDArray[np.uint16]
Rows = NDArray[np.int64] | None
Ints = NDArray[np.int64]

MAX_CODES = 8192  # three tables of codes x codes float64: 1.6 GB at 8,192
SMOOTH = 200.0  # times P added to a neighbour's counts
SHARE = 0.8  # of the product in the mixture
START = 0.5  # count of a code before any came
SCALE = 28  # bits: a distribution's whole numbers sum to 2^28
SHARED = 4  # grids a state: a state costs 8 bytes, and a grid waits for the others of its own
LOW = np.uint64(1 << 32)  # states lie in [2^32, 2^64) and take in words of 32 bits
STATE, WORD = np.dtype("<u8"), np.dtype("<u4")


def encode(tokens_NT: Tokens, codes: int, width: int, model: bytes) -> bytes:
    """The states to begin from, then words in the order in which a decoder takes them."""
    _refuse(codes)
    counts = Counts(tokens_NT.shape, codes, width)
    begins, sizes = np.empty((2, *tokens_NT.T.shape), np.uint64)
    for at in range(tokens_NT.shape[1]):
        beside = counts.neighbours(tokens_NT, at)
        shares = counts.shares(beside)
        token = tokens_NT[:, at].astype(np.int64)
        own = np.arange(len(token))
        sizes[at] = shares[own, token]
        begins[at] = np.cumsum(shares, axis=1)[own, token].astype(np.uint64) - sizes[at]
        counts.add(token, beside)
    return _pushed(begins, sizes)


def decode(data: bytes, count: int, tokens: int, codes: int, width: int, model: bytes, rows: Rows) -> Tokens:
    _refuse(codes)
    counts, coder = Counts((count, tokens), codes, width), _Popped(data, count)
    found = np.zeros((count, tokens), np.uint16)
    for at in range(tokens):
        beside = counts.neighbours(found, at)
        shares = counts.shares(beside)
        token = coder.pop(np.cumsum(shares, axis=1), shares)
        found[:, at] = token
        counts.add(token, beside)
    coder.check()
    return found if rows is None else found[rows]


def _refuse(codes: int) -> None:
    if codes > MAX_CODES:
        raise ConfigError(
            f"the codec context counts pairs of codes, of {MAX_CODES} at most; there are {codes}"
        )


class Counts:
    """What came so far, and the distribution that it gives."""

    def __init__(self, shape: tuple[int, ...], codes: int, width: int) -> None:
        self.grids, self.codes, self.width = shape[0], codes, width
        self.each = np.full(codes, START)
        # Left, upper, upper right; the last row of each is that of a neighbour outside the grid.
        self.pairs = [np.zeros((codes + 1, codes)) for _ in range(3)]
        self.times = [np.zeros(codes + 1) for _ in range(3)]

    def neighbours(self, tokens_NT: Tokens, at: int) -> list[Ints]:
        """The codes left of, over, and right over each grid's position; `codes` where there is none."""
        row, column = divmod(at, self.width)
        outside = np.full(self.grids, self.codes, np.int64)
        there = (column > 0, row > 0, row > 0 and column + 1 < self.width)
        steps = (1, self.width, self.width - 1)
        return [
            tokens_NT[:, at - step].astype(np.int64) if has else outside
            for has, step in zip(there, steps, strict=True)
        ]

    def shares(self, beside: Sequence[Ints]) -> Ints:
        """int64 (N, codes), each at least 1, of 2^28 in all, in proportion to p."""
        share = self.each / self.each.sum()  # of halves and whole numbers: exact in any order
        smooth = SMOOTH * share
        by = [
            (pairs[code] + smooth) / (times[code] + SMOOTH)[:, None]
            for pairs, times, code in zip(self.pairs, self.times, beside, strict=True)
        ]
        product = by[0] * (by[1] / share) * (by[2] / share)
        tempered = np.sqrt(product * np.sqrt(product * share))
        # A sum of these would be rounded in an order that each library chooses: whole numbers are summed instead.
        tempered *= 2.0**40 / tempered.max(axis=1, keepdims=True)
        total = tempered.astype(np.int64).sum(axis=1, keepdims=True).astype(np.float64)
        mixed = SHARE * (tempered / total) + (1 - SHARE) / 3 * (by[0] + by[1] + by[2])
        found = (mixed * float((1 << SCALE) - 2 * self.codes)).astype(np.int64) + 1
        # What floors left over goes to the most likely.
        found[np.arange(self.grids), found.argmax(axis=1)] += (1 << SCALE) - found.sum(axis=1)
        return np.asarray(found, np.int64)

    def add(self, token: Ints, beside: Sequence[Ints]) -> None:
        np.add.at(self.each, token, 1.0)
        for pairs, times, code in zip(self.pairs, self.times, beside, strict=True):
            np.add.at(pairs, (code, token), 1.0)
            np.add.at(times, code, 1.0)


def _groups(count: int) -> list[slice]:
    """Grids that are coded one after the other by the same states: the first group has one for each."""
    states = -(-count // SHARED)
    return [slice(begin, min(begin + states, count)) for begin in range(0, count, states)]


def _pushed(begins_TN: NDArray[np.uint64], sizes_TN: NDArray[np.uint64]) -> bytes:
    """rANS, the last token first: x becomes (x // size) 2^28 + x % size + begin, after words that would not fit go."""
    groups = _groups(begins_TN.shape[1])
    state = np.full(groups[0].stop, LOW)
    words: list[NDArray[np.uint32]] = []
    room, scale = np.uint64(64 - SCALE), np.uint64(SCALE)
    for begin, size in zip(begins_TN[::-1], sizes_TN[::-1], strict=True):
        for group in groups[::-1]:
            own, its = state[: group.stop - group.start], size[group]
            full = own >> room >= its
            words.append(own[full].astype(WORD))
            own[full] >>= np.uint64(32)
            own[:] = ((own // its) << scale) + own % its + begin[group]
    return state.astype(STATE).tobytes() + b"".join(part.tobytes() for part in reversed(words))


class _Popped:
    """The inverse: states from the head of the data, words from what follows."""

    def __init__(self, data: bytes, count: int) -> None:
        self.groups = _groups(count)
        states = self.groups[0].stop
        if len(data) < states * STATE.itemsize or len(data) % WORD.itemsize:
            raise StoreError(f"a block of tokens is cut: {len(data)} bytes for {states} states")
        self.state = np.frombuffer(data, STATE, states).astype(np.uint64)
        self.words = np.frombuffer(data, WORD, offset=states * STATE.itemsize)
        self.at = 0

    def pop(self, ends: Ints, shares: Ints) -> Ints:
        """The next token of each grid. ends, shares: of each grid's distribution."""
        found = np.empty(len(ends), np.int64)
        for group in self.groups:
            own, its = self.state[: group.stop - group.start], ends[group]
            slot = own & np.uint64((1 << SCALE) - 1)
            token = (its <= slot.astype(np.int64)[:, None]).sum(axis=1)
            here = np.arange(len(own))
            size = shares[group][here, token]
            begin = its[here, token] - size
            own[:] = size.astype(np.uint64) * (own >> np.uint64(SCALE)) + slot - begin.astype(np.uint64)
            self._refill(own)
            found[group] = token
        return found

    def _refill(self, own: NDArray[np.uint64]) -> None:
        empty = np.flatnonzero(own < LOW)
        taken = self.words[self.at : self.at + len(empty)]
        if len(taken) < len(empty):
            raise StoreError("a block of tokens ends early")
        self.at += len(empty)
        own[empty] = (own[empty] << np.uint64(32)) | taken

    def check(self) -> None:
        """Raises StoreError unless all words are read and the states are those that the encoder began with."""
        if self.at != len(self.words) or (self.state != LOW).any():
            raise StoreError("a block of tokens is damaged: its codes do not end where they should")
