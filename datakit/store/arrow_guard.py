"""Arrow files of others, each batch looked through before anybody uses it.

Arrow believes an IPC file's offsets: a damaged one reads beyond its buffers, wherever and whenever it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from datakit.errors import StoreError


def sound_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The batches of an IPC stream or file, fully validated. Raises StoreError naming the file."""
    try:
        with pa.memory_map(str(path)) as source:
            yield from _validated(source)
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as problem:
        raise StoreError(f"{path} is not a sound Arrow file: {problem}") from problem


def _validated(source: Any) -> Iterator[pa.RecordBatch]:
    if source.read(6) == b"ARROW1":
        with pa.ipc.open_file(source) as file:
            for index in range(file.num_record_batches):
                batch = file.get_batch(index)
                batch.validate(full=True)
                yield batch
        return
    source.seek(0)
    with pa.ipc.open_stream(source) as stream:
        for batch in stream:
            batch.validate(full=True)
            yield batch
