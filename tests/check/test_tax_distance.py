"""Tiers are what they say, measured anew: good builds pass, broken ones fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.check.tax_distance import check_tax_distance
from datakit.errors import ConfigError
from datakit.stage import Ref
from datakit.stages.classes import class_features, class_table
from datakit.stages.columns import TableRows
from datakit.stages.holdout import hold_out
from datakit.stages.split import split

Build = Any


def test_tiers_of_a_good_build_are_monotone(good: Build) -> None:
    found = good.find(check_tax_distance)
    assert found["passed"]
    assert found["detail"]["distances"] == {
        "near": ["1", "1"],
        "mid": ["2", "2"],
        "far": ["no common ancestor", "no common ancestor"],
    }


@pytest.mark.parametrize("role", ["ood", "val_ood"])
def test_a_wrong_distance_and_a_wrong_nearest_class_are_found(good: Build, role: str) -> None:
    rows = good.where(class_name="lark")
    held = good.misfiled(role={row: role for row in rows if good.split["role"][row].as_py() != "unused"})
    assert held.find(check_tax_distance)["passed"]
    assert not held.misfiled(tax_distance=dict.fromkeys(rows, 2)).find(check_tax_distance)["passed"]
    found = held.misfiled(nearest_id_class=dict.fromkeys(rows, "kestrel")).find(check_tax_distance)
    assert not found["passed"] and "lark has nearest ID class kestrel" in found["summary"]


@pytest.mark.parametrize("path", [["songbirds", "finches"], ["songbirds", "swallows"]])
def test_a_coarse_class_with_kin_in_id_is_found(good: Build, path: list[str]) -> None:
    rows = good.where(class_name="cup")
    distance = 1 if path[1] == "finches" else 2
    kin = good.planted(taxonomy=dict.fromkeys(rows, path)).misfiled(
        tax_distance=dict.fromkeys(rows, distance),
        nearest_id_class=dict.fromkeys(rows, "siskin"),
    )
    found = kin.find(check_tax_distance)
    assert not found["passed"] and found["detail"]["problems"] == [
        f"cup is coarse, but shares an ancestor with {'linnet' if distance == 1 else 'bunting'}"
    ]


def test_tiers_that_are_not_monotone_are_found(good: Build) -> None:
    rows = good.where(class_name="barn owl")
    found = good.misfiled(tier=dict.fromkeys(rows, "near")).find(check_tax_distance)
    assert not found["passed"] and found["summary"] == "near reaches 2, but mid begins at 2"
    found = good.misfiled(tier=dict.fromkeys(good.where(class_name="lark"), "far")).find(check_tax_distance)
    assert not found["passed"] and "far begins at 1" in found["summary"]


def test_a_near_class_whose_siblings_are_all_held_out_is_found(good: Build) -> None:
    """The larks but one leave ID: the lark that stays held out is no longer near anything."""
    gone = [i for name in ("wood lark", "sky lark", "bunting") for i in good.where(class_name=name)]
    # swift, which is near still, would not let near and mid both begin at 2
    gone += good.where(class_name="swift")
    rows = good.where(class_name="lark")
    without = good.misfiled(role=dict.fromkeys(gone, "unused"))
    assert not without.find(check_tax_distance)["passed"], "the stored distance went stale"
    owls = [i for name in ("barn owl", "eagle owl") for i in good.where(class_name=name)]
    told = without.misfiled(
        tax_distance=dict.fromkeys(rows, 2), nearest_id_class=dict.fromkeys(rows, "siskin"),
        tier=dict.fromkeys(owls, "near"),
    )  # fmt: skip
    found = told.find(check_tax_distance)
    assert not found["passed"]
    assert "lark is in tier near, but at 2 it belongs in mid" in found["detail"]["problems"]
    mended = told.misfiled(tier=dict.fromkeys([*rows, *owls], "mid")).find(check_tax_distance)
    assert mended["passed"], mended["summary"]


def test_images_without_a_part_in_the_split_place_no_class(good: Build) -> None:
    """An outlier or unused image may bear the name of a held-out class, at another place in the taxonomy."""
    rows = good.where(publish="outliers")
    named = good.misfiled(class_name=dict.fromkeys(rows, "swift"))
    assert named.find(check_tax_distance)["passed"]
    unused = named.misfiled(role=dict.fromkeys(rows, "unused"), publish=dict.fromkeys(rows, "reserve"))
    assert unused.find(check_tax_distance)["passed"]


@pytest.mark.parametrize(
    ("column", "value"), [("tier", "far"), ("nearest_id_class", "kestrel"), ("tax_distance", 3)]
)
def test_one_image_at_another_place_than_its_class_is_found(good: Build, column: str, value: Any) -> None:
    row = good.where(class_name="lark", role="ood")[0]
    found = good.misfiled(**{column: {row: value}}).find(check_tax_distance)
    assert not found["passed"]
    assert any(
        text.startswith(f"lark has images of {column} {value}") for text in found["detail"]["problems"]
    )


def by_attributes(build: Build) -> tuple[Build, dict[str, Any]]:
    """The same classes held out, in tiers by the features; and what the check is told."""
    held = sorted(set(build.split["class_name"].filter(pa.array(held_out(build))).to_pylist()))
    attributes = Ref.of(class_features(features=build.features_ref())(build.rows))
    classes = Ref.of(class_table()(build.rows))
    roles = hold_out(seed=0, classes=classes, mode="explicit", held_out=held)(build.rows)
    made = split(
        seed=0, classes=Ref.of(roles), attributes=attributes, tiers="attributes", ood_images="test"
    )(build.rows)  # fmt: skip
    return replace(build, split=made), {"tiers": "attributes", "attributes": attributes}


def held_out(build: Build) -> list[bool]:
    columns = build.split["role"].to_pylist(), build.rows.data["pool"].to_pylist()
    return [role in ("ood", "val_ood") and pool == "main" for role, pool in zip(*columns, strict=True)]


def test_attribute_tiers_are_thirds_of_the_distances_measured(good: Build) -> None:
    build, told = by_attributes(good)
    found = build.find(check_tax_distance, **told)
    assert found["passed"], found["summary"]
    assert list(found["detail"]["distances"]) == ["near", "mid", "far"]
    near, far = (
        [i for i in build.where(tier=tier) if held_out(build)[i]] for tier in ("near", "far")
    )  # fmt: skip
    swapped = build.misfiled(tier=dict.fromkeys(near, "far") | dict.fromkeys(far, "near"))
    assert not swapped.find(check_tax_distance, **told)["passed"]
    with pytest.raises(ConfigError, match="needs the classes' attributes"):
        build.find(check_tax_distance, tiers="attributes")


def test_attribute_distances_that_were_made_up_are_found(good: Build) -> None:
    build, told = by_attributes(good)
    rows = [i for i, held in enumerate(held_out(build)) if held]
    thirds = {"near": 0.001, "mid": 0.002, "far": 0.003}
    ordered = {i: thirds[build.split["tier"][i].as_py()] for i in rows}
    found = build.misfiled(attr_distance=ordered).find(check_tax_distance, **told)
    assert not found["passed"] and "attribute distance" in found["summary"]
    found = build.misfiled(nearest_id_class=dict.fromkeys(rows, "kestrel")).find(check_tax_distance, **told)
    assert not found["passed"] and "has nearest ID class kestrel" in found["summary"]
    stored = good.misfiled(attr_distance=ordered)
    assert not stored.find(check_tax_distance, attributes=told["attributes"])["passed"], (
        "in both kinds of tiers"
    )


def test_a_far_pool_that_looks_like_id_is_no_fault_of_attribute_tiers(good: Build) -> None:
    """The tier of a pool is fixed: a jet may be nearer to a kestrel than the owls are."""
    names = good.rows.data["class_name"].to_pylist()
    features_ND = np.array(good.features.data["features"].to_pylist(), dtype=np.float16)
    kestrel_D = features_ND[[name == "kestrel" for name in names]].mean(axis=0)
    jets = [i for i, name in enumerate(names) if name == "jet"]
    features_ND[jets] = features_ND[jets] * 0.2 + kestrel_D
    array = pa.FixedSizeListArray.from_arrays(pa.array(features_ND.reshape(-1)), features_ND.shape[1])
    build, told = by_attributes(replace(good, features=TableRows(pa.table({"features": array}))))
    jet, farthest = (build.split["attr_distance"][i].as_py() for i in (build.where(class_name="jet")[0],
                     build.where(tier="mid")[0]))  # fmt: skip
    assert jet < farthest
    found = build.find(check_tax_distance, **told)
    assert found["passed"], found["summary"]
