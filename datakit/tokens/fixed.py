"""Codecs of fixed width: a row's bytes lie where arithmetic says, so any row is read alone.

bits    ceil(log2 K) bits a token, one after the other
planes  a byte of low bits a token, then each higher bit as a plane: the same size, and much faster to read
radix   groups of g tokens as one number of base K: for K = 391 8.62 bits a token, where bits take 9
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from datakit.errors import StoreError

Tokens = NDArray[np.uint16]
Rows = NDArray[np.int64] | None

MOST = 64  # tokens a group of radix, at most
LIMB = 16  # bits of the digits that radix computes with, in uint64


def bits_of(codes: int) -> int:
    """Bits of a token; none where there is one code."""
    return int(codes - 1).bit_length()


def encode_bits(tokens_NT: Tokens, codes: int, width: int, model: bytes) -> bytes:
    bits = bits_of(codes)
    shifts = np.arange(bits - 1, -1, -1, dtype=np.uint16)
    spread = ((tokens_NT[:, :, None] >> shifts) & np.uint16(1)).astype(np.uint8)
    return np.packbits(spread.reshape(len(tokens_NT), -1), axis=1).tobytes()


def decode_bits(
    data: bytes, count: int, tokens: int, codes: int, width: int, model: bytes, rows: Rows
) -> Tokens:
    bits = bits_of(codes)
    raw = _rows(data, count, -(-tokens * bits // 8), rows)
    spread = np.unpackbits(raw, axis=1, count=tokens * bits).reshape(len(raw), tokens, bits)
    found = np.zeros((len(raw), tokens), np.uint16)
    for at in range(bits):
        found |= spread[:, :, at].astype(np.uint16) << np.uint16(bits - 1 - at)
    return found


def encode_planes(tokens_NT: Tokens, codes: int, width: int, model: bytes) -> bytes:
    bits, count = bits_of(codes), len(tokens_NT)
    parts = [(tokens_NT & np.uint16(255)).astype(np.uint8)] if bits else []
    for at in range(8, bits):
        parts.append(np.packbits(((tokens_NT >> np.uint16(at)) & np.uint16(1)).astype(np.uint8), axis=1))
    return np.concatenate([np.empty((count, 0), np.uint8), *parts], axis=1).tobytes()


def decode_planes(
    data: bytes, count: int, tokens: int, codes: int, width: int, model: bytes, rows: Rows
) -> Tokens:
    bits, plane = bits_of(codes), -(-tokens // 8)
    low = tokens if bits else 0
    raw = _rows(data, count, low + plane * max(0, bits - 8), rows)
    if not bits:
        return np.zeros((len(raw), tokens), np.uint16)
    # The two bytes of a token are written where they belong: no arithmetic on 16 bits.
    found = np.zeros((len(raw), tokens, 2), np.uint8)
    found[:, :, 0] = raw[:, :tokens]
    for at in range(8, bits):
        begin = tokens + plane * (at - 8)
        plane_NT = np.unpackbits(raw[:, begin : begin + plane], axis=1, count=tokens)
        if at == 8:
            found[:, :, 1] = plane_NT
        else:
            found[:, :, 1] |= plane_NT << np.uint8(at - 8)
    return found.view("<u2")[:, :, 0].astype(np.uint16, copy=False)


@cache
def group_of(codes: int) -> tuple[int, int]:
    """(tokens a group, bytes a group) that take the fewest bits a token."""
    codes = max(2, codes)  # one code would take no byte, and no byte can be cut into rows
    sizes = [(-(-((codes**group - 1).bit_length()) // 8), group) for group in range(1, MOST + 1)]
    size, group = min(sizes, key=lambda pair: (pair[0] / pair[1], pair[1]))
    return group, size


def encode_radix(tokens_NT: Tokens, codes: int, width: int, model: bytes) -> bytes:
    group, size = group_of(codes)
    count, tokens = tokens_NT.shape
    groups = -(-tokens // group)
    digits = np.zeros((count, groups * group), np.uint64)
    digits[:, :tokens] = tokens_NT
    digits = digits.reshape(count * groups, group)
    limbs = np.zeros((-(-8 * size // LIMB), len(digits)), np.uint64)
    mask, shift, base = np.uint64((1 << LIMB) - 1), np.uint64(LIMB), np.uint64(codes)
    for at in range(group):  # Horner's rule, with carries
        carry = digits[:, at].copy()
        for limb in limbs:
            carry += limb * base
            limb[:] = carry & mask
            carry >>= shift
    raw = np.ascontiguousarray(limbs.T.astype("<u2")).view(np.uint8)
    return raw.reshape(len(digits), -1)[:, :size].tobytes()


def decode_radix(
    data: bytes, count: int, tokens: int, codes: int, width: int, model: bytes, rows: Rows
) -> Tokens:
    group, size = group_of(codes)
    groups = -(-tokens // group)
    raw = _rows(data, count, groups * size, rows)
    padded = np.zeros((len(raw) * groups, -(-size // 2) * 2), np.uint8)
    padded[:, :size] = raw.reshape(-1, size)
    limbs = np.ascontiguousarray(padded.view("<u2").T.astype(np.uint64))
    found = np.empty((group, limbs.shape[1]), np.uint16)
    shift, base = np.uint64(LIMB), np.uint64(codes)
    for at in range(group - 1, -1, -1):  # long division, the last token first
        rest = np.zeros(limbs.shape[1], np.uint64)
        for limb in limbs[::-1]:
            rest = (rest << shift) | limb
            limb[:] = rest // base
            rest -= limb * base
        found[at] = rest
    return np.ascontiguousarray(found.T).reshape(len(raw), groups * group)[:, :tokens]


def _rows(data: bytes, count: int, size: int, rows: Rows) -> NDArray[np.uint8]:
    """uint8 (n, size) of the rows asked for."""
    if len(data) != count * size:
        raise StoreError(f"a block of {count} rows of {size} bytes has {len(data)}")
    raw = np.frombuffer(data, np.uint8).reshape(count, size)
    return raw if rows is None else raw[rows]
