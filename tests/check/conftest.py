"""A small good build that the fine-grained OOD checks pass, and ways to break it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.rng import rng_for
from datakit.stage import Ref, Rows, Stage
from datakit.stages.classes import class_table
from datakit.stages.columns import TableRows
from datakit.stages.duplicates import near_duplicates
from datakit.stages.holdout import hold_out
from datakit.stages.outliers import leaky_outliers
from datakit.stages.split import split

# order → family → classes; swift, lark (near), all owls (mid) and all ducks (far) are held out
BIRDS = {
    "songbirds": {"finches": ["siskin", "linnet", "serin", "swift"],
                  "larks": ["wood lark", "sky lark", "lark", "bunting"]},
    "hunters": {"falcons": ["kestrel", "hobby", "merlin"], "owls": ["barn owl", "eagle owl"]},
    "waterfowl": {"ducks": ["teal", "pintail"]},
}  # fmt: skip
HELD_OUT = ("swift", "lark", "barn owl", "eagle owl", "teal", "pintail")
BESIDE = {
    "far": {"jet": ["machines", "planes"], "glider": ["machines", "planes"]},
    "coarse": {"cup": ["kitchen", "dishes"]},
    "outliers": {"chair": ["furniture", "seats"], "stool": ["furniture", "seats"]},
}
PER_CLASS = 10


@dataclass(frozen=True, kw_only=True)
class Build:
    """Rows, their features and one seed's split."""

    rows: TableRows
    features: TableRows
    split: pa.Table

    def where(self, **wanted: Any) -> list[int]:
        """Row numbers at which columns of the split have these values."""
        columns = {name: self.split[name].to_pylist() for name in wanted}
        return [i for i in range(len(self.rows)) if all(columns[n][i] == v for n, v in wanted.items())]

    def planted(self, **changes: Mapping[int, Any]) -> Build:
        """The same split over rows that are otherwise: column → row → value."""
        return replace(self, rows=TableRows(_changed(self.rows.data, changes)))

    def misfiled(self, **changes: Mapping[int, Any]) -> Build:
        """Another split of the same rows: column → row → value."""
        return replace(self, split=_changed(self.split, changes))

    def find(self, check: Callable[..., Stage[Any]], **options: Any) -> dict[str, Any]:
        """The first finding of a check on this build."""
        found: dict[str, Any] = check(split=Ref.of(self.split), seed=0, **options)(self.rows)[0]
        assert found["seed"] == 0 and found["summary"]
        return found

    def features_ref(self) -> Ref[Rows]:
        return Ref.of(self.features)


def _changed(table: pa.Table, changes: Mapping[str, Mapping[int, Any]]) -> pa.Table:
    for name, values in changes.items():
        column = table[name].to_pylist() if name in table.column_names else [None] * table.num_rows
        for row, value in values.items():
            column[row] = value
        array = pa.array(column, table.schema.field(name).type if name in table.column_names else None)
        at = table.column_names.index(name) if name in table.column_names else None
        table = table.append_column(name, array) if at is None else table.set_column(at, name, array)
    return table


def _samples() -> list[dict[str, Any]]:
    classes = [
        ("main", name, [order, family]) for order, families in BIRDS.items() for family, names in families.items()
        for name in names
    ] + [(pool, name, path) for pool, found in BESIDE.items() for name, path in found.items()]  # fmt: skip
    samples = []
    for label, (pool, name, path) in enumerate(classes):
        for index in range(PER_CLASS):
            rng = rng_for(0, "toy", name, index)
            samples.append(
                {
                    "__key__": f"{name.replace(' ', '-')}-{index}",
                    "pool": pool,
                    "catalog": "toy",
                    "class_name": name,
                    "orig_label": label,
                    "taxonomy": path,
                    "content": rng.bytes(16).hex(),
                    "phash": rng.bytes(8).hex(),
                    "phash_flip": rng.bytes(8).hex(),
                    "width": int(rng.integers(200, 400)),
                    "height": int(rng.integers(200, 400)),
                    "format": "JPEG",
                    "bytes": int(rng.integers(9_000, 20_000)),
                    "mean_rgb": rng.uniform(0, 255, 3).tolist(),
                    "identity_group": name.split()[-1] if "owl" in name else None,
                }
            )
    return samples


def _features(samples: list[dict[str, Any]]) -> pa.Table:
    """Vectors that agree with the taxonomy: a part for each level, and a little of the image's own."""
    rows = []
    for sample in samples:
        names = [*sample["taxonomy"], sample["class_name"]]
        parts = [
            rng_for(0, "level", name).standard_normal(64) * 2.0**-depth for depth, name in enumerate(names)
        ]
        own = rng_for(0, "own", sample["__key__"]).standard_normal(64) * 0.05
        rows.append((sum(parts) + own).astype(np.float16))
    flat = pa.array(np.concatenate(rows))
    return pa.table({"features": pa.FixedSizeListArray.from_arrays(flat, 64)})


@pytest.fixture(scope="session")
def good() -> Build:
    """15 bird classes, six of them held out; planes as far, a cup as coarse, seats as outliers."""
    samples = _samples()
    rows = TableRows(pa.Table.from_pylist(samples))
    classes = class_table()(rows)
    roles = hold_out(seed=0, classes=Ref.of(classes), mode="explicit", held_out=HELD_OUT)(rows)
    made = split(
        seed=0,
        classes=Ref.of(roles),
        duplicates=Ref.of(near_duplicates()(rows)),
        leaky=Ref.of(leaky_outliers(classes=Ref.of(classes))(rows)),
        ood_images="test",
    )(rows)
    return Build(rows=rows, features=TableRows(_features(samples)), split=made)
