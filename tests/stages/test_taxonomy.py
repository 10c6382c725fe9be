from __future__ import annotations

import numpy as np
import pytest

from datakit.errors import ConfigError
from datakit.rng import rng_for
from datakit.stages.subtrees import draw_by_taxonomy
from datakit.stages.taxonomy import class_vectors, place_by_attributes, place_by_taxonomy

PATHS = {
    "siskin": ("birds", "songbirds", "finches"),
    "linnet": ("birds", "songbirds", "finches"),
    "lark": ("birds", "songbirds", "larks"),
    "kestrel": ("birds", "falcons"),
    "carp": ("fish",),
    "rock": (),
}


def unit(*numbers: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    vector = np.array(numbers, dtype=np.float32)
    return vector / np.float32(np.linalg.norm(vector))


def test_levels_up_to_the_common_ancestor_make_the_tier() -> None:
    held = place_by_taxonomy(PATHS, ["siskin"], ["linnet", "lark", "kestrel", "carp", "rock"], {})
    assert [(p.tier, p.distance) for p in held.values()] == [
        ("near", 1), ("mid", 2), ("mid", 2), ("far", None), ("far", None),
    ]  # fmt: skip
    assert held["linnet"].ratio == pytest.approx(1 - 2 * 3 / (4 + 4))
    assert held["kestrel"].ratio == pytest.approx(1 - 2 * 1 / (3 + 4))
    assert held["carp"].ratio == 1 and held["carp"].nearest is None
    assert held["linnet"].nearest == "siskin"


def test_three_levels_up_is_far() -> None:
    assert place_by_taxonomy(PATHS, ["kestrel"], ["siskin"], {})["siskin"].tier == "far"
    assert place_by_taxonomy(PATHS, ["kestrel"], ["siskin"], {})["siskin"].distance == 3


def test_ties_go_to_the_smaller_ratio_then_attributes_then_the_name() -> None:
    paths = {"held": ("a",), "deep": ("a", "b"), "x": ("a",), "y": ("a",)}
    assert place_by_taxonomy(paths, ["deep", "y", "x"], ["held"], {})["held"].nearest == "x"
    vectors = {"held": unit(1, 0), "x": unit(0, 1), "y": unit(1, 0.1), "deep": unit(1, 0)}
    place = place_by_taxonomy(paths, ["deep", "y", "x"], ["held"], vectors)["held"]
    assert place.nearest == "y" and place.attr_distance == pytest.approx(1 - 1 / np.hypot(1, 0.1), abs=1e-6)


def test_without_any_taxonomy_every_class_is_near_at_no_stated_distance() -> None:
    place = place_by_taxonomy({"a": (), "b": ()}, ["a"], ["b"], {})["b"]
    assert (place.tier, place.distance, place.ratio) == ("near", None, None)


def test_attribute_tiers_are_thirds_by_distance() -> None:
    angles = {"known": 0.0, "a": 0.1, "b": 0.2, "c": 0.5, "d": 0.6, "e": 1.2, "f": 1.3}
    vectors = {name: unit(np.cos(angle), np.sin(angle)) for name, angle in angles.items()}
    paths = dict.fromkeys(angles, ("all",))
    held = place_by_attributes(paths, ["known"], list("fedcba"), vectors)
    assert {name: held[name].tier for name in "abcdef"} == dict(
        zip("abcdef", ["near", "near", "mid", "mid", "far", "far"], strict=True)
    )
    assert held["c"].attr_distance == pytest.approx(1 - np.cos(0.5), abs=1e-6) and held["c"].distance == 1
    with pytest.raises(ConfigError, match="class b has no attributes"):
        place_by_attributes(paths, ["known"], ["b"], {"known": vectors["known"], "bb": vectors["b"]})


def test_attribute_vectors_come_from_a_table_scaled_to_one() -> None:
    import pyarrow as pa

    table = pa.table(
        {
            "pool": ["far", "main", "main", "main"],
            "class_name": ["a", "a", "b", "unused"],
            "attributes": [[1.0, 0.0], [3.0, 4.0], [0.0, 0.0], [1.0, 1.0]],
        }
    )
    vectors = class_vectors(table, {"a": "main", "b": "main"})
    assert vectors["a"].tolist() == pytest.approx([0.6, 0.8]) and vectors["b"].tolist() == [0, 0]
    assert class_vectors(table, {"a": "far"})["a"].tolist() == [1, 0]
    assert len(vectors) == 2 and class_vectors(None, {}) == {}


def tree() -> dict[str, tuple[str, ...]]:
    """4 orders x 4 families x 5 leaves."""
    return {f"{o}{f}{n}": (f"order {o}", f"family {o}{f}") for o in "abcd" for f in "wxyz" for n in range(5)}


@pytest.mark.parametrize("seed", range(10))
def test_leaves_and_subtrees_are_held_out_by_their_shares(seed: int) -> None:
    paths = tree()
    shares = {"near": 0.4, "mid": 0.2, "far": 0.4}
    held = draw_by_taxonomy([[name] for name in paths], paths, 50, rng_for(seed), shares, 2)
    known = sorted(set(paths) - held)
    places = place_by_taxonomy(paths, known, sorted(held), {})
    counts = {tier: sum(place.tier == tier for place in places.values()) for tier in ("near", "mid", "far")}
    assert counts == {"near": 20, "mid": 10, "far": 20}
    siblings = {paths[name] for name in held if places[name].tier == "near"}
    assert all(sum(paths[name] == family for name in known) >= 2 for family in siblings)


@pytest.mark.parametrize("wanted", [7, 15, 23])
def test_two_halves_that_are_rounded_up_make_no_more_classes_than_are_wanted(wanted: int) -> None:
    paths = {f"{o}{f}": (f"order {o}", f"family {o}{f}") for o in "abcdefgh" for f in "wxyz"}
    shares = {"near": 0.0, "mid": 0.5, "far": 0.5}
    for seed in range(4):
        held = draw_by_taxonomy([[name] for name in paths], paths, wanted, rng_for(seed), shares, 1)
        assert len(held) == wanted


def test_a_unit_is_held_out_whole_or_not_at_all() -> None:
    paths = tree()
    units = [[f"{o}{f}{n}" for n in pair] for o in "abcd" for f in "wxyz" for pair in ((0, 1), (2, 3), (4,))]
    for seed in range(10):
        held = draw_by_taxonomy(units, paths, 31, rng_for(seed), {"near": 0.5, "mid": 0.5}, 2)
        assert all(set(unit) <= held or not set(unit) & held for unit in units)
        assert 30 <= len(held) <= 31


def test_shares_and_numbers_that_cannot_be_met_are_refused() -> None:
    paths = tree()
    units = [[name] for name in paths]
    with pytest.raises(ConfigError, match="unknown tier fra; did you mean far"):
        draw_by_taxonomy(units, paths, 10, rng_for(0), {"fra": 1.0}, 2)
    with pytest.raises(ConfigError, match=r"sum to 0\.5"):
        draw_by_taxonomy(units, paths, 10, rng_for(0), {"near": 0.5}, 2)
    with pytest.raises(ConfigError, match="only 48 of 60 classes can be held out"):
        draw_by_taxonomy(units, paths, 60, rng_for(0), {"near": 1.0}, 2)
