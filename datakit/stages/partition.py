"""Which images of a class go to test and which to validation: by the source's own word, by a rule, by draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.errors import ConfigError, did_you_mean
from datakit.rng import rng_for
from datakit.stage import Rows
from datakit.stages.columns import Bools, Ints, codes, words
from datakit.stages.groups import by_value, draw_whole


def official_parts(table: pa.Table) -> tuple[Bools, Bools, Bools]:
    """(ruled, test, val): rows whose source has an official test split, and the official test and val images.

    An image without a flag in a source that has a test split counts as train. Each pool of a catalog is a source
    of its own: a folder of coarse images with a test split says nothing of the main folder.
    """
    flag = words(table["official_split"])
    catalog, pool = pc.fill_null(table["catalog"], ""), pc.fill_null(table["pool"], "main")
    source, names = codes(pc.binary_join_element_wise(pool, catalog, "\0"))
    has = np.zeros(len(names), dtype=bool)
    has[source[flag == "test"]] = True
    return has[source], flag == "test", flag == "val"


def rule_matches(rows: Rows, where: Mapping[str, Sequence[str]]) -> Bools:
    """Rows whose every field of `where` has one of its values, as text. Raises ConfigError on an unknown field."""
    found = np.ones(len(rows), dtype=bool)
    for field, values in where.items():
        if field not in rows.columns:
            raise ConfigError(f"test: no column {field}{did_you_mean(field, rows.columns)}")
        text = rows.table([field]).column(0).cast(pa.string())
        found &= pc.is_in(text, value_set=pa.array(list(values), pa.string())).to_numpy()
    return found


def draw_by_class(
    class_of: Ints,
    names: Sequence[str],
    candidates: Bools,
    atoms: Ints,
    *,
    fraction: float,
    leave: int,
    seed: int,
    part: str,
) -> Bools:
    """`fraction` of the candidate images of each class, at least one, whole atoms only, by one draw a class.

    atoms: of each row the group that stays together. `leave` atoms of a class are left over, so that a class
    too poor for all of its parts ends without this one. An atom with images of several classes goes with
    the first of them by name.
    """
    side = np.zeros(len(atoms), dtype=np.int8)  # by atom: 0 open, 1 stays, 2 drawn
    images = np.flatnonzero(candidates)
    members = by_value(class_of[images])
    for index in sorted(members, key=lambda index: names[index]):
        atom = atoms[images[members[index]]]
        wanted = max(1, round(fraction * len(atom))) - int((side[atom] == 2).sum())
        free = atom[side[atom] == 0]
        stay = leave - len(np.unique(atom[side[atom] == 1]))
        taken = draw_whole(free, wanted, rng_for(seed, part, names[index]), leave=max(0, stay))
        side[free] = np.where(taken, 2, 1)
    drawn: Bools = candidates & (side[atoms] == 2)
    return drawn


def balanced_sample(groups: Ints, size: int, rng: np.random.Generator) -> Bools:
    """`size` items (all, if fewer), as many of each group as of any other while it has some left."""
    order = rng.permutation(len(groups))
    ranked = order[np.argsort(groups[order], kind="stable")]
    _, start, count = np.unique(groups[ranked], return_index=True, return_counts=True)
    turn = np.empty(len(groups), dtype=np.int64)
    turn[ranked] = np.arange(len(groups)) - np.repeat(start, count)
    by_turn = order[np.argsort(turn[order], kind="stable")]
    chosen = np.zeros(len(groups), dtype=bool)
    chosen[by_turn[:size]] = True
    return chosen
