"""No class is on two sides, whatever it is called there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pyarrow as pa

from datakit.check.finding import Finding, first_keys
from datakit.check.sides import Columns, count_of, keys_of, read_split, used
from datakit.stage import Ref, Rows, reduce
from datakit.stages.names import canonical


@reduce(version=3)
def check_class_disjoint(
    rows: Rows,
    *,
    split: Ref[pa.Table],
    seed: int | None = None,
    synonyms: Sequence[Sequence[str]] = (),
) -> list[dict[str, Any]]:
    """ID, OOD, validation OOD and outliers share no class after case, accents, punctuation and plurals are
    folded and `synonyms` joined; and no class of one side lies under a class of the other in the taxonomy.
    """
    columns = used(read_split(rows, split.value, "taxonomy"))
    same = canonical(synonyms)
    spelt = {name: same(name) for name in set(columns["class_name"]) if name is not None}
    sides = defaultdict[str, set[tuple[str, str]]](set)  # normal name → (side, name as written)
    for name, role in set(zip(columns["class_name"], columns["role"], strict=True)):
        if name is not None:
            sides[spelt[name]].add((role, name))
    shared = {
        normal: [f"{name} ({role})" for role, name in sorted(found)]
        for normal, found in sorted(sides.items())
        if len({role for role, _ in found}) > 1
    }
    nested = _nested(columns, cache(same))
    names = {name for name, normal in spelt.items() if normal in shared} | {name for name, _ in nested}
    count = len(shared) + len(nested)
    examples = [
        *(" is ".join(found) for found in shared.values()),
        *(" lies under ".join(pair) for pair in nested),
    ]
    return [
        Finding(
            id="class_disjoint",
            severity="fail",
            passed=not count,
            count=count,
            keys=first_keys(keys_of(columns, "class_name", names)),
            summary=f"{count_of(count, 'class is', 'classes are')} on two sides: {examples[0]}"
            if count
            else f"{count_of(len(spelt), 'class', 'classes')}, none on two sides",
            detail={"shared": shared, "nested": [list(pair) for pair in nested]},
            seed=seed,
        ).to_json()
    ]


def _nested(columns: Columns, same: Callable[[str], str]) -> list[tuple[str, str]]:
    """(class, class above it) on two sides, ID, held out or outliers; levels as `same` folds them."""
    classes = {
        ((*map(same, path), same(name)), role, name)
        for name, path, role in set(
            zip(columns["class_name"], map(_tuple, columns["taxonomy"]), columns["role"], strict=True)
        )
        if name is not None
    }
    at = defaultdict[tuple[str, ...], set[tuple[str, str]]](set)  # folded path → (role, name as written)
    for path, role, name in classes:
        at[path].add((role, name))
    return sorted(
        {
            (name, above)
            for path, role, name in classes
            for depth in range(1, len(path))
            for other, above in at.get(path[:depth], ())
            if other != role
        }
    )


def _tuple(path: list[str] | None) -> tuple[str, ...]:
    return tuple(path or ())
