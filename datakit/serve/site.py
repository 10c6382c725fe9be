"""What all answers of a server share: the catalogue, pictures asked with, counts, and threads that search."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import anyio
import pyarrow as pa

from datakit.errors import ConfigError, DatakitError, StoreError
from datakit.index.catalogue import Catalogue
from datakit.index.clusters import THRESHOLD, clusters
from datakit.index.opened import Index
from datakit.index.query import Answer, answer
from datakit.serve.asked import MOST, Asked, Uploads
from datakit.serve.facets import facet_columns
from datakit.serve.metrics import Metrics

T = TypeVar("T")
THREADS = 4  # searches at once
WAITING = 32  # requests that may wait for one of them
FOLDED = 20_000  # rows up to which near-duplicates of all are looked for: some seconds


class Busy(Exception):
    """More requests wait than will be answered soon."""


class Site:
    """`catalogue` is read from threads; what is made once is kept."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.uploads, self.metrics = Uploads(), Metrics()
        self._lock = threading.Lock()
        self._waiting = 0
        self._made: dict[str, Any] = {}

    async def run(self, work: Callable[[], T]) -> T:
        """`work` in a thread. Raises Busy where too many wait."""
        if self._waiting >= THREADS + WAITING:
            raise Busy
        self._waiting += 1
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._limiter)
        finally:
            self._waiting -= 1

    @cached_property
    def _limiter(self) -> anyio.CapacityLimiter:
        return anyio.CapacityLimiter(THREADS)

    @property
    def waiting(self) -> int:
        return self._waiting

    @cached_property
    def title(self) -> str:
        return self.catalogue.store.name if self.catalogue.has_store else self.catalogue.root.name

    @property
    def names(self) -> list[str]:
        return list(self.catalogue.indices)

    def index(self, name: str = "") -> Index:
        """Raises ConfigError for a name that is none."""
        return self.catalogue.index_for("key", name)

    def answer(self, asked: Asked) -> Answer:
        """The results from `start` on, `k` of them."""
        wanted = min(MOST, asked.start + asked.k)
        return answer(self.catalogue, asked.request(self.uploads, k=wanted))

    def once(self, name: str, make: Callable[[], T]) -> T:
        with self._lock:
            if name not in self._made:
                self._made[name] = make()
            found: T = self._made[name]
            return found

    def facets(self, index: Index) -> dict[str, dict[str, int]]:
        return self.once(f"facets {index.name}", lambda: facet_columns(index))

    def duplicates(self, index: Index, threshold: float = THRESHOLD) -> pa.Table:
        """key, cluster, size of every row. Raises ConfigError where there are too many to compare all with all."""
        if len(index) > FOLDED:
            raise ConfigError(
                f"{len(index)} images are too many to compare all with all here; {FOLDED} at most"
            )
        return self.once(f"duplicates {index.name} {threshold}", lambda: clusters(index, threshold))

    def outcomes(self) -> pa.Table:
        """What left on the way into the store, and why; empty where the store does not say."""
        try:
            return self.catalogue.store.metadata("metadata/outcomes.parquet")
        except (ConfigError, StoreError, KeyError):
            return pa.table({"name": pa.array([], pa.string()), "reason": pa.array([], pa.string())})

    def said(self, problem: DatakitError) -> str:
        """The words of an error, without any path of this machine."""
        text = str(problem).replace(str(self.catalogue.root.absolute()), self.title)
        text = text.replace(str(self.catalogue.root), self.title)
        return re.sub(r"(?<![\w.])/(?:[\w.@+-]+/)+[\w.@+-]*", "(path)", text)
