"""Thrift's compact protocol, read only: enough of it for what Parquet says of itself.

A struct is a dict by field number, of whole numbers, structs and lists of them; texts and floats are None. Every
element takes at least a byte, so that no announced length is believed beyond the bytes that are there.
"""

from __future__ import annotations

from typing import Any

MAX_DEPTH = 12  # structs and lists within each other; Parquet has 7


def read_struct(data: bytes, at: int = 0, depth: int = 0) -> tuple[dict[int, Any], int]:
    """The struct at `at`, and where it ends. Raises IndexError (it goes on past the data), ValueError (it is none)."""
    if depth > MAX_DEPTH:
        raise ValueError(f"a Thrift struct more than {MAX_DEPTH} deep")
    fields: dict[int, Any] = {}
    field = 0
    while data[at]:
        step, kind = data[at] >> 4, data[at] & 15
        at += 1
        if not step:
            field, at = _number(data, at)
        field += step
        fields[field], at = (None, at) if kind in (1, 2) else _value(data, at, kind, depth)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (4, 5, 6):
        return _number(data, at)
    if kind == 8:
        length, at = _varint(data, at)
        return None, _within(data, at + length)
    if kind == 12:
        return read_struct(data, at, depth + 1)
    if kind in (9, 10):
        return _list(data, at, depth + 1)
    if kind == 11:
        return _map(data, at, depth + 1)
    if kind in (1, 2, 3):
        return None, _within(data, at + 1)
    if kind == 7:
        return None, _within(data, at + 8)
    raise ValueError(f"a Thrift value of kind {kind}")


def _list(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    size, kind = data[at] >> 4, data[at] & 15
    at += 1
    if size == 15:
        size, at = _varint(data, at)
    if depth > MAX_DEPTH or size > len(data) - at:
        raise ValueError(f"a Thrift list of {size} elements")
    found = []
    for _ in range(size):
        value, at = _value(data, at, kind, depth)
        found.append(value)
    return found, at


def _map(data: bytes, at: int, depth: int) -> tuple[None, int]:
    size, at = _varint(data, at)
    if depth > MAX_DEPTH or size > len(data) - at:
        raise ValueError(f"a Thrift map of {size} elements")
    if size:
        kinds = data[at]
        at += 1
        for _ in range(size):
            _, at = _value(data, at, kinds >> 4, depth)
            _, at = _value(data, at, kinds & 15, depth)
    return None, at


def _within(data: bytes, at: int) -> int:
    if at > len(data):
        raise IndexError(at)
    return at


def _number(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return value >> 1 ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a Thrift number of more than 64 bits")
