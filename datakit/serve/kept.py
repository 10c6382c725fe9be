"""What was made once and may be asked for again, the longest unused given up first; any thread may ask."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from datakit.errors import ConfigError

T = TypeVar("T")
UPLOADS = 256  # pictures that were asked with and are still known
UPLOADED = 256 << 20  # bytes of them


class Kept:
    """At most `most` things by name. What several ask for at once is made once; others do not wait for it."""

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.Lock()
        self._cells: OrderedDict[Hashable, _Cell] = OrderedDict()

    def get(self, name: Hashable, make: Callable[[], T]) -> T:
        with self._lock:
            cell = self._cells.setdefault(name, _Cell())
            self._cells.move_to_end(name)
            while len(self._cells) > self._most:
                self._cells.popitem(last=False)
        with cell.lock:
            if not cell.made:
                cell.value, cell.made = make(), True
            found: T = cell.value
            return found


class _Cell:
    def __init__(self) -> None:
        self.lock, self.made = threading.Lock(), False
        self.value: Any = None


class Uploads:
    """Pictures that were asked with, by a name nobody can guess; the oldest are forgotten."""

    def __init__(self, most: int = UPLOADS, size: int = UPLOADED) -> None:
        self._most, self._size = most, size
        self._lock = threading.Lock()
        self._images: OrderedDict[str, bytes] = OrderedDict()
        self._used = 0

    def keep(self, image: bytes) -> str:
        name = secrets.token_urlsafe(12)
        with self._lock:
            self._images[name] = image
            self._used += len(image)
            while len(self._images) > 1 and (len(self._images) > self._most or self._used > self._size):
                self._used -= len(self._images.popitem(last=False)[1])
        return name

    def get(self, name: str) -> bytes:
        with self._lock:
            if name not in self._images:
                raise ConfigError("that picture is not known any more: choose it again")
            return self._images[name]
