"""Blocks of token grids as bytes: one frame around seven codecs, checked before a byte of it is believed.

A frame is a head of 44 bytes and a payload. The head has the codec, the shape, the number of codes, the CRC32 of the
payload, of the model that it was coded with, of the tokens, and of itself: a block that is cut, flipped, read with
another model, or by a library that rounds otherwise is refused, never read otherwise.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datakit.errors import ConfigError, StoreError, did_you_mean
from datakit.tokens import ans, context, fixed, packed

Tokens = NDArray[np.uint16]

MAGIC = b"DKtk"
# magic, version, codec, h, w, 0, N, codes, bytes of the payload; CRC32 of payload, of model, of the tokens themselves
HEAD = struct.Struct("<4sBBHHHIIIIII")
CRC = struct.Struct("<I")  # of the head
SIZE = HEAD.size + CRC.size  # bytes
VERSION = 1
MAX_CODES = 65_536
MAX_TOKENS = 1 << 28  # of a block: half a gigabyte decoded; no head can make a reader take more


@dataclass(frozen=True, kw_only=True)
class Codec:
    """encode(tokens (N, T), codes, width, model) → bytes; decode(bytes, N, T, codes, width, model, rows) → (n, T).

    fit: what it learns over a whole set, with which every block is coded; None: nothing. width: tokens a grid's row.
    alone: whether a row is decoded without the others of its block.
    """

    number: int
    encode: Callable[[Tokens, int, int, bytes], bytes]
    decode: Callable[[bytes, int, int, int, int, bytes, NDArray[np.int64] | None], Tokens]
    fit: Callable[[Tokens, int], bytes] | None = None
    alone: bool = False


CODEC: dict[str, Codec] = {
    "bits": Codec(number=1, encode=fixed.encode_bits, decode=fixed.decode_bits, alone=True),
    "planes": Codec(number=2, encode=fixed.encode_planes, decode=fixed.decode_planes, alone=True),
    "radix": Codec(number=3, encode=fixed.encode_radix, decode=fixed.decode_radix, alone=True),
    "pco": Codec(number=4, encode=packed.encode_pco, decode=packed.decode_pco),
    "ans": Codec(number=5, encode=ans.encode, decode=ans.decode, fit=ans.fit, alone=True),
    "zstd": Codec(number=6, encode=packed.encode_zstd, decode=packed.decode_zstd),
    "context": Codec(number=7, encode=context.encode, decode=context.decode),
}
CODECS = tuple(CODEC)
_NAME = {codec.number: name for name, codec in CODEC.items()}


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a block says of itself."""

    codec: str
    count: int
    grid: tuple[int, int]
    codes: int
    size: int  # bytes of the payload
    crc: int
    model_crc: int
    tokens_crc: int


def codec_of(name: str) -> Codec:
    """Raises ConfigError for a name that there is not."""
    if name not in CODEC:
        raise ConfigError(f"no codec {name}{did_you_mean(name, CODECS)}; there are {', '.join(CODECS)}")
    return CODEC[name]


def fit_model(tokens_NHW: Tokens, *, codec: str, codes: int) -> bytes:
    """What the codec learns over all tokens, to be given to every block's coding; empty for one that learns nothing."""
    found = codec_of(codec)
    _check(tokens_NHW, codes)
    return found.fit(tokens_NHW, codes) if found.fit else b""


def encode_block(tokens_NHW: Tokens, *, codec: str, codes: int, model: bytes = b"") -> bytes:
    """The framed block of uint16 (N, h, w), all below `codes`, which is at most 65,536. Raises ConfigError."""
    found = codec_of(codec)
    _check(tokens_NHW, codes)
    count, height, width = tokens_NHW.shape
    if not count or not tokens_NHW.size:
        raise ConfigError("a block of no tokens: there is nothing to store")
    if tokens_NHW.size > MAX_TOKENS:
        raise ConfigError(
            f"a block of {tokens_NHW.size} tokens; {MAX_TOKENS} at most: take fewer images a block"
        )
    payload = found.encode(tokens_NHW.reshape(count, -1), codes, width, model)
    head = HEAD.pack(MAGIC, VERSION, found.number, height, width, 0, count, codes, len(payload),
                     zlib.crc32(payload), zlib.crc32(model), _crc(tokens_NHW))  # fmt: skip
    return head + CRC.pack(zlib.crc32(head)) + payload


def decode_block(
    data: bytes, *, model: bytes = b"", rows: Sequence[int] | NDArray[np.int64] | None = None
) -> Tokens:
    """uint16 (n, h, w): of the rows asked for, in their order (None: all). Raises StoreError for a damaged block."""
    head = read_head(data)
    payload = memoryview(data)[SIZE:]
    if len(payload) != head.size or zlib.crc32(payload) != head.crc:
        raise StoreError(
            f"a block of tokens is damaged: {len(payload)} bytes that are not the {head.size} written"
        )
    if zlib.crc32(model) != head.model_crc:
        raise StoreError(
            "a block of tokens was coded with another model: model.bin is not the one it was written with"
        )
    chosen = None if rows is None else np.asarray(rows, np.int64)
    if chosen is not None and len(chosen) and not 0 <= chosen.min() <= chosen.max() < head.count:
        raise ConfigError(f"a block of {head.count} rows has no row {int(chosen.max())}")
    tokens = head.grid[0] * head.grid[1]
    found = CODEC[head.codec].decode(
        bytes(payload), head.count, tokens, head.codes, head.grid[1], model, chosen
    )
    if found.size and int(found.max()) >= head.codes:
        raise StoreError(f"a block of tokens holds the code {int(found.max())}, and there are {head.codes}")
    if chosen is None and _crc(found) != head.tokens_crc:
        raise StoreError(
            "a block of tokens was decoded to others than it was made of: another version of a library?"
        )
    return found.reshape(-1, *head.grid)


def read_head(data: bytes | memoryview) -> Head:
    """Raises StoreError where the first 44 bytes are no head of a block, or of a version that is not known."""
    if len(data) < SIZE:
        raise StoreError(f"a block of tokens is cut: {len(data)} bytes, its head alone has {SIZE}")
    raw = bytes(data[: HEAD.size])
    if CRC.unpack_from(data, HEAD.size)[0] != zlib.crc32(raw):
        raise StoreError("a block of tokens is damaged: its head is not the one written")
    magic, version, number, height, width, _, count, codes, size, crc, model_crc, tokens_crc = HEAD.unpack(
        raw
    )
    if magic != MAGIC or version != VERSION or number not in _NAME:
        raise StoreError(f"no block of tokens that this datakit reads: {raw[:6]!r}")
    if not 0 < count * height * width <= MAX_TOKENS or not 0 < codes <= MAX_CODES:
        raise StoreError(f"a block of {count} x {height} x {width} tokens of {codes} codes cannot be")
    return Head(codec=_NAME[number], count=count, grid=(height, width), codes=codes, size=size, crc=crc,
                model_crc=model_crc, tokens_crc=tokens_crc)  # fmt: skip


def _crc(tokens: Tokens) -> int:
    return zlib.crc32(np.ascontiguousarray(tokens, "<u2").data)


def _check(tokens_NHW: Tokens, codes: int) -> None:
    if tokens_NHW.dtype != np.uint16 or tokens_NHW.ndim != 3:
        raise ConfigError(f"tokens are uint16 (N, h, w), not {tokens_NHW.dtype} of {tokens_NHW.ndim} axes")
    if max(tokens_NHW.shape[1:]) > 65_535:
        raise ConfigError(f"a grid of {tokens_NHW.shape[1]} x {tokens_NHW.shape[2]}: 65,535 a side at most")
    if not 1 <= codes <= MAX_CODES:
        raise ConfigError(f"codes={codes}: tokens are uint16, which counts 1 to {MAX_CODES}")
    if tokens_NHW.size and int(tokens_NHW.max()) >= codes:
        raise ConfigError(f"the code {int(tokens_NHW.max())} is among the tokens, and there are {codes}")
