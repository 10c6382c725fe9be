"""How far each held-out class is from the nearest class that the model knows, and the tier this makes it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datakit.errors import ConfigError, did_you_mean
from datakit.stages.classes import Path
from datakit.stages.columns import Bools, Ints, unit

Vectors = Mapping[str, NDArray[np.float32]]  # class → unit vector
TIERS = ("near", "mid", "far")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a held-out class lies, seen from the ID classes.

    nearest: the nearest ID class. distance: levels up from the class to the lowest common ancestor with it,
    None where they share none. ratio: 1 - 2·depth(ancestor) / (depth(class) + depth(nearest)), after Wu and
    Palmer, in [0, 1]; it makes distances comparable in unbalanced trees; None without a taxonomy.
    attr_distance: 1 - cosine of the attribute vectors.
    """

    tier: str
    nearest: str | None = None
    distance: int | None = None
    ratio: float | None = None
    attr_distance: float | None = None


def place_by_taxonomy(
    paths: Mapping[str, Path], id_classes: Iterable[str], held_out: Iterable[str], vectors: Vectors
) -> dict[str, Place]:
    """Tiers by levels: near shares its parent with an ID class, mid its grandparent, far less or nothing.

    Of equally near ID classes the one of smallest ratio counts, then of smallest attribute distance (where
    `vectors` has both), then the first by name. In a data set without a taxonomy every class is near: the
    whole set is one family.
    """
    known = _Known.of(paths, id_classes, vectors)
    return {name: _place(paths[name], known, vectors.get(name)) for name in held_out}


def place_by_attributes(
    paths: Mapping[str, Path], id_classes: Sequence[str], held_out: Sequence[str], vectors: Vectors
) -> dict[str, Place]:
    """Tiers by thirds of the cosine distance to the nearest ID class; the taxonomic distance goes along.

    As in the Semantic Shift Benchmark, whose splits of CUB rest on attribute vectors.
    Raises ConfigError on a class without a vector.
    """
    known = _Known.of(paths, id_classes, vectors)
    for name in [*known.names, *held_out]:
        if name not in vectors:
            raise ConfigError(f"class {name} has no attributes{did_you_mean(name, vectors)}")
    by_levels = place_by_taxonomy(paths, id_classes, held_out, vectors)
    found: dict[str, Place] = {}
    for name in held_out:
        nearest, distance = known.closest(vectors[name], known.all)
        found[name] = replace(by_levels[name], nearest=nearest, attr_distance=distance)
    order = sorted(held_out, key=lambda name: (found[name].attr_distance, name))
    for tier, part in zip(TIERS, np.array_split(np.array(order, dtype=object), 3), strict=True):
        found |= {name: replace(found[name], tier=tier) for name in part}
    return found


def class_vectors(table: pa.Table | None, pool_of: Mapping[str, str]) -> dict[str, NDArray[np.float32]]:
    """Class → unit vector, for the classes in `pool_of`, from the table of `class_features`.

    pool_of: class → its pool, since classes of several pools may have one name.
    """
    if table is None or table.num_rows == 0:
        return {}
    flat = table["attributes"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    vectors = unit(flat.reshape(table.num_rows, -1).astype(np.float32))
    rows = zip(table["pool"].to_pylist(), table["class_name"].to_pylist(), vectors, strict=True)
    return {name: vector for pool, name, vector in rows if pool_of.get(name) == pool}


@dataclass(frozen=True, kw_only=True)
class _Known:
    """The ID classes, sorted by name: their depth, who lies under each inner node, and their unit vectors."""

    names: list[str]
    depth: Ints
    below: Mapping[Path, Ints]
    vectors_ND: NDArray[np.float32]  # zero where a class has none
    has_vector: Bools

    @classmethod
    def of(cls, paths: Mapping[str, Path], id_classes: Iterable[str], vectors: Vectors) -> _Known:
        names = sorted(id_classes)
        below = defaultdict[Path, list[int]](list)
        for index, name in enumerate(names):
            for depth in range(1, len(paths[name]) + 1):
                below[paths[name][:depth]].append(index)
        dim = len(next(iter(vectors.values()))) if vectors else 0
        rows = [vectors.get(name, np.zeros(dim, dtype=np.float32)) for name in names]
        return cls(
            names=names,
            depth=np.array([len(paths[name]) + 1 for name in names], dtype=np.int64),
            below={node: np.array(indices, dtype=np.int64) for node, indices in below.items()},
            vectors_ND=np.array(rows, dtype=np.float32).reshape(len(names), dim),
            has_vector=np.array([name in vectors for name in names], dtype=bool),
        )

    @property
    def all(self) -> Ints:
        return np.arange(len(self.names))

    def closest(self, vector: NDArray[np.float32] | None, among: Ints) -> tuple[str | None, float | None]:
        """The class of `among` with the most alike vector and 1 - cosine to it; ties go to the first by name."""
        among = among[self.has_vector[among]]
        if vector is None or not len(among):
            return None, None
        # Copying the rows of all classes for each held-out one would cost more than the product.
        rows = self.vectors_ND if len(among) == len(self.names) else self.vectors_ND[among]
        distances = 1 - rows @ vector
        best = int(np.argmin(distances))
        return self.names[among[best]], float(distances[best])


def _place(path: Path, known: _Known, vector: NDArray[np.float32] | None) -> Place:
    shared = next((depth for depth in range(len(path), 0, -1) if path[:depth] in known.below), 0)
    if not shared:
        # No common ancestor: a nearest class can still be told by attributes, but not by name alone.
        nearest, attr = known.closest(vector, known.all)
        tier, ratio = ("far", 1.0) if path or known.below else ("near", None)
        return Place(tier=tier, nearest=nearest, ratio=ratio, attr_distance=attr)
    under = known.below[path[:shared]]
    shallow = under[known.depth[under] == known.depth[under].min()]
    nearest, attr = known.closest(vector, shallow)
    distance = len(path) + 1 - shared
    return Place(
        tier=TIERS[min(distance, 3) - 1],
        nearest=nearest or known.names[shallow[0]],
        distance=distance,
        ratio=1 - 2 * shared / (len(path) + 1 + int(known.depth[shallow[0]])),
        attr_distance=attr,
    )
