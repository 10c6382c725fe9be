"""Reports made for the tests of the page, and the page as a browser reads it."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np
from PIL import Image as pil

from datakit.check.report_data import (
    AccuracyRow,
    CatalogRow,
    ClassRow,
    CurveRow,
    DuplicatePair,
    LicenceRow,
    MetricRow,
    NullRow,
    OutcomeRow,
    Picture,
    ProbeRow,
    ReportData,
    ScoreRow,
    SplitRow,
    TierRow,
    Validation,
)

TIERS = ("near", "mid", "far", "coarse")


class Page(HTMLParser):
    """What a browser would build: (tag, attributes), and the text within style, script and everything else."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {"style": "", "script": "", "": ""}
        self._within = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within = tag if tag in ("style", "script") else ""

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        self.text[self._within] += data

    @property
    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        """The tags and the names of their attributes: what text must never change."""
        return [(tag, tuple(attributes)) for tag, attributes in self.tags]


def picture(index: int, side: int = 24) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Soft blobs of colour, another one for each index."""
    rng = np.random.default_rng(index)
    small = pil.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return np.asarray(small.resize((side, side)))


def finding(check: str, severity: str = "fail", passed: bool = True, **more: Any) -> dict[str, Any]:
    base = {
        "count": 0,
        "keys": [],
        "value": None,
        "limit": None,
        "summary": check,
        "detail": {},
        "seed": None,
    }
    return base | {"id": check, "severity": severity, "passed": passed} | more


def validation(word: Callable[[], str] = lambda: "x", methods: tuple[str, ...] = ("ce", "oe")) -> Validation:
    rng = np.random.default_rng(0)
    rows = [
        MetricRow(seed=seed, method=method, detector=detector, tier=tier, n_id=100, n_ood=50,
                  auroc=0.6 + 0.1 * at + 0.01 * seed, auroc_low=0.55, auroc_high=0.99, fpr_at_95tpr_id=0.25)
        for seed in (0, 1) for method in methods for detector in ("msp", "energy") for at, tier in enumerate(TIERS)
    ]  # fmt: skip
    return Validation(
        rows=tuple(rows),
        accuracies=(AccuracyRow(seed=0, method="ce", accuracy=0.9),),
        null_control=(NullRow(seed=0, method="ce", detector="msp", auroc=0.51),),
        probes=(ProbeRow(seed=0, probe=word(), metric=word(), value=0.8, tier="near"),),
        curves=(CurveRow(seed=0, method=word(), name=word(), values=[3.0, 2.0, 1.0]),),
        scores=tuple(
            ScoreRow(seed=0, method="ce", detector="msp", tier=tier, id_scores=rng.normal(1, 1, 60).tolist(),
                     ood_scores=rng.normal(0, 1, 40).tolist())
            for tier in TIERS
        ),
        notes=(word(), word()),
    )  # fmt: skip


def report(word: Callable[[], str] = lambda: "x", classes: int = 12) -> ReportData:
    """A report with every section filled; each text from outside is `word()`."""
    own = [
        ClassRow(name=f"{word()} id {i}", role="id", taxonomy=(word(), word()), counts={"train": 5, "test": 2},
                 pictures=(i,))
        for i in range(classes)
    ]  # fmt: skip
    held = [
        ClassRow(name=f"{word()} near {i}", role="ood", tier="near", counts={"near_ood": 3, "reserve": 50},
                 nearest_id_class=own[i].name, tax_distance=1, attr_distance=0.25, pictures=(classes + i,))
        for i in range(classes)
    ]  # fmt: skip
    return ReportData(
        title=word(), subtitle=word(), command=word(), recipe=word(), seeds=(0, 1),
        splits=tuple(SplitRow(name=n, samples=10, description=word()) for n in ("train", "test", "near_ood", word())),
        tiers=tuple(
            TierRow(name=n, definition=word(), classes=2, images=9, distances=[1.0, 2.0], pictures=(at,))
            for at, n in enumerate(("id", *TIERS, "outlier", word()))
        ),
        classes=(*own, *held), attributes=word(),
        pictures=tuple(Picture(image=picture(i), key=word(), caption=word()) for i in range(2 * classes)),
        duplicates=(DuplicatePair(keys=(word(), word()), pictures=(0, 1), splits=(word(), word()), hamming=3,
                                  flipped=True, similarity=0.97, action=word()),),
        findings=(
            finding("near_dup", passed=False, count=9, keys=[word(), word()], summary=word(), value=3.0, limit=2.0,
                    detail={"k" + word(): word(), "nested": {"k" + word(): [word()]}}),
            finding(word(), "warn", passed=False, summary=word(), seed=1),
        ),
        validation=validation(word),
        outcomes=(OutcomeRow(status="kept", count=90), OutcomeRow(status="dropped", count=9, reason="duplicate"),
                  OutcomeRow(status="failed", count=1, reason=word(), keys=(word(),))),
        conversions={"to" + word(): 3},
        catalogs=(CatalogRow(title=word(), checksum=word(), licence=word(), homepage="javascript:" + word(),
                             citation=word(), description=word()),),
        licences=(LicenceRow(spdx=word(), images=3, attribution=word()),),
        versions={"v" + word(): word()}, weights={"w" + word(): word()}, config={"c" + word(): word()},
    )  # fmt: skip


def missing(html: str) -> list[str]:
    """Words that show that something absent was printed all the same."""
    return re.findall(r"\b(?:None|nan|inf|undefined)\b", words(html))


def words(html: str) -> str:
    """The page's text in one line."""
    return " ".join(Page(html).text[""].split())
