"""Codecs of well-kept libraries, a whole block at once: pcodec's bins and ANS, zstd on planes.

pcodec (pcodec.org) sorts numbers into bins by their order, so ids ranked by frequency cost it 1 to 6 % less than ids
in the order that training left them (spec, 3.2); `pack` ranks them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from datakit.errors import MissingExtra, StoreError
from datakit.tokens.fixed import decode_planes, encode_planes

Tokens = NDArray[np.uint16]
Rows = NDArray[np.int64] | None

PCO_LEVEL = 8  # of 12: higher ones gain 0.1 % and cost three times the time
ZSTD_LEVEL = 9


def encode_pco(tokens_NT: Tokens, codes: int, width: int, model: bytes) -> bytes:
    pcodec = _pcodec()
    config = pcodec.ChunkConfig(compression_level=PCO_LEVEL)
    data: bytes = pcodec.standalone.simple_compress(np.ascontiguousarray(tokens_NT.reshape(-1)), config)
    return data


def decode_pco(
    data: bytes, count: int, tokens: int, codes: int, width: int, model: bytes, rows: Rows
) -> Tokens:
    pcodec = _pcodec()
    # Into an array of the size that the head says: no payload can make a reader take more.
    found = np.empty(count * tokens, np.uint16)
    try:
        progress = pcodec.standalone.simple_decompress_into(data, found)
    except (RuntimeError, ValueError, TypeError) as problem:
        raise StoreError(f"a block of tokens is damaged: pcodec says {problem}") from problem
    if progress.n_processed != len(found) or not progress.finished:
        raise StoreError(f"a block of {count} rows of {tokens} tokens holds another number of them")
    grids = found.reshape(count, tokens)
    return grids if rows is None else grids[rows]


def encode_zstd(tokens_NT: Tokens, codes: int, width: int, model: bytes) -> bytes:
    planes = encode_planes(tokens_NT, codes, width, model)
    rows = np.frombuffer(planes, np.uint8).reshape(len(tokens_NT), -1)
    # The low bytes of all rows, then the planes of all: like lies beside like, and flat parts of a picture repeat.
    low = tokens_NT.shape[1]
    parts = rows[:, :low].tobytes() + rows[:, low:].tobytes()
    data: bytes = _zstandard().ZstdCompressor(level=ZSTD_LEVEL).compress(parts)
    return data


def decode_zstd(
    data: bytes, count: int, tokens: int, codes: int, width: int, model: bytes, rows: Rows
) -> Tokens:
    zstandard = _zstandard()
    size = len(encode_planes(np.zeros((1, tokens), np.uint16), codes, width, model))
    try:
        planes = zstandard.ZstdDecompressor().decompress(data, max_output_size=max(1, size * count))
    except zstandard.ZstdError as problem:
        raise StoreError(f"a block of tokens is damaged: zstd says {problem}") from problem
    if len(planes) != size * count:
        raise StoreError(f"a block of {count} rows of {size} bytes has {len(planes)}")
    low = min(tokens, size)  # there are no bytes at all where there is one code
    parts = np.split(np.frombuffer(planes, np.uint8), [count * low])
    together = np.concatenate([parts[0].reshape(count, low), parts[1].reshape(count, size - low)], axis=1)
    return decode_planes(together.tobytes(), count, tokens, codes, width, model, rows)


def _pcodec() -> Any:
    try:
        import pcodec
        import pcodec.standalone
    except ImportError as problem:
        raise MissingExtra("the codec pco", "tokens") from problem
    return pcodec


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError as problem:
        raise MissingExtra("the codec zstd", "tokens") from problem
    return zstandard
