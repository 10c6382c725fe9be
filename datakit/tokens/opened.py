"""A token folder, read: rows at random or in order, a block at a time, each checked before it is believed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datakit.errors import ConfigError, MissingExtra, StoreError
from datakit.tokens.codec import CODEC, decode_block, read_head
from datakit.tokens.pack import (
    ABOUT,
    BLOCKS,
    CODEBOOK,
    FORMAT,
    INDEX,
    MODEL,
    OWN,
    ROWS,
    STATS,
    SYNONYMS,
    VERSION,
    sealed,
)

Tokens = NDArray[np.uint16]
Numbers = Sequence[int] | NDArray[np.integer[Any]]

KEPT = 64 << 20  # bytes of decoded blocks that are kept
FEW = 8  # of a block's rows, a share of 1/8 is decoded alone where the codec can
CHUNK = 1 << 20  # bytes
_UNREADABLE = (OSError, ValueError, pa.ArrowException)


def open_tokens(folder: str | os.PathLike[str]) -> TokenSet:
    """The token folder. Raises StoreError naming the file that is missing, damaged or of another folder."""
    return TokenSet(Path(folder))


class TokenSet:
    """Packed tokens, by row number: `len`, `rows`, `read`. Goes to other processes by its folder; threads may share it.

    rows: a table with key, label (where there is one), view, block, row, and crop_y … flip where views differ.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            raw = (folder / ABOUT).read_bytes()
        except OSError as problem:
            raise StoreError(
                f"{folder} is no token folder: {ABOUT} cannot be read: {problem.strerror}"
            ) from problem
        self.digest = hashlib.sha256(raw).hexdigest()
        self._about = _checked(raw, folder)
        self.files: dict[str, int] = {name: noted["bytes"] for name, noted in self._about["files"].items()}
        for name in (BLOCKS, INDEX, ROWS, CODEBOOK, STATS):
            if name not in self.files:
                raise StoreError(f"{folder / ABOUT} lists no {name}")
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Tokens] = OrderedDict()
        self._handle: tuple[int, int] | None = None  # process, descriptor: not shared over a fork

    def __reduce__(self) -> tuple[Any, ...]:
        return (TokenSet, (self.folder,))

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle is not None and handle[0] == os.getpid():
            os.close(handle[1])

    def __len__(self) -> int:
        return int(self._about["count"])

    @property
    def codec(self) -> str:
        return str(self._about["codec"])

    @property
    def codes(self) -> int:
        """How many packed ids there are."""
        return int(self._about["codes"])

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w)."""
        height, width = self._about["grid"]
        return int(height), int(width)

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self._about["class_names"])

    @property
    def about(self) -> dict[str, Any]:
        """How the tokens were made: tokenizer, size, fit, views, images, source_bytes, licences, made_codes."""
        return dict(self._about["about"])

    @cached_property
    def stats(self) -> dict[str, Any]:
        """As `token_stats` gives it."""
        found: dict[str, Any] = json.loads(self.file(STATS))
        return found

    @cached_property
    def rows(self) -> pa.Table:
        return _table(self.file(ROWS), self.folder / ROWS, len(self))

    @cached_property
    def _tensors(self) -> dict[str, NDArray[Any]]:
        try:
            import safetensors.numpy
        except ImportError as problem:
            raise MissingExtra("packed tokens", "tokens") from problem
        found: dict[str, NDArray[Any]] = safetensors.numpy.load(self.file(CODEBOOK))
        return found

    @property
    def rank(self) -> NDArray[np.uint16]:
        """uint16 (K,): the tokenizer's own code of each packed id."""
        return self._tensors["rank"]

    @cached_property
    def codebook(self) -> NDArray[np.float32] | None:
        """float32 (K, d) of the packed ids, kept as float16; None where the folder has none."""
        found = self._tensors.get("codebook")
        return None if found is None else found.astype(np.float32)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The codebook, which training wants. Raises ConfigError where the folder has none."""
        if self.codebook is None:
            raise ConfigError(f"{self.folder} has no codebook: there is nothing to embed its tokens by")
        return self.codebook

    @cached_property
    def synonyms(self) -> NDArray[np.uint16] | None:
        """uint16 (K, 5): packed ids of the nearest codes; None without a codebook."""
        if SYNONYMS not in self.files:
            return None
        found: NDArray[np.uint16] = np.load(io.BytesIO(self.file(SYNONYMS)), allow_pickle=False)
        return found

    def extra(self) -> dict[str, bytes]:
        """The folder's other files, as the tokenizer's two."""
        return {name: self.file(name) for name in self.files if name not in OWN}

    def originals(self, tokens: Tokens) -> Tokens:
        """The tokenizer's own codes, for packed ids of any shape."""
        return self.rank[tokens]

    def read(self, numbers: Numbers) -> Tokens:
        """uint16 (n, h, w) of the rows with these numbers, in any order, of packed ids. Only their blocks are read.

        Raises ConfigError for a number that there is not, StoreError for a damaged block.
        """
        wanted = np.asarray(numbers, np.int64).reshape(-1)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise ConfigError(f"rows go from 0 to {len(self) - 1}; {int(wanted.max())} is not there")
        found = np.empty((len(wanted), *self.grid), np.uint16)
        blocks, rows = np.divmod(wanted, int(self._about["per_block"]))
        order = np.argsort(blocks, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(blocks[order])) + 1, len(order))
        for begin, end in zip(np.append(0, ends[:-1]), ends, strict=True):
            if end > begin:
                places = order[begin:end]
                found[places] = self._of_block(int(blocks[places[0]]), rows[places])
        return found

    def _of_block(self, number: int, rows: NDArray[np.int64]) -> Tokens:
        with self._lock:
            kept = self._kept.get(number)
            if kept is not None:
                self._kept.move_to_end(number)
        if kept is not None:
            return kept[rows]
        if CODEC[self.codec].alone and len(rows) * FEW < int(self._index[2][number]):
            return self._decoded(number, rows)
        whole = self._decoded(number, None)
        with self._lock:
            self._kept[number] = whole
            while len(self._kept) > max(1, KEPT // max(1, whole.nbytes)):
                self._kept.popitem(last=False)
        return whole[rows]

    def _decoded(self, number: int, rows: NDArray[np.int64] | None) -> Tokens:
        offset, size, count = (int(column[number]) for column in self._index)
        name = f"{self.folder / BLOCKS}, block {number}"
        data = os.pread(self._descriptor(), size, offset)
        try:
            head = read_head(data)
            if (head.count, head.grid, head.codes, head.codec) != (count, self.grid, self.codes, self.codec):
                raise StoreError(
                    f"it holds {head.count} grids of {head.grid}, by {head.codec}: another block"
                )
            return decode_block(data, model=self._model, rows=rows)
        except StoreError as problem:
            raise StoreError(f"{name}: {problem}") from problem

    def _descriptor(self) -> int:
        with self._lock:
            if self._handle is None or self._handle[0] != os.getpid():
                try:
                    self._handle = (os.getpid(), os.open(self.folder / BLOCKS, os.O_RDONLY | os.O_CLOEXEC))
                except OSError as problem:
                    raise StoreError(
                        f"{self.folder / BLOCKS} cannot be read: {problem.strerror}"
                    ) from problem
            return self._handle[1]

    @cached_property
    def _model(self) -> bytes:
        return self.file(MODEL) if MODEL in self.files else b""

    @cached_property
    def _index(self) -> tuple[NDArray[np.int64], ...]:
        """(offset, bytes, rows) of each block."""
        table = _table(self.file(INDEX), self.folder / INDEX, None)
        try:
            offset, size, rows = (np.asarray(table[name], np.int64) for name in ("offset", "bytes", "rows"))
        except (*_UNREADABLE, KeyError) as problem:
            raise StoreError(f"{self.folder / INDEX} is no list of blocks: {problem}") from problem
        ends = offset + size
        fits = len(rows) and rows.sum() == len(self) and (rows[:-1] == self._about["per_block"]).all()
        if not fits or offset[0] or (offset[1:] != ends[:-1]).any() or ends[-1] != self.files[BLOCKS]:
            raise StoreError(f"{self.folder / INDEX} is not the list of the blocks in {BLOCKS}")
        return offset, size, rows

    def file(self, name: str) -> bytes:
        """A file's bytes, those that were written. Raises StoreError naming it."""
        path, noted = self.folder / name, self._about["files"][name]
        try:
            data = path.read_bytes()
        except OSError as problem:
            raise StoreError(f"{path} cannot be read: {problem.strerror}") from problem
        if len(data) != noted["bytes"] or hashlib.sha256(data).hexdigest() != noted["sha256"]:
            raise StoreError(f"{path}: its sha256 is not the one written")
        return data

    def verify(self) -> list[str]:
        """Every problem in a sentence that names the file: all digests, every block decoded, rows against blocks."""
        found = [problem for name in sorted(self.files) if (problem := self._differs(name))]
        if found:
            return found
        try:
            blocks = np.repeat(np.arange(len(self._index[2])), self._index[2])
            rows = np.arange(len(self)) - np.repeat(
                np.cumsum(self._index[2]) - self._index[2], self._index[2]
            )
            table = self.rows
            if (np.asarray(table["block"]) != blocks).any() or (np.asarray(table["row"]) != rows).any():
                found.append(f"{ROWS}: its rows are not those of {BLOCKS}")
            if len(self.rank) != self.codes or (
                self.codebook is not None and len(self.codebook) != self.codes
            ):
                found.append(f"{CODEBOOK}: {len(self.rank)} codes, not {self.codes}")
            for number in range(len(self._index[2])):
                self._decoded(number, None)
        except (StoreError, KeyError, *_UNREADABLE) as problem:
            found.append(str(problem))
        return found

    def _differs(self, name: str) -> str:
        """A sentence where the file is not the one written; it is never held whole."""
        noted, digest, size = self._about["files"][name], hashlib.sha256(), 0
        try:
            with (self.folder / name).open("rb") as file:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
        except OSError as problem:
            return f"{name} cannot be read: {problem.strerror}"
        if size != noted["bytes"] or digest.hexdigest() != noted["sha256"]:
            return f"{name}: {size} bytes that are not the {noted['bytes']} written"
        return ""


def _checked(raw: bytes, folder: Path) -> Mapping[str, Any]:
    """What tokens.json says, of the types that it must have."""
    try:
        found = json.loads(raw)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f"it does not say that it is of {FORMAT}")
        found.pop("sha256", None)
        if sealed(found) != raw:
            raise ValueError("its own sha256 is not the one written")
        if found["version"] != VERSION:
            raise ValueError(f"it is of version {found['version']}; this datakit reads {VERSION}")
        height, width = found["grid"]
        numbers = [found["count"], found["codes"], found["per_block"], height, width]
        if not all(type(value) is int and value > 0 for value in numbers) or found["codec"] not in CODEC:
            raise ValueError("its numbers or its codec cannot be")
        for name, noted in found["files"].items():
            if Path(name).name != name or name in ("", ".", "..") or type(noted["bytes"]) is not int:
                raise ValueError(f"it lists {name!r}")
        if not isinstance(found["about"], dict) or not isinstance(found["class_names"], list):
            raise ValueError("its about or class_names cannot be")
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise StoreError(f"{folder / ABOUT} describes no token folder: {problem}") from problem
    return dict(found)


def _table(data: bytes, path: Path, count: int | None) -> pa.Table:
    try:
        table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
        table.validate(full=True)
    except _UNREADABLE as problem:
        raise StoreError(f"{path} cannot be read: {problem}") from problem
    if count is not None and table.num_rows != count:
        raise StoreError(f"{path} has {table.num_rows} rows for {count} grids")
    return table.combine_chunks()
