"""Settings of a search worth trying: steps of a fourth of an octave, then those between the two where a recall lies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from datakit.index.arrays import Floats, Longs
from datakit.index.base import Base
from datakit.index.coarse import list_nearness, nearest_lists
from datakit.index.plan import Words

STEPS = 4  # of an octave
FINE = 4  # parts that such a step is cut into where it matters
WALKS = (16, 32, 64, 128, 256, 512)  # candidates of a graph


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Words of a search, with the rows that it scans and the lists that it meets of a query, on the mean."""

    words: Words
    scanned: float
    probed: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Sweep:
    """The settings of `base`, as these queries (Q, D), as compared, meet its lists."""

    base: Base
    held: Floats

    def steps(self) -> Iterator[Setting]:
        """Each costs more than the one before of its kind: so many nearest lists, or those within a margin."""
        if self.base.spec.structure == "flat":
            return
        if self.base.graph is not None:
            for ef in WALKS:
                yield Setting(
                    words=Words(kind="graph", ef=ef), scanned=float(ef * self.base.spec.graph.links)
                )
            return
        nlist = self.base.nlist
        counts = sorted({min(nlist, round(2 ** (at / STEPS))) for at in range(STEPS * nlist.bit_length())})
        for nprobe in counts:
            yield from self._worth(self._counted(nprobe))
            if margin := self._margin(nprobe):
                yield from self._worth(self._within(margin))

    def between(self, low: Words, high: Words) -> Iterator[Setting]:
        """Settings of the same kind between two neighbours of `steps`."""
        if low.kind != "lists":
            return
        if high.margin:
            for margin in np.linspace(low.margin, high.margin, FINE + 1)[1:-1]:
                yield from self._worth(self._within(_short(margin)))
            return
        for nprobe in np.unique(np.linspace(low.nprobe, high.nprobe, FINE + 1).round().astype(int)):
            if low.nprobe < nprobe < high.nprobe:
                yield from self._worth(self._counted(int(nprobe)))

    def _worth(self, setting: Setting) -> Iterator[Setting]:
        """Unless more than half of the rows are scanned: beyond that flat search is nearer at hand."""
        if setting.words.nprobe == 1 or setting.scanned <= len(self.base) / 2:
            yield setting

    def _counted(self, nprobe: int) -> Setting:
        scanned = float(self._sizes[:, :nprobe].sum(axis=1).mean())
        return Setting(words=Words(kind="lists", nprobe=nprobe), scanned=scanned, probed=float(nprobe))

    def _within(self, margin: float) -> Setting:
        near = self._falling >= self._falling[:, :1] - np.float32(margin)
        return Setting(
            words=Words(kind="lists", nprobe=self.base.nlist, margin=margin),
            scanned=float((self._sizes * near).sum(axis=1).mean()),
            probed=float(near.mean() * self.base.nlist),
        )

    def _margin(self, nprobe: int) -> float:
        """That which as many lists lie within, on the whole."""
        return _short(float((self._falling[:, 0] - self._falling[:, nprobe - 1]).mean()))

    @cached_property
    def _order(self) -> Longs:
        return nearest_lists(self._scores, self.base.nlist)

    @cached_property
    def _scores(self) -> Floats:
        narrow = self.base.axes.for_lists(self.held)
        return list_nearness(narrow, self.base.centroids, self.base.spec.space.metric)

    @cached_property
    def _falling(self) -> Floats:
        return np.take_along_axis(self._scores, self._order, axis=1)

    @cached_property
    def _sizes(self) -> Longs:
        sizes: Longs = self.base.sizes[self._order]
        return sizes


def _short(margin: float) -> float:
    """In four digits, as index.json shows it."""
    return float(f"{margin:.4g}")
