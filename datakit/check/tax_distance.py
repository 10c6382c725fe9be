"""Tiers are what they say: the stored distances are right, near is nearer than mid, mid than far."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datakit.check.finding import Finding, first_keys
from datakit.check.sides import Columns, keys_of, only, read_split
from datakit.stage import Ref, Rows, reduce

TIERS = ("near", "mid", "far")
NONE = math.inf  # levels to a common ancestor that is not there
Path = tuple[str, ...]
Spread = dict[str, list[float]]  # tier → distances of its classes


@reduce(version=1)
def check_tax_distance(
    rows: Rows, *, split: Ref[pa.Table], seed: int | None = None, tiers: str = "taxonomy"
) -> list[dict[str, Any]]:
    """Measured anew from the rows' taxonomy, each held-out class against every ID class: the stored distance
    and nearest ID class are right, and every class of a tier is farther than all of the nearer tier. With
    tiers "taxonomy" near means an ID sibling; with "attributes" the attribute distances are ordered instead.
    """
    columns = read_split(rows, split.value, "taxonomy")
    path_of = {
        name: (tuple(path or ()), name)
        for name, path in zip(columns["class_name"], columns["taxonomy"], strict=True)
        if name is not None
    }
    known = sorted(set(only(columns, role="id")["class_name"]))
    held = only(columns, role=("ood", "val_ood"))
    classes = {name: i for i, name in enumerate(held["class_name"])}
    flat = not any(path_of[name][0] for name in known)
    by_taxonomy = tiers == "taxonomy"
    shared = _Shared([path_of[name][0] for name in known])
    bad: dict[str, str] = {}
    spread: Spread = {tier: [] for tier in TIERS}
    for name, row in sorted(classes.items()):
        stored = {column: values[row] for column, values in held.items()}
        distance, nearest = shared.with_path(path_of[name][0])
        names = {known[index] for index in nearest}
        problem = _problem(stored, distance, names if by_taxonomy else set(known), flat)
        if problem:
            bad[name] = problem
        measure = distance if by_taxonomy else stored["attr_distance"]
        if stored["tier"] in spread and measure is not None:
            spread[stored["tier"]].append(measure)
    torn = [] if flat and by_taxonomy else _not_monotone(spread, strictly=by_taxonomy)
    return [_finding(bad, torn, spread, held, len(classes), seed)]


class _Shared:
    """How many leading levels a path shares with each ID class; levels are numbered, one column a level."""

    def __init__(self, paths: list[Path]) -> None:
        depth = max(map(len, paths), default=0)
        self.number: dict[str, int] = {}
        self.levels = np.array(
            [[self._of(level) for level in path] + [-1] * (depth - len(path)) for path in paths],
            dtype=np.int64,
        ).reshape(len(paths), depth)

    def _of(self, level: str) -> int:
        return self.number.setdefault(level, len(self.number))

    def with_path(self, path: Path) -> tuple[float, NDArray[np.int64]]:
        """(levels up from a class at `path` to its nearest common ancestor with an ID class, those classes)"""
        wanted = np.array([self.number.get(level, -2) for level in path[: self.levels.shape[1]]], np.int64)
        same = self.levels[:, : len(wanted)] == wanted
        shared = np.cumprod(same, axis=1).sum(axis=1) if len(wanted) else np.zeros(len(same))
        best = int(shared.max(initial=0))
        distance = len(path) + 1 - best if best else NONE
        return distance, np.flatnonzero(shared == best)


def _problem(stored: dict[str, Any], distance: float, nearest: set[str], flat: bool) -> str:
    """What is wrong with a class's place, or nothing."""
    told = NONE if stored["tax_distance"] is None else stored["tax_distance"]
    if told != distance:
        return f"is stored at distance {stored['tax_distance']}, but is at {_text(distance)}"
    if stored["nearest_id_class"] not in nearest | ({None} if distance == NONE else set()):
        return f"has nearest ID class {stored['nearest_id_class']}, but {min(nearest)} is nearer"
    return ""


def _not_monotone(spread: Spread, *, strictly: bool) -> list[str]:
    """Neighbouring tiers that overlap, in words. Thirds of equal attribute distances may touch."""
    present = [tier for tier in TIERS if spread[tier]]
    return [
        f"{nearer} reaches {_text(max(spread[nearer]))}, but {farther} begins at {_text(min(spread[farther]))}"
        for nearer, farther in pairwise(present)
        if max(spread[nearer]) > min(spread[farther])
        or (strictly and max(spread[nearer]) == min(spread[farther]))
    ]


def _finding(
    bad: dict[str, str],
    torn: list[str],
    spread: Spread,
    held: Columns,
    classes: int,
    seed: int | None,
) -> dict[str, Any]:
    problems = [*torn, *(f"{name} {text}" for name, text in bad.items())]
    return Finding(
        id="tax_distance",
        severity="fail",
        passed=not problems,
        count=len(problems),
        keys=first_keys(keys_of(held, "class_name", bad)),
        summary=problems[0] if problems else f"{classes} held-out classes are where their tier says",
        detail={
            "distances": {t: [_text(min(v)), _text(max(v))] for t, v in spread.items() if v},
            "problems": problems[:50],
        },
        seed=seed,
    ).to_json()


def _text(distance: float) -> str:
    return "no common ancestor" if distance == NONE else f"{distance:g}"
