"""The report of `search`: answers to look at, what a recall costs, what retrieval is worth beside its controls."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from datakit.check.fg_ood_page import catalog_rows, licence_rows
from datakit.check.report_data import OutcomeRow, Picture, ReportData
from datakit.check.retrieval_plots import Cost, cost_curves, rank_curves, training_curves
from datakit.check.search_report import Answer, SpaceView, render_search
from datakit.config import to_words
from datakit.index.opened import Index
from datakit.index.stages import opened
from datakit.manifest import versions
from datakit.models import text as texts
from datakit.rng import rng_for
from datakit.stage import Files, Ref, Rows, reduce
from datakit.train.dual_encoder import DIRECTIONS

ASKED = 8  # queries of each kind shown
SHOWN = 10  # answers to each
WORDS = 8  # texts asked


@reduce(version=1)
def search_page(
    rows: Rows,
    *,
    indices: Mapping[str, Ref[Files]],
    columns: Mapping[str, str],
    text: str,
    findings: Sequence[Ref[list[dict[str, Any]]]],
    figures: Sequence[Ref[dict[str, Any]]],
    loops: Sequence[Ref[dict[str, Any]]],
    asked: Mapping[str, str],
    caption: str,
    words: Mapping[str, Any],
    title: str,
    seed: int = 0,
) -> str:
    """The page as HTML. columns: of the vectors of each space. text: the encoder of text queries, or none.

    asked: the columns of `thing`, `view` and `group`. loops: the dual encoder and its control, or nothing.
    """
    gallery = _Gallery(rows, caption)
    spaces = []
    for at, (name, files) in enumerate(indices.items()):
        index = opened(files.value)
        spaces.append(
            SpaceView(
                name=name,
                encoder=index.encoders["image"]["name"],
                facts=_facts(index),
                curve=_curve(index),
                figures=figures[at].value if figures else {},
                images=tuple(_by_image(index, gallery, seed)),
                texts=tuple(_by_text(index, gallery, text, seed)) if "text" in index.encoders else (),
            )
        )
    data = ReportData(
        title=title,
        subtitle=_subtitle(spaces, len(rows)),
        command=shlex.join(["datakit", "build", "recipe=search", *to_words(words)]),
        recipe="search",
        findings=tuple(finding for ref in findings for finding in ref.value),
        outcomes=tuple(left_out(rows)),
        conversions=Counter(change for changes in rows.table(["changes"])["changes"].to_pylist() for change in changes),
        catalogs=tuple(catalog_rows(rows)),
        licences=tuple(licence_rows(rows.table())),
        versions=versions(),
        weights={space["name"]: space["weights"] for files in indices.values()
                 for space in opened(files.value).encoders.values()},
        config=dict(words),
        pictures=tuple(gallery.pictures),
    )  # fmt: skip
    return render_search(data, spaces, curves=_training(loops))


class _Gallery:
    """Pictures that the page shows, each once, by row."""

    def __init__(self, rows: Rows, caption: str) -> None:
        self.rows = rows
        self.keys: list[str] = rows.table(["__key__"])["__key__"].to_pylist()
        known = rows.table([caption])[caption].to_pylist() if caption in rows.columns else [None] * len(rows)
        self.captions = [str(text or "") for text in known]
        self.row_of = {key: row for row, key in enumerate(self.keys)}
        self.pictures: list[Picture] = []
        self._at: dict[int, int] = {}

    def add(self, row: int) -> int:
        if row not in self._at:
            (image,) = self.rows.images([row])
            self._at[row] = len(self.pictures)
            self.pictures.append(Picture(image=image, key=self.keys[row], caption=self.captions[row]))
        return self._at[row]

    def all(self, keys: Iterable[str]) -> tuple[int, ...]:
        return tuple(self.add(self.row_of[key]) for key in keys)


def _by_image(index: Index, gallery: _Gallery, seed: int) -> Iterable[Answer]:
    drawn = np.sort(rng_for(seed, "page", "images").permutation(len(index.keys))[:ASKED])
    hits = index.search(index.vectors(drawn), k=SHOWN + 1)
    for row, found in zip(drawn, hits.rows, strict=True):
        keys = index.keys.take([int(at) for at in found if at >= 0 and at != row][:SHOWN]).to_pylist()
        asking = str(index.keys[int(row)])
        caption = gallery.captions[gallery.row_of[asking]]
        yield Answer(asked=caption or asking, query=gallery.all([asking]), found=gallery.all(keys))


def _by_text(index: Index, gallery: _Gallery, text: str, seed: int) -> Iterable[Answer]:
    """The captions of a few images as queries: what people would type."""
    said = sorted({caption for caption in gallery.captions if caption})
    chosen = [said[at] for at in np.sort(rng_for(seed, "page", "texts").permutation(len(said))[:WORDS])]
    if not chosen:
        return
    hits = index.search(texts.load(text)(chosen), k=SHOWN)
    for asked, found in zip(chosen, hits.rows, strict=True):
        keys = index.keys.take([int(at) for at in found if at >= 0]).to_pylist()
        yield Answer(asked=asked, query=(), found=gallery.all(keys))


def _facts(index: Index) -> dict[str, str]:
    spec, search = index.base.spec, index.about["search"] or {"kind": "not tuned"}
    size = sum(file["bytes"] for file in index.about["files"].values())
    facts = {
        "rows": f"{len(index):,}",
        "dims": str(index.dim),
        "metric": spec.space.metric + (", centred" if spec.space.center else ""),
        "structure": spec.structure
        if spec.structure != "ivf"
        else f"{spec.coarse.nlist:,} lists of {spec.codes.kind}",
        "searched by": ", ".join(f"{name} {value}" for name, value in search.items()),
        "target": f"recall@{spec.target.k} of {spec.target.recall:g}",
        "size": f"{size / 1e6:.1f} MB",
    }
    if spec.structure == "ivf":
        facts["dims of lists, codes"] = f"{spec.coarse.dims}, {spec.codes.dims} in {spec.codes.bytes} bytes"
    return facts


def _curve(index: Index) -> Any:
    points = [
        Cost(cost=point["macs"], recall=point["recall"], setting=point["kind"])
        for point in index.about["curve"]
    ]
    target = index.base.spec.target
    return (
        cost_curves({index.name: points}, target=target.recall, recall=f"recall@{target.k}")
        if len(points) > 1
        else ""
    )


def _training(loops: Sequence[Ref[dict[str, Any]]]) -> list[tuple[str, Any]]:
    ours, control = ([loop.value for loop in loops] + [{}, {}])[:2]
    if not ours:
        return []
    found = training_curves(ours["history"], control["history"])
    for name in DIRECTIONS:
        if ours["ranks"].get(name):
            words = name.replace("_", " ").capitalize()
            plot = rank_curves(
                ours["ranks"][name], control["ranks"].get(name, []), ours["chance"][name], direction=name
            )
            found.append((f"{words}, after the last epoch", plot))
    return found


def _subtitle(spaces: Sequence[SpaceView], rows: int) -> str:
    encoders = " and ".join(dict.fromkeys(space.encoder for space in spaces))
    return f"{rows:,} images, embedded by {encoders}, and found again."


def left_out(rows: Rows) -> Iterable[OutcomeRow]:
    """What came in: kept, dropped and failed, for any report."""
    grouped: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows.outcomes.to_pylist():
        grouped[row["outcome"], row["reason"]].append(row["name"])
    yield OutcomeRow(status="kept", count=len(rows))
    for (status, reason), names in sorted(grouped.items()):
        yield OutcomeRow(status=status, count=len(names), reason=reason, keys=tuple(names[:5]))
