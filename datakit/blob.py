"""Bytes at rest: a range of a file, named but not read."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Blob:
    """`size` bytes of the file `path` from `offset` on."""

    path: str
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes; OSError if the file is gone, EOFError if it is shorter than it was."""
        data = self.head(self.size)
        if len(data) != self.size:
            raise EOFError(f"{self.path} ends {self.size - len(data)} bytes early")
        return data

    def head(self, size: int) -> bytes:
        """The first `size` bytes, or as many as there are; OSError if the file is gone."""
        descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            return os.pread(descriptor, min(size, self.size), self.offset)
        finally:
            os.close(descriptor)
