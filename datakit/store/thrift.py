"""Thrift's compact protocol, read only: enough of it for what Parquet says of itself.

A struct is a dict by field number, of whole numbers, structs and lists of them; texts and floats are None. Every
element takes at least a byte, so that no announced length is believed beyond the bytes that are there; and since a
byte may become a dict, what is kept is bounded too.
"""

from __future__ import annotations

from typing import Any

from datakit.texts import TooLarge

MAX_DEPTH = 12  # structs and lists within each other; Parquet has 7
MAX_VALUES = 2_000_000  # of all structs and lists together; a column of a row group has about 36


def read_struct(data: bytes, most: int = MAX_VALUES) -> tuple[dict[int, Any], int]:
    """The struct that `data` begin with, and where it ends.

    Raises IndexError (it goes on past the data), ValueError (it is none), TooLarge (more than `most` values).
    """
    reader = _Reader(data, most)
    return reader.struct(0), reader.at


class _Reader:
    def __init__(self, data: bytes, most: int) -> None:
        self.at = 0
        self._data, self._left = data, most

    def struct(self, depth: int) -> dict[int, Any]:
        if depth > MAX_DEPTH:
            raise ValueError(f"a Thrift struct more than {MAX_DEPTH} deep")
        fields: dict[int, Any] = {}
        field = 0
        while head := self._byte():
            step, kind = head >> 4, head & 15
            field += step or self._number()
            fields[field] = self._value(kind, depth, boolean=0)
        return fields

    def _value(self, kind: int, depth: int, boolean: int = 1) -> Any:
        """boolean: bytes that one takes; as a field it is told by its kind."""
        self._left -= 1
        if self._left < 0:
            raise TooLarge("Thrift structs and lists of too many values")
        if kind in (4, 5, 6):
            return self._number()
        if kind == 8:
            return self._skip(self._varint())
        if kind == 12:
            return self.struct(depth + 1)
        if kind in (9, 10):
            return self._list(depth + 1)
        if kind == 11:
            return self._map(depth + 1)
        if kind in (1, 2):
            return self._skip(boolean)
        if kind == 3:
            return self._skip(1)
        if kind == 7:
            return self._skip(8)
        raise ValueError(f"a Thrift value of kind {kind}")

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        size, kind = head >> 4, head & 15
        if size == 15:
            size = self._varint()
        self._check_size(size, depth, "list")
        return [self._value(kind, depth) for _ in range(size)]

    def _map(self, depth: int) -> None:
        size = self._varint()
        self._check_size(size, depth, "map")
        kinds = self._byte() if size else 0
        for _ in range(size):
            self._value(kinds >> 4, depth)
            self._value(kinds & 15, depth)

    def _check_size(self, size: int, depth: int, what: str) -> None:
        if depth > MAX_DEPTH or size > len(self._data) - self.at:
            raise ValueError(f"a Thrift {what} of {size} elements")

    def _skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self._data):
            raise IndexError(self.at)

    def _number(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a Thrift number of more than 64 bits")

    def _byte(self) -> int:
        byte = self._data[self.at]
        self.at += 1
        return byte
