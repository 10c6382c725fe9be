from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.errors import CatalogError, ConfigError, StageError
from datakit.stage import Ref
from datakit.stages.classes import class_features, class_table
from datakit.stages.columns import TableRows, unit_vectors


def rows(*samples: dict[str, Any]) -> TableRows:
    names = dict.fromkeys(name for sample in samples for name in sample)
    table = {name: [sample.get(name) for sample in samples] for name in names}
    return TableRows(pa.table({"__key__": [f"k{i}" for i in range(len(samples))], **table}))


def by_class(table: pa.Table) -> dict[str, dict[str, Any]]:
    return {row["class_name"]: row for row in table.to_pylist()}


def test_classes_are_counted_pool_by_pool_and_rows_without_a_class_are_left_out() -> None:
    found = class_table()(
        rows(
            {"class_name": "b", "pool": "main", "taxonomy": ["x", "y"], "orig_label": 4},
            {"class_name": "b", "pool": None, "taxonomy": ["x", "y"], "orig_label": 4},
            {"class_name": "a", "pool": "far"},
            {"class_name": None, "pool": "outliers"},
        )
    )
    assert found.select(["pool", "class_name", "images", "taxonomy", "orig_label"]).to_pylist() == [
        {"pool": "far", "class_name": "a", "images": 1, "taxonomy": [], "orig_label": None},
        {"pool": "main", "class_name": "b", "images": 2, "taxonomy": ["x", "y"], "orig_label": 4},
    ]


def test_a_catalog_with_no_optional_column_is_enough() -> None:
    assert class_table()(rows({"class_name": "a"}))["unit"].to_pylist() == ["a"]
    assert class_table()(rows({"class_name": None})).num_rows == 0


def test_kin_share_a_unit_by_identity_variant_name_and_nesting() -> None:
    found = by_class(
        class_table(synonyms=[["sofa", "couch"]])(
            rows(
                {"class_name": "drake", "identity_group": "mallard"},
                {"class_name": "hen", "identity_group": "mallard", "variant_group": "v"},
                {"class_name": "duckling", "variant_group": "v"},
                {"class_name": "Sparrow"},
                {"class_name": "sparrows"},
                {"class_name": "sofa"},
                {"class_name": "couch", "pool": "far"},
                {"class_name": "falcon", "taxonomy": ["birds"]},
                {"class_name": "kestrel", "taxonomy": ["birds", "falcon"]},
                {"class_name": "rock"},
                {"class_name": "Rocks", "pool": "outliers"},
            )
        )
    )
    units = {name: row["unit"] for name, row in found.items()}
    assert units["drake"] == units["hen"] == units["duckling"]
    assert units["Sparrow"] == units["sparrows"] and found["Sparrow"]["collides_with"] == ["sparrows"]
    assert units["sofa"] == units["couch"] and units["falcon"] == units["kestrel"]
    assert units["rock"] != units["Rocks"], "outliers join no unit"
    assert found["rock"]["collides_with"] == ["Rocks"], "but the collision is told"
    assert len(set(units.values())) == 6


def test_kin_by_nesting_are_found_however_a_level_is_spelt() -> None:
    found = by_class(
        class_table(synonyms=[["hawk", "accipiter"]])(
            rows(
                {"class_name": "falcon", "taxonomy": ["birds"]},
                {"class_name": "kestrel", "taxonomy": ["Bird", "Falcons"]},
                {"class_name": "hawk", "taxonomy": ["birds"]},
                {"class_name": "goshawk", "taxonomy": ["birds", "Accipiters"]},
            )
        )
    )
    units = {name: row["unit"] for name, row in found.items()}
    assert units["falcon"] == units["kestrel"] != units["hawk"] == units["goshawk"]


def test_a_class_with_several_labels_has_none_and_with_two_parents_is_refused() -> None:
    twice = rows({"class_name": "a", "orig_label": 1}, {"class_name": "a", "orig_label": 2})
    assert class_table()(twice)["orig_label"].to_pylist() == [None]
    torn = rows({"class_name": "a", "taxonomy": ["x"]}, {"class_name": "a", "taxonomy": ["y"]})
    with pytest.raises(CatalogError, match="class a has 2 places"):
        class_table()(torn)


def test_classes_named_by_signs_are_as_many_units() -> None:
    signs = "∑∫=%-☀≠"
    found = class_table()(rows(*({"class_name": sign} for sign in signs)))
    assert len(set(found["unit"].to_pylist())) == len(signs)


def test_class_features_are_mean_directions() -> None:
    samples = rows({"class_name": "a"}, {"class_name": None}, {"class_name": "a"}, {"class_name": "b"})
    vectors = [[1.0, 0.0], [9.0, 9.0], [0.0, 2.0], [0.0, 3.0]]
    features = TableRows(pa.table({"features": pa.array(vectors, pa.list_(pa.float32(), 2))}))
    found = class_features(features=Ref.of(features))(samples)
    assert found["class_name"].to_pylist() == ["a", "b"]
    assert np.allclose(found["attributes"].to_pylist(), [[0.5**0.5, 0.5**0.5], [0, 1]])


def vectors(name: str, values: list[list[float] | None]) -> Ref[Any]:
    return Ref.of(TableRows(pa.table({name: pa.array(values, pa.list_(pa.float32()))})))


def test_a_class_is_described_by_the_images_of_its_own_pool() -> None:
    pools = ("main", "outliers", "far", None)
    samples = rows(*({"class_name": "star", "pool": pool} for pool in pools))
    features = vectors("features", [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 0.0]])
    assert class_features(features=features)(samples).to_pylist() == [
        {"pool": "far", "class_name": "star", "attributes": [-1.0, 0.0]},
        {"pool": "main", "class_name": "star", "attributes": [1.0, 0.0]},
    ]


def test_images_without_attributes_do_not_count() -> None:
    samples = rows(*({"class_name": name} for name in "aabc"), {"class_name": "web", "pool": "outliers"})
    column = vectors("traits", [[3.0, 4.0], None, None, [], None])
    found = class_features(features=column, name="traits")(samples)
    assert found["class_name"].to_pylist() == ["a"]
    assert np.allclose(found["attributes"].to_pylist(), [[0.6, 0.8]])


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("trait", [[1.0], [2.0], [3.0]], "attributes=trait: no such column; did you mean traits"),
        ("traits", ["1 2", "3", "4"], "attributes=traits: the column holds string"),
        ("traits", [["x"], ["y"], ["z"]], "attributes=traits: the column holds list<"),
        ("traits", [None, None, None], "attributes=traits: the column holds null"),
        ("traits", [[1.0, 2.0], [3.0], [4.0, 5.0, 6.0]], "class b has 1 numbers and class a 2"),
        (
            "traits",
            [[1.0, 2.0], [3.0, None], [4.0, 5.0]],
            "class b has a vector with a value that is no number",
        ),
    ],
)
def test_a_column_that_holds_no_attributes_is_refused_in_words(name: str, values: Any, message: str) -> None:
    samples = rows(*({"class_name": name} for name in "abc"))
    column = Ref.of(TableRows(pa.table({"traits": values})))
    with pytest.raises(ConfigError, match=message):
        class_features(features=column, name=name)(samples)


def test_features_of_other_rows_or_with_holes_are_refused() -> None:
    samples = rows({"class_name": "a"}, {"class_name": "b"})
    short = TableRows(pa.table({"features": [[1.0]]}))
    with pytest.raises(StageError, match="of other rows"):
        class_features(features=Ref.of(short))(samples)
    other = TableRows(pa.table({"__key__": ["k1", "k0"], "features": [[1.0], [2.0]]}))
    with pytest.raises(StageError, match="of other rows"):
        class_features(features=Ref.of(other))(samples)
    holes = TableRows(pa.table({"features": [[1.0], None]}))
    with pytest.raises(StageError, match="1 rows have no features"):
        class_features(features=Ref.of(holes))(samples)


def test_vectors_of_unequal_length_are_not_cut_anew() -> None:
    ragged = TableRows(pa.table({"features": [[1.0, 2.0], [3.0], [4.0, 5.0, 6.0]]}))
    with pytest.raises(StageError, match="features: vectors of 2 and of 1 numbers"):
        unit_vectors(ragged, name="features")
