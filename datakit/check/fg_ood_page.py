"""The report of `fg_ood`: its results gathered for the page."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.check.fg_ood_classes import Album, class_rows, is_in, split_notes, tier_rows
from datakit.check.fg_ood_validation import gather_validation
from datakit.check.report_data import (
    CatalogRow,
    DuplicatePair,
    LicenceRow,
    OutcomeRow,
    ReportData,
    SplitRow,
)
from datakit.config import to_words
from datakit.manifest import versions
from datakit.models.encoder import load
from datakit.stage import Ref, Rows, reduce
from datakit.stages.assign import published

DUPLICATES_SHOWN = 60


@reduce(version=3)
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
    tiers: str,
    attributes: str,
    words: Mapping[str, Any],
    title: str,
) -> str:
    """The page as HTML. splits: one table a seed, the first is what is published.

    tiers, attributes: what near, mid and far were made of, and the column of attribute vectors, empty for the
    encoder's features.
    """
    from datakit.check.report import render_report

    first, table = splits[0].value, rows.table()
    lists = pa.table(
        {"publish": published([split.value for split in splits]), "class_name": first["class_name"]}
    )
    album, notes = Album(rows, first), split_notes(tiers)
    measured_on = f"the class means of {attributes or f'the features of {encoder}'}"
    data = ReportData(
        title=title,
        subtitle=_subtitle(rows),
        command=_command(words),
        recipe="fg_ood",
        seeds=tuple(seeds),
        splits=tuple(_splits(lists, table, notes)),
        tiers=tuple(tier_rows(first, album, notes=notes, measured_on=measured_on)),
        classes=tuple(class_rows(rows, first, lists["publish"], album)),
        attributes=measured_on,
        duplicates=tuple(_duplicates(first, lists["publish"], duplicates.value, album)),
        duplicate_pairs=duplicates.value.num_rows,
        findings=tuple(finding for ref in findings for finding in ref.value),
        validation=gather_validation([ref.value for ref in loops], [ref.value for ref in probed]),
        outcomes=tuple(_outcomes(rows, first, lists["publish"])),
        conversions=Counter(change for changes in table["changes"].to_pylist() for change in changes),
        catalogs=tuple(catalog_rows(rows)),
        licences=tuple(licence_rows(table)),
        versions=versions(),
        weights={encoder: load(encoder).weights},
        config=dict(words),
        pictures=tuple(album.pictures),
    )
    return render_report(data)


def _subtitle(rows: Rows) -> str:
    """The first sentence on how the classes were formed; all of it stands with the provenance."""
    how = str(rows.catalogs[0]["classes"].get("how", "")).strip() if rows.catalogs else ""
    return how.partition(". ")[0].rstrip(".") + "." if how else ""


def _command(words: Mapping[str, Any]) -> str:
    """What a shell runs to build this again."""
    return shlex.join(["datakit", "build", "recipe=fg_ood", *to_words(words)])


def _splits(split: pa.Table, table: pa.Table, notes: Mapping[str, str]) -> Iterable[SplitRow]:
    for name, note in notes.items():
        rows = np.flatnonzero(is_in(split["publish"], name))
        if len(rows):
            classes = pc.count_distinct(split["class_name"].take(pa.array(rows))).as_py()
            size = pc.sum(table["bytes"].take(pa.array(rows))).as_py()
            yield SplitRow(name=name, samples=len(rows), description=note, classes=classes, bytes=size)


def _duplicates(
    split: pa.Table, lists: pa.ChunkedArray, pairs: pa.Table, album: Album
) -> Iterable[DuplicatePair]:
    """Undeclared pairs first, the closest first. lists: of each row the list it is published in."""
    order = pairs.sort_by([("declared", "ascending"), ("distance", "ascending"), ("key_a", "ascending")])
    publish, reason = lists.to_pylist(), split["reason"].to_pylist()
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
    keys = (pair["key_a"], pair["key_b"])
    gone = [key for key, reason in zip(keys, reasons, strict=True) if reason == "duplicate"]
    if gone:
        return f"{'one' if len(gone) == 1 else 'both'} dropped: {' and '.join(gone)}"
    if pair["declared"]:
        return "declared variants of one drawing"
    out = [reason or "unused" for reason, name in zip(reasons, publish, strict=True) if name is None]
    if out:
        return f"{'one' if len(out) == 1 else 'both'} left out: {' and '.join(dict.fromkeys(out))}"
    return "kept: both in " + publish[0] if publish[0] == publish[1] else "kept in two splits"


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


def catalog_rows(rows: Rows) -> Iterable[CatalogRow]:
    """Where the rows come from, for any report."""
    for catalog in rows.catalogs:
        yield CatalogRow(
            title=catalog["title"],
            checksum=catalog["checksum"],
            licence=str(catalog["licence"].get("spdx", "")),
            homepage=catalog["homepage"],
            citation=catalog["citation"],
            description=str(catalog["classes"].get("how", "")).strip(),
        )


def licence_rows(table: pa.Table) -> Iterable[LicenceRow]:
    """Licences by how many images have them, for any report."""
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
