"""The report of `fg_ood`: its results gathered for the page."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from datakit.check.null_control import null_bound
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
from datakit.manifest import versions
from datakit.models.encoder import load
from datakit.stage import Ref, Rows, reduce
from datakit.stages.assign import published

PICTURES_A_CLASS = 6
PICTURES_A_TIER = 24
DUPLICATES_SHOWN = 60
SCORED = (("ce", "msp"), ("ce", "energy"), ("oe", "energy"), ("mixoe_cutmix", "msp"))  # drawn as curves
PROBES = {"probe_linear": ("linear", "msp"), "probe_knn": ("k-NN", "knn")}  # shown name and score
TIERS = {"near_ood": "near", "mid_ood": "mid", "far_ood": "far", "coarse_ood": "coarse"}
SPLITS = {
    "train": "ID classes, for training",
    "val": "ID classes, for choosing epochs and settings",
    "test": "images of the ID classes that nothing was trained or chosen on",
    "val_ood": "held-out classes for choosing thresholds; never tested",
    "near_ood": "held-out classes that share their parent with an ID class",
    "mid_ood": "held-out classes whose grandparent holds an ID class",
    "far_ood": "classes three levels or more from any ID class",
    "coarse_ood": "classes of quite other things",
    "outliers": "for training with outliers; no concept of the test is among them",
    "reserve": "in no role under the first seed; the lists of other seeds use them",
}


@reduce(version=1)
def fg_ood_page(
    rows: Rows,
    *,
    seeds: Sequence[int],
    splits: Sequence[Ref[pa.Table]],
    duplicates: Ref[pa.Table],
    findings: Sequence[Ref[list[dict[str, Any]]]],
    loops: Sequence[Ref[dict[str, Any]]] = (),
    probed: Sequence[Ref[dict[str, Any]]] = (),
    encoder: str,
    words: Mapping[str, Any],
    title: str,
) -> str:
    """The page as HTML. splits: one table a seed, the first is what is published."""
    from datakit.check.report import render_report

    first, table = splits[0].value, rows.table()
    lists = pa.table(
        {"publish": published([split.value for split in splits]), "class_name": first["class_name"]}
    )
    album = _Album(rows, first)
    data = ReportData(
        title=title,
        subtitle=_subtitle(rows),
        command=_command(words),
        recipe="fg_ood",
        seeds=tuple(seeds),
        splits=tuple(_splits(lists, table)),
        tiers=tuple(_tiers(first, album)),
        classes=tuple(_classes(first, table, album)),
        duplicates=tuple(_duplicates(first, duplicates.value, album)),
        duplicate_pairs=duplicates.value.num_rows,
        findings=tuple(finding for ref in findings for finding in ref.value),
        validation=_validation([ref.value for ref in loops], [ref.value for ref in probed]),
        outcomes=tuple(_outcomes(rows, first, lists["publish"])),
        conversions=Counter(change for changes in table["changes"].to_pylist() for change in changes),
        catalogs=tuple(_catalogs(rows)),
        licences=tuple(_licences(table)),
        versions=versions(),
        weights={encoder: load(encoder).weights},
        config=dict(words),
        reproduce=_command(words),
        pictures=tuple(album.pictures),
    )
    return render_report(data)


class _Album:
    """Pictures used on the page, each once, by row."""

    def __init__(self, rows: Rows, split: pa.Table) -> None:
        self.rows = rows
        self.keys = split["key"].to_pylist()
        self.names = split["class_name"].to_pylist()
        self.row_of = {key: row for row, key in enumerate(self.keys)}
        self.places: dict[int, int] = {}

    @property
    def pictures(self) -> Iterable[Picture]:
        """In the order they were added."""
        for row, image in zip(self.places, self.rows.images(list(self.places)), strict=True):
            yield Picture(image=image, key=self.keys[row], caption=str(self.names[row] or ""))

    def add(self, row: int) -> int:
        """The picture's index on the page."""
        return self.places.setdefault(row, len(self.places))

    def spread(self, rows: Sequence[int], most: int) -> tuple[int, ...]:
        """At most `most` of these rows, evenly over them."""
        places = np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)
        return tuple(self.add(rows[index]) for index in np.unique(places))


def _subtitle(rows: Rows) -> str:
    """The first sentence on how the classes were formed; all of it stands with the provenance."""
    how = str(rows.catalogs[0]["classes"].get("how", "")).strip() if rows.catalogs else ""
    return how.partition(". ")[0].rstrip(".") + "." if how else ""


def _command(words: Mapping[str, Any]) -> str:
    from datakit.config import to_words

    return " ".join(["datakit build recipe=fg_ood", *to_words(words)])


def _splits(split: pa.Table, table: pa.Table) -> Iterable[SplitRow]:
    for name, note in SPLITS.items():
        rows = np.flatnonzero(_is(split["publish"], name))
        if len(rows):
            classes = pc.count_distinct(split["class_name"].take(pa.array(rows))).as_py()
            size = pc.sum(table["bytes"].take(pa.array(rows))).as_py()
            yield SplitRow(name=name, samples=len(rows), description=note, classes=classes, bytes=size)


def _is(column: pa.ChunkedArray, value: str) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = pc.fill_null(pc.equal(column, value), False).to_numpy()
    return found


def _tiers(split: pa.Table, album: _Album) -> Iterable[TierRow]:
    test = np.flatnonzero(_is(split["publish"], "test"))
    classes = pc.count_distinct(split["class_name"].take(pa.array(test))).as_py()
    pictures = album.spread(_one_a_class(split, test), PICTURES_A_TIER)
    yield TierRow(name="id", definition=SPLITS["test"], classes=classes, images=len(test), pictures=pictures)
    for publish, tier in {**TIERS, "outliers": "outlier"}.items():
        rows = np.flatnonzero(_is(split["publish"], publish))
        if not len(rows):
            continue
        chosen = split.take(pa.array(rows))
        by_class = dict(
            zip(chosen["class_name"].to_pylist(), chosen["tax_distance"].to_pylist(), strict=True)
        )
        yield TierRow(
            name=tier,
            definition=SPLITS[publish],
            classes=len(by_class),
            images=len(rows),
            distances=[float(value) for value in by_class.values() if value is not None],
            distance="levels up to the first ancestor shared with an ID class",
            pictures=album.spread(_one_a_class(split, rows), PICTURES_A_TIER),
        )


def _one_a_class(split: pa.Table, rows: NDArray[np.int64]) -> list[int]:
    names = split["class_name"].take(pa.array(rows)).to_pylist()
    return list({name: int(row) for name, row in zip(names, rows, strict=True)}.values())


def _classes(split: pa.Table, table: pa.Table, album: _Album) -> Iterable[ClassRow]:
    groups: dict[str, list[int]] = defaultdict(list)
    for row, (name, role) in enumerate(
        zip(split["class_name"].to_pylist(), split["role"].to_pylist(), strict=True)
    ):
        if name is not None and role != "outlier":
            groups[name].append(row)
    columns = {
        name: split[name].to_pylist()
        for name in ("role", "tier", "publish", "nearest_id_class", "tax_distance")
    }
    taxonomy = table["taxonomy"].to_pylist() if "taxonomy" in table.column_names else [()] * split.num_rows
    for name in sorted(groups):
        rows = groups[name]
        # A class's role is that of its images with one; those of a held-out class left for other seeds have none.
        lead = next((row for row in rows if columns["role"][row] != "unused"), rows[0])
        yield ClassRow(
            name=name,
            role=columns["role"][lead],
            tier=columns["tier"][lead],
            taxonomy=tuple(taxonomy[lead] or ()),
            counts=Counter(columns["publish"][row] for row in rows),
            nearest_id_class=columns["nearest_id_class"][lead],
            tax_distance=columns["tax_distance"][lead],
            pictures=album.spread(rows, PICTURES_A_CLASS),
        )


def _duplicates(split: pa.Table, pairs: pa.Table, album: _Album) -> Iterable[DuplicatePair]:
    """Undeclared pairs first, the closest first."""
    order = pairs.sort_by([("declared", "ascending"), ("distance", "ascending"), ("key_a", "ascending")])
    publish, reason = split["publish"].to_pylist(), split["reason"].to_pylist()
    for pair in order.slice(0, DUPLICATES_SHOWN).to_pylist():
        a, b = album.row_of[pair["key_a"]], album.row_of[pair["key_b"]]
        yield DuplicatePair(
            keys=(pair["key_a"], pair["key_b"]),
            pictures=(album.add(a), album.add(b)),
            splits=(publish[a] or "", publish[b] or ""),
            hamming=pair["distance"],
            flipped=pair["flipped"],
            similarity=pair["similarity"],
            action=_action(pair, (reason[a], reason[b]), (publish[a], publish[b])),
        )


def _action(pair: Mapping[str, Any], reasons: tuple[Any, Any], publish: tuple[Any, Any]) -> str:
    if "duplicate" in reasons:
        return "one dropped: " + " and ".join(
            key
            for key, reason in zip((pair["key_a"], pair["key_b"]), reasons, strict=True)
            if reason == "duplicate"
        )
    if pair["declared"]:
        return "declared variants of one drawing"
    return "kept: both in " + publish[0] if publish[0] == publish[1] else "kept in two splits"


def _validation(loops: Sequence[Mapping[str, Any]], probed: Sequence[Mapping[str, Any]]) -> Validation | None:
    if not loops and not probed:
        return None
    fields = MetricRow.__dataclass_fields__
    return Validation(
        rows=tuple(MetricRow(**{n: row[n] for n in fields}) for loop in loops for row in loop["rows"]),
        headline=("ce", "msp") if loops else None,
        accuracies=tuple(
            AccuracyRow(seed=row["seed"], method=row["method"], accuracy=row["test"], n=row["n_test"])
            for loop in loops
            for row in loop["accuracy"]
        ),
        null_control=tuple(
            NullRow(
                seed=row["seed"],
                method=row["method"],
                detector=row["detector"],
                auroc=row["auroc"],
                limit=null_bound(row),
            )
            for loop in loops
            for row in loop["null_control"]
        ),
        probes=tuple(row for found in probed for row in _probe_rows(found)),
        curves=tuple(curve for loop in loops for curve in _curves(loop)),
        scores=tuple(score for loop in loops[:1] for score in _scores(loop)),
        notes=tuple(dict.fromkeys(note for found in (*loops, *probed) for note in found["notes"])),
    )


def _probe_rows(found: Mapping[str, Any]) -> Iterable[ProbeRow]:
    """Accuracy of each probe, and its AUROC with the score that suits it: MSP of logits, distance of neighbours."""
    for row in found["accuracy"]:
        name = PROBES[row["method"]][0]
        yield ProbeRow(seed=row["seed"], probe=name, metric="ID accuracy", value=row["test"], n=row["n_test"])
    for row in found["rows"]:
        name, score = PROBES[row["method"]]
        if row["detector"] == score:
            metric = f"AUROC, {score}"
            yield ProbeRow(
                seed=row["seed"],
                probe=name,
                metric=metric,
                value=row["auroc"],
                tier=row["tier"],
                n=row["n_ood"],
            )


def _curves(loop: Mapping[str, Any]) -> Iterable[CurveRow]:
    for method in dict.fromkeys(point["method"] for point in loop["curves"]):
        points = [point for point in loop["curves"] if point["method"] == method]
        for name in ("loss", "val_accuracy"):
            yield CurveRow(
                seed=loop["seed"], method=method, name=name, values=[point[name] for point in points]
            )


def _scores(loop: Mapping[str, Any]) -> Iterable[ScoreRow]:
    for method, detector in SCORED:
        known = f"{method}/{detector}/test"
        for split in loop["keys"]:
            if known in loop["scores"] and split.startswith("ood/"):
                yield ScoreRow(
                    seed=loop["seed"],
                    method=method,
                    detector=detector,
                    tier=split.removeprefix("ood/"),
                    id_scores=loop["scores"][known],
                    ood_scores=loop["scores"][f"{method}/{detector}/{split}"],
                )


def _outcomes(rows: Rows, split: pa.Table, publish: pa.ChunkedArray) -> Iterable[OutcomeRow]:
    """What came in: published, in no seed's split (with the first seed's reason), dropped, failed."""
    grouped: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows.outcomes.to_pylist():
        grouped[row["outcome"], row["reason"]].append(row["name"])
    out = pc.is_null(publish).to_numpy()
    for key, reason, left in zip(split["key"].to_pylist(), split["reason"].to_pylist(), out, strict=True):
        if left:
            grouped["dropped", reason or "unused"].append(key)
    yield OutcomeRow(status="kept", count=int((~out).sum()))
    for (status, reason), names in sorted(grouped.items()):
        yield OutcomeRow(status=status, count=len(names), reason=reason, keys=tuple(names[:5]))


def _catalogs(rows: Rows) -> Iterable[CatalogRow]:
    for catalog in rows.catalogs:
        yield CatalogRow(
            title=catalog["title"],
            checksum=catalog["checksum"],
            licence=str(catalog["licence"].get("spdx", "")),
            homepage=catalog["homepage"],
            citation=catalog["citation"],
            description=str(catalog["classes"].get("how", "")).strip(),
        )


def _licences(table: pa.Table) -> Iterable[LicenceRow]:
    columns = [name for name in ("licence", "attribution") if name in table.column_names]
    if "licence" not in columns:
        return
    found = (
        table.group_by(columns)
        .aggregate([([], "count_all")])
        .sort_by([(name, "ascending") for name in columns])
    )
    for row in found.to_pylist():
        yield LicenceRow(
            spdx=row["licence"] or "unstated",
            images=row["count_all"],
            attribution=row.get("attribution") or "",
        )
