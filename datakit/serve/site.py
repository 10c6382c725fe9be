"""What all answers of a server share: the catalogue, pictures asked with, counts, threads, and what was made before."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from datakit.errors import ConfigError, DatakitError, StoreError
from datakit.index.catalogue import Catalogue
from datakit.index.clusters import THRESHOLD, clusters
from datakit.index.opened import Index
from datakit.index.query import Answer, answer
from datakit.serve.asked import MOST, Asked
from datakit.serve.facets import facet_columns
from datakit.serve.kept import Kept, Uploads
from datakit.serve.metrics import Metrics
from datakit.serve.pictures import small
from datakit.serve.pool import Pool

T = TypeVar("T")
FOLDED = 20_000  # rows up to which near-duplicates of all are looked for: some seconds
TABLES, THUMBS = 16, 2000  # kept; a thumbnail has 10 kB
PATH = re.compile(r"(?<![\w.:/])/(?:[\w.@+-]+/)+[\w.@+-]*")


class Site:
    """`catalogue` is read from threads; what is costly to make is kept."""

    def __init__(self, catalogue: Catalogue, pool: Pool | None = None) -> None:
        self.catalogue = catalogue
        self.uploads, self.metrics, self.pool = Uploads(), Metrics(), pool or Pool()
        self.thumbs, self._tables = Kept(THUMBS), Kept(TABLES)

    async def run(self, work: Callable[[], T], *, refused: bool = True) -> T:
        """`work` in a thread. Raises Busy where too many wait."""
        return await self.pool.run(work, refused=refused)

    @cached_property
    def title(self) -> str:
        return self.catalogue.store.name if self.catalogue.has_store else self.catalogue.root.absolute().name

    @cached_property
    def size(self) -> int:
        """Images that can be found."""
        return max(len(self.catalogue.indices[name]) for name in self.names)

    @cached_property
    def version(self) -> str:
        """Of the images: their addresses change with it, so that a browser may keep them."""
        return self.catalogue.store.digest[:12] if self.catalogue.has_store else ""

    @property
    def names(self) -> list[str]:
        return list(self.catalogue.indices)

    def index(self, name: str = "") -> Index:
        """Raises ConfigError for a name that is none."""
        return self.catalogue.index_for("key", name)

    def answer(self, asked: Asked) -> Answer:
        """The results up to `start` and `k` more."""
        wanted = min(MOST, asked.start + asked.k)
        return answer(self.catalogue, asked.request(self.uploads, k=wanted))

    def facets(self, index: Index) -> dict[str, dict[Any, int]]:
        return self._tables.get(("facets", index.name), lambda: facet_columns(index))

    def duplicates(self, index: Index, threshold: float = THRESHOLD) -> pa.Table:
        """key, cluster, size of every row. Raises ConfigError where there are too many to compare all with all."""
        if len(index) > FOLDED:
            raise ConfigError(
                f"{len(index)} images are too many to compare all with all here; {FOLDED} at most"
            )
        return self._tables.get(("duplicates", index.name, threshold), lambda: clusters(index, threshold))

    def groups(self, name: str, threshold: float = THRESHOLD) -> list[list[str]]:
        """Keys of the images that are near-duplicates of each other, group by group, the largest first."""
        found: dict[int, list[str]] = {}
        for row in self.duplicates(self.index(name), threshold).to_pylist():
            if row["size"] > 1:
                found.setdefault(row["cluster"], []).append(row["key"])
        return [found[number] for number in sorted(found)]

    def thumb(self, key: str) -> bytes:
        """A small JPEG of a sample. Raises ConfigError for a key that is not there, SampleError."""
        return self.thumbs.get(key, lambda: small(self.catalogue.image(key)))

    def outcomes(self) -> pa.Table:
        """What left on the way into the store, and why; empty where the store does not say."""
        try:
            return self.catalogue.store.metadata("metadata/outcomes.parquet")
        except (ConfigError, StoreError, KeyError):
            return pa.table({name: pa.array([], pa.string()) for name in ("name", "outcome", "reason")})

    def said(self, problem: DatakitError) -> str:
        """The words of an error, without any path of this machine."""
        text = str(problem).encode("utf-8", "replace").decode()
        for place in self._places:
            text = text.replace(place, self.title)
        return PATH.sub("(path)", text)

    @cached_property
    def _places(self) -> list[str]:
        """The longest first. A word like `.` is no place: it would be found in every sentence."""
        root = self.catalogue.root
        places = (root.absolute(), root.resolve(), Path.cwd(), Path(sys.prefix), Path(tempfile.gettempdir()))
        every = {str(path) for path in places} | {os.environ.get("HOME", "")}
        if len(root.parts) > 1:
            every.add(str(root))
        return sorted((place for place in every if len(place) > 3), key=len, reverse=True)
