"""Sidecars against the store that they lie beside: of this store, whole, a row for each sample and no other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datakit.errors import ConfigError, StoreError
from datakit.store.contents import Contents
from datakit.store.files import LocalFiles
from datakit.store.metadata import KEY
from datakit.store.owned import OURS
from datakit.store.reader import Store
from datakit.store.sidecar import MARK, open_sidecar
from datakit.store.verify_shard import Problem

_FORMS = (".arrow", ".parquet")


def sidecars_in(root: Path, contents: Contents) -> Iterator[Path]:
    """The files in the tree that say whose sidecar they are; no part of the store, so its manifest has none."""
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if (
            path.suffix in _FORMS
            and parts[0] != OURS
            and "/".join(parts) not in contents.files
            and _is_marked(path)
        ):
            yield path


def _is_marked(path: Path) -> bool:
    try:
        if path.suffix == ".parquet":
            schema = pq.read_schema(path)
        else:
            with pa.memory_map(str(path)) as source:
                schema = pa.ipc.open_file(source).schema
    except (OSError, pa.ArrowException):
        return False
    return MARK in (schema.metadata or {})


def compare_sidecars(
    root: Path, contents: Contents, keys: Mapping[str, pa.ChunkedArray], paths: Iterable[Path]
) -> Iterator[Problem]:
    """keys: of each shard's metadata, by path; where some could not be read, only whose the sidecar is is compared."""
    known = pa.chunked_array([chunk for column in keys.values() for chunk in column.chunks], pa.string())
    store = Store(LocalFiles(root), contents)
    for path in paths:
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
        try:
            sidecar = open_sidecar(path, known, store, columns=[KEY], partial=True)
        except (StoreError, ConfigError) as problem:
            yield Problem(file=name, reason="pairing", detail=str(problem))
            continue
        if len(keys) < len(contents.entries):
            continue
        listed = sidecar.table[KEY].cast(pa.string())
        strange = listed.filter(pc.invert(pc.is_in(listed, value_set=known)))
        if len(strange):
            detail = f"{len(strange)} of its rows are of no sample of this store"
            yield Problem(file=name, reason="pairing", detail=detail, key=str(strange[0]))
        missing = np.flatnonzero(sidecar.rows < 0)
        if missing.size:
            detail = f"{missing.size} of {len(known)} samples have no row"
            yield Problem(file=name, reason="pairing", detail=detail, key=str(known[int(missing[0])]))
