"""Tiers are what they say: the stored distances are right, near has an ID sibling, nearer tiers are nearer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datakit.check.finding import Finding, first_keys
from datakit.check.sides import Columns, keys_of, only, read_split
from datakit.errors import ConfigError
from datakit.stage import Ref, Rows, reduce
from datakit.stages.columns import unit

TIERS = ("near", "mid", "far")
NONE = math.inf  # levels to a common ancestor that is not there
ROUNDING = 1e-5  # of a cosine in float32
# all images of a class have the same
PLACE = ("pool", "taxonomy", "tier", "tax_distance", "nearest_id_class", "attr_distance")
Path = tuple[str, ...]
Spread = dict[str, list[float]]  # tier → distances of its classes


@reduce(version=3)
def check_tax_distance(
    rows: Rows,
    *,
    split: Ref[pa.Table],
    seed: int | None = None,
    tiers: str = "taxonomy",
    attributes: Ref[pa.Table] | None = None,
) -> list[dict[str, Any]]:
    """Measured anew, each held-out class against every ID class: the stored distances and nearest ID class are
    right, for all its images. The pools far and coarse are tiers of their own, and coarse has no ancestor in
    common with ID. In the main pool, with tiers "taxonomy", near has an ID sibling (or there is no taxonomy), mid
    an ID cousin, far neither, and all is nearer than the pool far; with "attributes" every class of a tier is as
    far by attributes as all of the nearer tier.

    attributes: class_name and its vector, of `class_features`. Raises ConfigError if tiers need it and it lacks.
    """
    by_attributes = tiers == "attributes"
    if by_attributes and attributes is None:
        raise ConfigError("tiers=attributes needs the classes' attributes; give a table of them")
    columns = _with_paths(read_split(rows, split.value, "pool", "taxonomy"))
    known = _Known(only(columns, role="id"), None if attributes is None else attributes.value)
    held = only(columns, role=("ood", "val_ood"))
    classes = _classes(held)
    bad: dict[str, str] = {}
    spread: Spread = {tier: [] for tier in TIERS}
    for name, found in sorted(classes.items()):
        place = {column: values[0] for column, values in found.items()}
        if problem := _mixed(found) or _problem(name, place, known, by_attributes):
            bad[name] = problem
        measure = place["attr_distance"] if by_attributes else known.levels_to(place["taxonomy"])[0]
        # With attributes the pool far is no third of anything: its classes may look like ours.
        counts = place["tier"] in spread and not (by_attributes and place["pool"] != "main")
        if counts and measure is not None:
            spread[place["tier"]].append(measure)
    torn = [] if known.flat and not by_attributes else _not_monotone(spread, strictly=not by_attributes)
    return [_finding(bad, torn, spread, held, len(classes), seed)]


def _with_paths(columns: Columns) -> Columns:
    return columns | {
        "pool": [pool or "main" for pool in columns["pool"]],
        "taxonomy": [tuple(path or ()) for path in columns["taxonomy"]],
    }


def _classes(held: Columns) -> dict[str, dict[str, list[Any]]]:
    """Held-out class → column → the different values that its images have, in the order of the rows."""
    found: dict[str, dict[str, list[Any]]] = {}
    for name, *values in zip(held["class_name"], *(held[column] for column in PLACE), strict=True):
        place = found.setdefault(name, {column: [] for column in PLACE})
        for column, value in zip(PLACE, values, strict=True):
            if value not in place[column]:
                place[column].append(value)
    return found


class _Known:
    """The ID classes, and how far another class is from them: by levels, and by attributes where they are given.

    Levels of the paths are numbered, one column a level.
    """

    def __init__(self, columns: Columns, attributes: pa.Table | None) -> None:
        paths: dict[str, Path] = dict(zip(columns["class_name"], columns["taxonomy"], strict=True))
        self.names = sorted(paths)
        self.flat = not any(paths.values())
        self.with_attributes = attributes is not None
        self._number: dict[str, int] = {}
        depth = max(map(len, paths.values()), default=0)
        self._levels = np.array(
            [
                [self._number.setdefault(level, len(self._number)) for level in paths[name]]
                + [-1] * (depth - len(paths[name]))
                for name in self.names
            ],
            dtype=np.int64,
        ).reshape(len(self.names), depth)
        self._vectors = _vectors(attributes)
        none = np.full(len(next(iter(self._vectors.values()), ())), np.nan)
        rows = [self._vectors.get(("main", name), none) for name in self.names]
        self._known_ND = np.array(rows, dtype=np.float32).reshape(len(self.names), len(none))

    def levels_to(self, path: Path) -> tuple[float, list[str]]:
        """(levels up from a class at `path` to its nearest common ancestor with an ID class, those classes)"""
        wanted = np.array([self._number.get(level, -2) for level in path[: self._levels.shape[1]]], np.int64)
        same = self._levels[:, : len(wanted)] == wanted
        shared = np.cumprod(same, axis=1).sum(axis=1) if len(wanted) else np.zeros(len(same))
        best = int(shared.max(initial=0))
        distance = len(path) + 1 - best if best else NONE
        return distance, [self.names[index] for index in np.flatnonzero(shared == best)]

    def attributes_to(self, pool: str, name: str) -> dict[str, float]:
        """ID class → 1 - cosine to class `name` of a pool, as far as both have a vector."""
        if (pool, name) not in self._vectors:
            return {}
        distances = 1 - self._known_ND @ self._vectors[pool, name]
        return {self.names[index]: float(distances[index]) for index in np.flatnonzero(~np.isnan(distances))}


def _vectors(attributes: pa.Table | None) -> Mapping[tuple[str, str], NDArray[np.float32]]:
    """(pool, class) → unit vector: classes of one name in two pools are two."""
    if attributes is None or not attributes.num_rows:
        return {}
    vectors = unit(np.array(attributes["attributes"].to_pylist(), dtype=np.float32))
    classes = zip(attributes["pool"].to_pylist(), attributes["class_name"].to_pylist(), strict=True)
    return dict(zip(classes, vectors, strict=True))


def _mixed(found: Mapping[str, list[Any]]) -> str:
    """Where images of one class are told to be at different places, or nothing."""
    return next(
        (
            f"has images of {name} {values[0]} and of {values[1]}"
            for name, values in found.items()
            if values[1:]
        ),
        "",
    )


def _problem(name: str, place: Mapping[str, Any], known: _Known, by_attributes: bool) -> str:
    """What is wrong with a class's place, or nothing."""
    distance, nearest = known.levels_to(place["taxonomy"])
    told = NONE if place["tax_distance"] is None else place["tax_distance"]
    if told != distance:
        return f"is stored at distance {place['tax_distance']}, but is at {_text(distance)}"
    if place["pool"] == "coarse" and distance != NONE:
        return f"is coarse, but shares an ancestor with {min(nearest)}"
    ranked = by_attributes and place["pool"] == "main"
    expected = place["tier"] if ranked else _tier(place, distance, known.flat)
    if place["tier"] != expected:
        return f"is in tier {place['tier']}, but at {_text(distance)} it belongs in {expected}"
    away = known.attributes_to(place["pool"], name)
    if ranked and not away:
        return "has no attributes"
    allowed = set[str | None](nearest) | ({None} if distance == NONE else set())
    if away and (ranked or distance == NONE):
        closest = min(away.values())
        allowed = {other for other, far in away.items() if far <= closest + ROUNDING}
    if place["nearest_id_class"] not in allowed:
        better = min(filter(None, allowed), default="no class")
        return f"has nearest ID class {place['nearest_id_class']}, but {better} is nearer"
    return _wrong_attributes(place, away) if known.with_attributes else ""


def _tier(place: Mapping[str, Any], distance: float, flat: bool) -> str:
    """The tier of a class at this distance. Without a taxonomy the whole set is one family: all are siblings."""
    if place["pool"] != "main":
        return str(place["pool"])
    if distance == NONE:
        return "near" if flat and not place["taxonomy"] else "far"
    return TIERS[min(int(distance), 3) - 1]


def _wrong_attributes(place: Mapping[str, Any], away: Mapping[str, float]) -> str:
    told, measured = place["attr_distance"], away.get(place["nearest_id_class"])
    none = told is None or measured is None
    same = told is measured if none else abs(told - measured) <= ROUNDING
    return "" if same else f"is stored at attribute distance {told}, but is at {measured}"


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
