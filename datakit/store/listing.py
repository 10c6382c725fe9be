"""A scanned catalog on disk: what a plan stands on, and what its first step reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from datakit.catalog import Catalog
from datakit.recipe import CatalogUse
from datakit.store.rows import read_table

PROBLEMS = pa.schema(
    [("name", pa.string()), ("reason", pa.string()), ("detail", pa.string()), ("dropped", pa.bool_())]
)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A scanned catalog: `<folder>/<checksum>.arrow` and `.problems.arrow`. `root` is where `@<token>` points."""

    use: CatalogUse
    catalog: Catalog
    checksum: str
    root: str
    folder: Path
    samples: int
    # Of each file of images, its size and time before it was read; where it was scanned, and nowhere else.
    stamps: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def path(self) -> Path:
        return self.folder / f"{self.checksum}.arrow"

    @property
    def problems(self) -> Path:
        return self.folder / f"{self.checksum}.problems.arrow"

    @property
    def token(self) -> str:
        return f"@{self.checksum[:16]}"

    def inputs(self) -> int:
        """Every entry that the reader found, usable or not."""
        return self.samples + int(read_table(self.problems).num_rows)

    def shards(self) -> int:
        return max(1, -(-self.samples // self.catalog.per_shard))
