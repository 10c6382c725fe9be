"""From ReportData to what the template prints: numbers, panels of pictures, tiers, classes, duplicates, outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from datakit.check import charts
from datakit.check.report_checks import tally, verdict
from datakit.check.report_data import ClassRow, OutcomeRow, ReportData, TierRow
from datakit.check.report_pictures import Album, strip_plan
from datakit.check.report_summary import by_tier, headline_row
from datakit.check.report_words import REASONS, TIER_ORDER, clean, plural, role_of, tier_title

MAX_CLASS_ROWS = 2000  # of the class table; beyond, a page is no place to read them
MAX_PAIRS = 24  # near-duplicates shown
HERO_SIDE, HERO_TILES, HERO_COLUMNS = 120, 9, 3
SHEET_SIDE, SHEET_TILES, SHEET_COLUMNS = 88, 24, 8
PAIR_SIDE = 112
LOOKALIKES = {"near": 12, "mid": 6, "far": 6}
KNOWN = ("train", "val", "test")  # splits with a column of their own; all others but the reserve are summed
STATUS_ROLES = {"kept": "pass", "dropped": "warn", "failed": "fail"}
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyNumber:
    """One large number at the top; `value` as it is to be read."""

    label: str
    value: str
    note: str = ""


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """At most `most` of the items, spread over the whole list, in order."""
    if len(items) <= most:
        return list(items)
    return [items[at * len(items) // most] for at in range(most)]


def key_numbers(data: ReportData) -> tuple[KeyNumber, ...]:
    """The large numbers at the top; only those the data holds."""
    found = [_images(data), _classes(data), _seeds(data), _checks(data), _near(data)]
    return tuple(number for number in found if number)


def _images(data: ReportData) -> KeyNumber | None:
    images = sum(split.samples for split in data.splits) or sum(tier.images for tier in data.tiers)
    parts = plural(len(data.splits), "split") if data.splits else plural(len(data.tiers), "tier")
    return KeyNumber(label="images", value=f"{images:,}", note=f"in {parts}") if images else None


def _classes(data: ReportData) -> KeyNumber | None:
    ours = sum(row.role == "id" for row in data.classes)
    held = sum(row.role in ("ood", "val_ood") for row in data.classes)
    if not ours + held:
        return None
    return KeyNumber(label="ID classes", value=f"{ours:,}", note=f"beside {held:,} OOD classes")


def _seeds(data: ReportData) -> KeyNumber | None:
    count = len(data.seeds)
    names = ", ".join(str(seed) for seed in data.seeds[:6]) + ("…" if count > 6 else "")
    return KeyNumber(label="seed" if count == 1 else "seeds", value=str(count), note=names) if count else None


def _checks(data: ReportData) -> KeyNumber | None:
    passed, total = sum(verdict(f) == "pass" for f in data.findings), len(data.findings)
    rest = ", ".join(f"{count} {word}" for name, word, count in tally(data.findings) if name != "pass")
    note = f"of {total}" + (f": {rest}" if rest else "")
    return KeyNumber(label="checks passed", value=f"{passed}", note=note) if total else None


def _near(data: ReportData) -> KeyNumber | None:
    found = headline_row(data.validation, "near") if data.validation else None
    if not found:
        return None
    row, fewer = found
    over = f", mean of {row.seeds}" if row.seeds > 1 else ""
    note = f"{row.detector} on {row.method}" + (f", {fewer}" if fewer else over)
    return KeyNumber(label="near-OOD AUROC", value=f"{100 * row.mean['auroc']:.1f}", note=note)


def hero(data: ReportData, album: Album) -> dict[str, Any]:
    """Panels of pictures side by side: ID, near, mid, far, coarse; each ID picture is the nearest class of the
    near picture at its place, where the classes say so."""
    pairs = evenly(_pairs(data, "near"), HERO_TILES)
    aligned = len(pairs) >= HERO_COLUMNS
    chosen = {tier.name: evenly(tier.pictures, HERO_TILES) for tier in data.tiers}
    if aligned:
        chosen["near"] = [held.pictures[0] for held, _ in pairs]
        chosen["id"] = [ours.pictures[0] for _, ours in pairs]
    names = ["id", *(name for name in by_tier(chosen) if name != "id" and role_of(name) != "outlier")]
    panels = [
        {"role": role_of(name), "title": tier_title(name),
         "definition": next((tier.definition for tier in data.tiers if tier.name == name), ""),
         "sheet": album.sheet(chosen[name], columns=HERO_COLUMNS, side=HERO_SIDE, role=role_of(name),
                              what=f"{tier_title(name)} pictures")}
        for name in names if chosen.get(name)
    ]  # fmt: skip
    return {"panels": panels, "aligned": aligned}


def _shown_as(row: ClassRow) -> str:
    """A class's tier, else its role; a class of val_ood has a tier too but is never tested in it."""
    return row.role if row.role == "val_ood" else row.tier or row.role


def _pairs(data: ReportData, tier: str) -> list[tuple[ClassRow, ClassRow]]:
    """(tested class, its nearest ID class) of a tier, both with pictures; no ID class twice if there are enough."""
    ours = {row.name: row for row in data.classes if row.role == "id" and row.pictures}
    found = [
        (row, ours[row.nearest_id_class])
        for row in data.classes
        if _shown_as(row) == tier and row.pictures and row.nearest_id_class in ours
    ]
    firsts = {near.name: (held, near) for held, near in reversed(found)}
    once = [pair for pair in found if firsts[pair[1].name] == pair]
    return once if len(once) >= HERO_TILES else once + [pair for pair in found if pair not in once]


def tiers_view(data: ReportData, album: Album) -> dict[str, Any]:
    """Ridges of distances over one axis, a card a tier, and look-alike pairs."""
    with_distances = [tier for tier in data.tiers if len(charts.finite(tier.distances))]
    cards = [
        {"name": tier.name, "role": role_of(tier.name), "title": tier_title(tier.name), "tier": tier,
         "sheet": album.sheet(evenly(tier.pictures, SHEET_TILES), columns=SHEET_COLUMNS, side=SHEET_SIDE,
                              role=role_of(tier.name), what=f"{tier_title(tier.name)} pictures")}
        for tier in data.tiers
    ]  # fmt: skip
    return {"cards": cards, "ridges": _ridges(with_distances), "lookalikes": _lookalikes(data, album)}


def _ridges(tiers: Sequence[TierRow]) -> list[dict[str, Any]]:
    """One group a unit of distance: rows that share an axis must share a unit."""
    groups = []
    for unit in dict.fromkeys(tier.distance for tier in tiers):
        rows = [tier for tier in tiers if tier.distance == unit]
        edges = charts.shared_edges([tier.distances for tier in rows])
        domain = (float(edges[0]), float(edges[-1]))
        whole = edges[0] % 1 == 0.5 and edges[1] - edges[0] == 1  # a bin a whole number: no tick in between
        ticks = [tick for tick in charts.nice_ticks(*domain) if not whole or tick % 1 == 0]
        groups.append({
            "unit": unit,
            "rows": [(tier_title(t.name), role_of(t.name), charts.finite(t.distances),
                      charts.ridge(t.distances, edges, role=role_of(t.name), label=f"{unit}: {clean(t.name)}"))
                     for t in rows],
            "axis": charts.axis(ticks, domain, [f"{tick:g}" for tick in ticks]),
        })  # fmt: skip
    return groups


def _lookalikes(data: ReportData, album: Album) -> list[dict[str, Any]]:
    return [
        {"role": role_of(tier), "held": held, "ours": ours,
         "sheet": album.sheet([ours.pictures[0], held.pictures[0]], columns=2, side=PAIR_SIDE,
                              what="pictures, ID left and held out right")}
        for tier in LOOKALIKES
        for held, ours in evenly(_pairs(data, tier), LOOKALIKES[tier])
    ]  # fmt: skip


def classes_view(data: ReportData, album: Album) -> dict[str, Any]:
    """Rows of the class table: held out first, near before far, then ID; by name within."""
    order = {tier: at for at, tier in enumerate(TIER_ORDER)}
    rows = sorted(data.classes, key=lambda r: (r.role == "id", order.get(_shown_as(r), 9), r.role, r.name))
    tiles, side, quality = strip_plan(min(len(rows), MAX_CLASS_ROWS))
    shown = [
        {"row": row, "role": (role := role_of(_shown_as(row))), "title": tier_title(_shown_as(row)),
         "path": " › ".join(row.taxonomy), "counts": _split_counts(row.counts),
         "strip": album.sheet(row.pictures[:tiles], columns=tiles, side=side, quality=quality, role=role)}
        for row in rows[:MAX_CLASS_ROWS]
    ]  # fmt: skip
    roles = dict.fromkeys((entry["role"], entry["title"]) for entry in shown)
    return {"rows": shown, "left": len(rows) - len(shown), "roles": list(roles), "columns": tiles}


def _split_counts(counts: Mapping[str, int]) -> list[int | None]:
    """Images in train, val, test, and in all other splits; None where the class has no such split."""
    others = [count for name, count in counts.items() if name and name not in (*KNOWN, "reserve")]
    return [*(counts.get(name) for name in KNOWN), sum(others) if others else None]


def duplicates_view(data: ReportData, album: Album) -> dict[str, Any]:
    shown = [
        {"pair": pair, "sheet": album.sheet(pair.pictures, columns=2, side=PAIR_SIDE, what="near-duplicates")}
        for pair in data.duplicates[:MAX_PAIRS]
    ]
    total = max(data.duplicate_pairs or 0, len(data.duplicates))
    return {"shown": shown, "total": total, "known": data.duplicate_pairs is not None or bool(shown)}


def outcomes_view(data: ReportData) -> dict[str, Any]:
    """What became of every sample, as one bar and one row a reason."""
    total = sum(row.count for row in data.outcomes)
    parts = [
        (_status_role(row), f"{clean(row.reason or row.status)}: {row.count:,}", float(row.count))
        for row in data.outcomes
    ]
    return {
        "total": total,
        "stack": charts.stack(parts, "outcomes: " + ", ".join(word for _, word, _ in parts)) if total else "",
        "rows": [
            (row, _status_role(row), REASONS.get(row.reason, ""), row.count / max(total, 1))
            for row in data.outcomes
        ],
        "conversions": sorted(data.conversions.items(), key=lambda item: (-item[1], item[0])),
    }


def _status_role(row: OutcomeRow) -> str:
    return STATUS_ROLES.get(row.status, "other")


def splits_view(data: ReportData) -> dict[str, Any]:
    parts = [(role_of(s.name), f"{clean(s.name)}: {s.samples:,}", float(s.samples)) for s in data.splits]
    label = "images by split: " + ", ".join(word for _, word, _ in parts)
    return {"stack": charts.stack(parts, label), "rows": [(s, role_of(s.name)) for s in data.splits]}
