"""The classes of all pools: how many images, where in the taxonomy, and which must never be parted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.errors import CatalogError, ConfigError, did_you_mean
from datakit.stage import Ref, Rows, reduce
from datakit.stages.columns import Bools, Ints, codes, read_columns, same_order, unit, unit_vectors
from datakit.stages.groups import components, same_value
from datakit.stages.names import canonical, collisions

SEP = "\x1f"  # between the levels of a path, and between pool and class; in no name
Path = tuple[str, ...]  # root → parent of a class, without the class itself
NAMES = pa.list_(pa.string())


@reduce(version=3)
def class_table(rows: Rows, *, synonyms: Sequence[Sequence[str]] = ()) -> pa.Table:
    """One row a class of a pool, sorted by pool and name; rows without a class are left out.

    pool, class_name, images, taxonomy, orig_label, identity_group and concept (null where the class has none
    or several), normal_name, collides_with: the other classes of any pool with the same normal name, unit:
    one class in the name of all that share an identity group, a variant group or a normal name, or lie one
    under the other in the taxonomy. A unit is held out whole or not at all. Outlier classes join no unit.

    synonyms: groups of names of one class.  Raises CatalogError on a class with two parents.
    """
    fields = ("orig_label", "taxonomy", "identity_group", "variant_group", "concept")
    table = read_columns(rows, "pool", "class_name", *fields)
    table = table.filter(pc.is_valid(table["class_name"]))
    number, pools, names = number_classes(table)
    paths = _paths(table, number, pools, names)
    same, clash = canonical(synonyms), collisions(names, synonyms)
    normal = [same(name) for name in names]
    edges = [
        _kin(pa.array([None if pool == "outliers" else n for pool, n in zip(pools, normal, strict=True)])),
        _nested(pools, normal, [tuple(map(same, path)) for path in paths]),
        *(_shared(table, number, field) for field in ("identity_group", "variant_group")),
    ]
    unit_of = components(len(names), *(np.concatenate(ends) for ends in zip(*edges, strict=True)))
    others = [
        [other for other in clash.get(n, []) if other != name] for n, name in zip(normal, names, strict=True)
    ]
    return pa.table(
        {
            "pool": pa.array(pools, pa.string()),
            "class_name": pa.array(names, pa.string()),
            "images": pa.array(np.bincount(number, minlength=len(names)), pa.int64()),
            "taxonomy": pa.array([list(path) for path in paths], NAMES),
            "orig_label": pa.array(_only(table, number, "orig_label", len(names)), pa.int64()),
            "identity_group": pa.array(_only(table, number, "identity_group", len(names)), pa.string()),
            "concept": pa.array(_only(table, number, "concept", len(names)), pa.string()),
            "normal_name": pa.array(normal, pa.string()),
            "collides_with": pa.array(others, NAMES),
            "unit": pa.array([names[first] for first in unit_of], pa.string()),
        }
    )


@reduce(version=2)
def class_features(rows: Rows, *, features: Ref[Rows], name: str = "features") -> pa.Table:
    """The mean direction of each class's vectors: pool, class_name, attributes (list of float32); no outliers.

    Stands in for attribute vectors where a catalog has none, and breaks ties between equally near classes.
    name: `features`, which every image must have, or a source's own column; there an image without a vector does
    not count, and a class of such images is not in the table.  Raises ConfigError on a column of no vectors.
    """
    same_order(rows, features.value, "features")
    number, pools, names = number_classes(read_columns(rows, "pool", "class_name"))
    ours = np.array([pool != "outliers" for pool in pools] + [False])  # the last is for rows without a class
    used = np.flatnonzero(ours[number])
    described = _described(features.value, name, used, [names[n] for n in number[used]])
    used = used if name == "features" else used[described]
    vectors = unit_vectors(features.value, used, name=name)
    for row in used[~np.isfinite(vectors).all(axis=1)]:
        raise ConfigError(f"{name}: class {names[number[row]]} has a vector with a value that is no number")
    found, inverse = np.unique(number[used], return_inverse=True)
    total = np.zeros((len(found), vectors.shape[1]), dtype=np.float32)
    np.add.at(total, inverse, vectors)
    return pa.table(
        {
            "pool": pa.array([pools[n] for n in found], pa.string()),
            "class_name": pa.array([names[n] for n in found], pa.string()),
            "attributes": pa.array(list(unit(total)), pa.list_(pa.float32())),
        }
    )


def number_classes(table: pa.Table) -> tuple[Ints, list[str], list[str]]:
    """For each row the number of its (pool, class), and pool and class by number; -1 for a row without a class."""
    pool = pc.fill_null(table["pool"], "main")
    number, joined = codes(pc.binary_join_element_wise(pool, table["class_name"], SEP))
    pairs = [text.split(SEP, 1) for text in joined]
    return number, [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def joined_paths(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Lists of levels as one text each; null counts as no levels."""
    text = pc.binary_join(column, SEP)
    return pc.fill_null(text, "")


def _described(rows: Rows, name: str, used: Ints, classes: Sequence[str]) -> Bools:
    """Which of the rows `used`, of these classes, have a vector in the column `name`."""
    if name not in rows.columns:
        raise ConfigError(f"attributes={name}: no such column{did_you_mean(name, rows.columns)}")
    column = rows.table([name]).column(name)
    if not _of_vectors(column.type):
        raise ConfigError(f"attributes={name}: the column holds {column.type}; it must hold lists of numbers")
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()[used]
    described = np.flatnonzero(lengths)
    for other in described[lengths[described] != lengths[described[:1]]]:
        first = described[0]
        raise ConfigError(
            f"attributes={name}: class {classes[other]} has {lengths[other]} numbers and class {classes[first]} "
            f"{lengths[first]}; all must have as many"
        )
    return np.asarray(lengths > 0)


def _of_vectors(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return any(is_(kind) for is_ in lists) and any(is_(kind.value_type) for is_ in numbers)


def _paths(table: pa.Table, number: Ints, pools: list[str], names: list[str]) -> list[Path]:
    path_number, paths = codes(joined_paths(table["taxonomy"]))
    pairs = np.unique(np.stack([number, path_number], axis=1), axis=0)
    _, first, count = np.unique(pairs[:, 0], return_index=True, return_counts=True)
    for index in np.flatnonzero(count > 1):
        # The outliers' paths place no class of ours; those of the other pools decide what is near and far.
        if pools[index] != "outliers":
            raise CatalogError(
                f"class {names[index]} has {count[index]} places in the taxonomy; give it one in the catalog"
            )
    return [tuple(paths[index].split(SEP)) if paths[index] else () for index in pairs[first, 1]]


def _only(table: pa.Table, number: Ints, field: str, size: int) -> list[Any]:
    """The one value that the class's rows have, or None."""
    values, known = codes(table[field])
    found: list[Any] = [None] * size
    pairs = np.unique(np.stack([number, values], axis=1)[values >= 0], axis=0)
    classes, first, count = np.unique(pairs[:, 0], return_index=True, return_counts=True)
    for index in np.flatnonzero(count == 1):
        found[classes[index]] = known[pairs[first[index], 1]]
    return found


def _kin(values: pa.Array) -> tuple[Ints, Ints]:
    return same_value(codes(values.cast(pa.string()))[0])


def _shared(table: pa.Table, number: Ints, field: str) -> tuple[Ints, Ints]:
    """Edges between classes with a value of `field` in common."""
    used = pc.not_equal(pc.fill_null(table["pool"], "main"), "outliers").to_numpy()
    values, _ = codes(table[field])
    keep = used & (values >= 0)
    pairs = np.unique(np.stack([number[keep], values[keep]], axis=1), axis=0)
    items, firsts = same_value(pairs[:, 1])
    return pairs[items, 0], pairs[firsts, 0]


def _nested(pools: list[str], names: list[str], paths: list[Path]) -> tuple[Ints, Ints]:
    """Edges from a class to the classes that lie above it: a kestrel is a falcon. Names and levels: normal ones."""
    used = [index for index, pool in enumerate(pools) if pool != "outliers"]
    at = {(*paths[index], names[index]): index for index in used}
    pairs = [
        (index, at[paths[index][:depth]])
        for index in used
        for depth in range(1, len(paths[index]) + 1)
        if paths[index][:depth] in at
    ]
    ends = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return ends[:, 0], ends[:, 1]
