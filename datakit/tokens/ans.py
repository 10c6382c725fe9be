"""Each row by itself at the entropy of how often codes come, over the whole set: ANS (Duda 2009) by `constriction`.

The coder begins from a word that holds a row's last tokens as one number, since a state that begins from nothing wastes
two bytes; and rows end at a byte, not at a word. So a row costs its entropy, some bits, and about a byte that tells its
length: within 4 bytes of the order-0 entropy, and it is read without the rows beside it.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datakit.errors import ConfigError, MissingExtra, StoreError
from datakit.tokens.stats import counts_of

Tokens = NDArray[np.uint16]
Rows = NDArray[np.int64] | None

FULL = 65_535  # the weight of the most frequent code in the model's table
LENGTH = np.dtype("<u4")
WORD = np.dtype("<u4")


def fit(tokens_NHW: Tokens, codes: int) -> bytes:
    """A weight of 0 to 65,535 for each code that comes, at least 1; uint16, deflated."""
    counts = counts_of(tokens_NHW, codes)
    scaled = -(-counts * FULL // max(1, int(counts.max())))
    return zlib.compress(np.where(counts > 0, np.maximum(1, scaled), 0).astype("<u2").tobytes(), 9)


def encode(tokens_NT: Tokens, codes: int, width: int, model: bytes) -> bytes:
    """The lengths of rows in bytes, packed at as many bits as they need, then the rows. Raises ConfigError for a code
    that the model never saw.
    """
    weights, categorical = _model(model, codes)
    if (unseen := weights[tokens_NT] == 0).any():
        raise ConfigError(f"the code {int(tokens_NT[unseen][0])} is not in the model: fit it on all tokens")
    tail = _tail(codes, tokens_NT.shape[1])
    rows = [_coded(row, codes, tail, categorical) for row in tokens_NT.astype(np.int32)]
    return _lengths(np.array([len(row) for row in rows], np.int64)) + b"".join(rows)


def decode(data: bytes, count: int, tokens: int, codes: int, width: int, model: bytes, rows: Rows) -> Tokens:
    _, categorical = _model(model, codes)
    lengths, begin = _read_lengths(data, count)
    ends = begin + np.cumsum(lengths)
    if ends[-1] != len(data):
        raise StoreError(f"a block of {int(ends[-1])} bytes has {len(data)}")
    chosen = range(count) if rows is None else rows.tolist()
    found = np.empty((len(chosen), tokens), np.uint16)
    tail = _tail(codes, tokens)
    for at, row in enumerate(chosen):
        found[at] = _read(data[ends[row] - lengths[row] : ends[row]], tokens, codes, tail, categorical)
    return found


def _tail(codes: int, tokens: int) -> int:
    """How many of a row's last tokens lie in the word that the coder begins from; its highest bit is set."""
    tail = 1
    while codes ** (tail + 1) <= 1 << 31 and tail < 31:
        tail += 1
    return min(tail, tokens)


def _coded(row: NDArray[np.int32], codes: int, tail: int, categorical: Any) -> bytes:
    first = 0
    for token in row[len(row) - tail :].tolist():
        first = first * codes + token
    coder = _constriction().stream.stack.AnsCoder(np.array([1 << 31 | first], np.uint32))
    coder.encode_reverse(row[: len(row) - tail], categorical)
    # The last word is the top of the state and never 0; its empty bytes are not kept.
    return bytes(coder.get_compressed().astype(WORD).tobytes().rstrip(b"\0"))


def _read(data: bytes, tokens: int, codes: int, tail: int, categorical: Any) -> NDArray[np.int64]:
    words = np.frombuffer(data.ljust(-(-len(data) // 4) * 4, b"\0"), WORD).astype(np.uint32)
    if not len(words) or not words[-1]:
        raise StoreError("a row of tokens is damaged: it ends in nothing")
    coder = _constriction().stream.stack.AnsCoder(words)
    found = np.empty(tokens, np.int64)
    found[: tokens - tail] = coder.decode(categorical, tokens - tail)
    left = coder.get_compressed()
    first = int(left[0]) - (1 << 31) if len(left) == 1 else -1
    if not 0 <= first < codes**tail:
        raise StoreError("a row of tokens is damaged: its codes do not end where they should")
    for at in range(tokens - 1, tokens - tail - 1, -1):
        first, found[at] = divmod(first, codes)
    return found


def _lengths(lengths: NDArray[np.int64]) -> bytes:
    least = int(lengths.min())
    bits = int(lengths.max() - least).bit_length()
    spread = ((lengths - least)[:, None] >> np.arange(bits)) & 1
    return np.array([least, bits], LENGTH).tobytes() + np.packbits(spread.astype(np.uint8)).tobytes()


def _read_lengths(data: bytes, count: int) -> tuple[NDArray[np.int64], int]:
    """(bytes of each row, where the rows begin)."""
    if len(data) < 2 * LENGTH.itemsize:
        raise StoreError(f"a block of tokens is cut: {len(data)} bytes")
    least, bits = np.frombuffer(data, LENGTH, 2).tolist()
    size = -(-count * bits // 8)
    begin = 2 * LENGTH.itemsize + size
    if bits > 32 or begin > len(data):
        raise StoreError(f"a block of tokens is cut: {len(data)} bytes for {count} rows")
    raw = np.frombuffer(data, np.uint8, size, 2 * LENGTH.itemsize)
    spread = np.unpackbits(raw, count=count * bits).reshape(count, bits).astype(np.int64)
    return least + (spread << np.arange(bits)).sum(axis=1), begin


@lru_cache(4)
def _model(model: bytes, codes: int) -> tuple[NDArray[np.int64], Any]:
    """(weight of each code, constriction's model of them)."""
    try:
        raw = zlib.decompressobj().decompress(model, 2 * codes + 1)
    except zlib.error as problem:
        raise StoreError(f"the model of the codec ans is damaged: {problem}") from problem
    if len(raw) != 2 * codes:
        raise StoreError(f"the model of the codec ans is of {len(raw) // 2} codes, not {codes}")
    weights = np.frombuffer(raw, "<u2").astype(np.int64)
    # One code has no second to choose from: constriction wants two.
    shares = np.append(weights, 0.0) if codes == 1 else weights.astype(np.float64)
    if not shares.any():
        raise StoreError("the model of the codec ans has no code")
    return weights, _constriction().stream.model.Categorical(shares / shares.sum(), perfect=False)


def _constriction() -> Any:
    try:
        import constriction
    except ImportError as problem:
        raise MissingExtra("the codec ans", "tokens") from problem
    return constriction
