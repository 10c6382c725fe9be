from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.errors import ConfigError, StageError
from datakit.rng import rng_for
from datakit.stage import Ref
from datakit.stages.classes import class_features, class_table
from datakit.stages.columns import TableRows
from datakit.stages.duplicates import near_duplicates
from datakit.stages.holdout import hold_out
from datakit.stages.split import split
from datakit.stages.summary import class_summary

Row = dict[str, Any]
ID = ("train", "val", "test")


def birds(classes: int = 12, images: int = 20, **fields: Any) -> list[Row]:
    """`classes` main classes of three families; each field a value or a function of (class, image)."""
    return [
        {
            "__key__": f"b{c:02d}-{i:02d}",
            "pool": "main",
            "catalog": "birds",
            "class_name": f"bird {c:02d}",
            "taxonomy": ["birds", f"family {c % 3}"],
            "content": f"{c}-{i}",
            "phash": rng_for(0, "hash", c, i).bytes(8).hex(),
            "phash_flip": rng_for(0, "flip", c, i).bytes(8).hex(),
        }
        | {name: value(c, i) if callable(value) else value for name, value in fields.items()}
        for c in range(classes)
        for i in range(images)
    ]


def beside(pool: str, names: list[str], images: int, catalog: str = "other") -> list[Row]:
    return [
        {
            "__key__": f"{pool}-{name}-{i}",
            "pool": pool,
            "catalog": catalog,
            "class_name": name,
            "taxonomy": ["things", name],
            "content": f"{pool}{name}{i}",
            "phash": rng_for(1, "hash", pool, name, i).bytes(8).hex(),
            "phash_flip": rng_for(1, "flip", pool, name, i).bytes(8).hex(),
        }
        for name in names
        for i in range(images)
    ]


def make(
    samples: list[Row],
    *,
    held: Row | None = None,
    duplicates: pa.Table | None = None,
    seed: int = 0,
    **options: Any,
) -> list[Row]:
    """The split of these samples as dicts, each with its sample's fields too."""
    rows = table_of(samples)
    classes = class_table()(rows)
    roles = hold_out(**{"seed": seed, "classes": Ref.of(classes), **(held or {})})(rows)
    pairs = near_duplicates()(rows) if duplicates is None else duplicates
    made = split(
        seed=seed, classes=Ref.of(roles), duplicates=Ref.of(pairs), **{"ood_images": "test", **options}
    )(rows)
    assert made["key"].to_pylist() == [sample["__key__"] for sample in samples]
    return [sample | row for sample, row in zip(samples, made.to_pylist(), strict=True)]


def table_of(samples: list[Row]) -> TableRows:
    names = dict.fromkeys(name for sample in samples for name in sample)
    return TableRows(pa.table({name: [sample.get(name) for sample in samples] for name in names}))


def counts(rows: list[Row], *names: str) -> Counter[Any]:
    return Counter(tuple(row[name] for name in names) if len(names) > 1 else row[names[0]] for row in rows)


def by_class(rows: list[Row]) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        found[row["class_name"]][row["publish"]] += 1
    return found


def test_every_class_is_divided_alike() -> None:
    rows = make(birds(classes=16))
    lists = by_class(rows)
    roles = {name: {row["role"] for row in rows if row["class_name"] == name} for name in lists}
    for name, found in lists.items():
        if "id" in roles[name]:
            assert found == {"train": 14, "val": 2, "test": 4}
        elif "val_ood" in roles[name]:
            assert found == {"val_ood": 16, "reserve": 4}
        else:
            assert found == {"near_ood": 4, "reserve": 16}
    assert counts([row for row in rows if row["role"] == "unused"], "reason") == {
        "heldout_train": 48,
        "heldout_test": 4,
    }


def test_labels_run_over_the_id_classes_in_the_order_of_their_names() -> None:
    rows = make(birds())
    labels = {row["class_name"]: row["label"] for row in rows if row["role"] == "id"}
    assert [labels[name] for name in sorted(labels)] == list(range(9))
    assert {row["label"] for row in rows if row["role"] != "id"} == {-1}


def test_the_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    samples = birds()
    first, again, other = make(samples), make(samples), make(samples, seed=1)
    assert first == again
    assert [row["publish"] for row in first] != [row["publish"] for row in other]


def test_official_flags_are_kept_and_a_class_without_official_val_gets_one() -> None:
    flags = lambda c, i: "test" if i % 4 == 0 else "val" if i % 4 == 1 and c % 2 else "train"  # noqa: E731
    rows = make(birds(official_split=flags))
    known = [row for row in rows if row["role"] == "id"]
    assert all((row["split"] == "test") == (row["official_split"] == "test") for row in known)
    assert all(row["split"] == "val" for row in known if row["official_split"] == "val")
    assert all(found["val"] >= 1 for name, found in by_class(known).items())
    held = [row for row in rows if row["role"] == "ood"]
    assert {row["official_split"] for row in held} == {"test"}


def test_a_rule_on_fields_makes_the_test_images_and_its_misspelling_is_told() -> None:
    tone = lambda c, i: ["light", "medium", "dark", None][i % 4]  # noqa: E731
    samples = birds(skin_tone=tone) + beside("far", ["rock"], 3)
    rows = make(samples, test_where={"skin_tone": ["dark"]})
    known = [row for row in rows if row["role"] == "id"]
    assert all((row["split"] == "test") == (row["skin_tone"] == "dark") for row in known)
    assert {row["skin_tone"] for row in rows if row["publish"] == "near_ood"} == {"dark"}
    assert {row["skin_tone"] for row in rows if row["publish"] == "val_ood"} <= {"light", "medium", None}
    far = [row for row in rows if row["pool"] == "far"]
    assert {row["publish"] for row in far} == {"far_ood"}, "the rule says nothing of rocks: all are tested"
    with pytest.raises(ConfigError, match="no column skin_ton; did you mean skin_tone"):
        make(samples, test_where={"skin_ton": ["dark"]})


@pytest.mark.parametrize("ood_images", ["all", "auto"])
def test_all_images_of_held_out_classes_may_be_tested(ood_images: str) -> None:
    rows = make(birds(classes=16), ood_images=ood_images)
    assert counts([row for row in rows if row["role"] in ("ood", "val_ood")], "publish") == {
        "near_ood": 60,
        "val_ood": 20,
    }
    assert not [row for row in rows if row["role"] == "unused"]


@pytest.mark.parametrize("seed", range(5))
def test_a_capture_group_goes_whole_to_one_side(seed: int) -> None:
    rows = make(birds(images=24, capture_group=lambda c, i: f"{c}/{i // 3}"), seed=seed)
    sides = defaultdict(set)
    for row in rows:
        if row["role"] == "id":
            sides[row["capture_group"]].add(row["split"])
    assert all(len(parts) == 1 for parts in sides.values())
    assert all(set(found) >= set(ID) for found in by_class([r for r in rows if r["role"] == "id"]).values())


def test_a_capture_group_over_two_classes_is_not_torn_either() -> None:
    pages = birds(classes=8, images=24, capture_group=lambda c, i: f"page {i // 2}")
    rows = make(pages, held={"n_ood": 1})
    sides = defaultdict(set)
    for row in rows:
        if row["role"] == "id":
            sides[row["capture_group"]].add(row["split"])
    assert all(len(parts) == 1 for parts in sides.values())


def test_an_id_class_of_one_burst_cannot_be_divided_and_goes_whole_with_its_reason() -> None:
    burst = lambda c, i: "burst" if c == 5 else None  # noqa: E731
    rows = make(
        birds(capture_group=burst), held={"mode": "explicit", "held_out": ["bird 00", "bird 01", "bird 02"]}
    )
    one = [row for row in rows if row["class_name"] == "bird 05"]
    assert counts(one, "publish", "reason") == {("reserve", "too_few_images"): 20}
    labels = {row["label"] for row in rows if row["role"] == "id"}
    assert labels == set(range(8)), "labels close up over the class that left"


def test_tiers_are_measured_after_classes_have_left() -> None:
    """Family 2 keeps one ID class; if that cannot be divided, its held-out sister is no longer near."""
    samples = birds(classes=6, capture_group=lambda c, i: "burst" if c == 5 else None)
    rows = make(samples, held={"mode": "explicit", "held_out": ["bird 00", "bird 02"]})
    tiers = {
        row["class_name"]: (row["tier"], row["nearest_id_class"], row["tax_distance"])
        for row in rows
        if row["role"] == "ood"
    }
    assert tiers == {"bird 00": ("near", "bird 03", 1), "bird 02": ("mid", "bird 01", 2)}


def test_when_no_id_class_is_left_it_says_so() -> None:
    with pytest.raises(ConfigError, match="no ID class has images in train, val and test"):
        make(birds(official_split="test"))


def test_a_source_without_an_official_test_split_gets_one_drawn() -> None:
    rows = make(birds(official_split=lambda c, i: "val" if i < 3 else "train"))
    known = [row for row in rows if row["role"] == "id"]
    assert {row["split"] for row in known if row["official_split"] == "val"} == {"val"}
    assert {row["split"] for row in known if row["official_split"] == "train"} == {"train", "test"}


@pytest.mark.parametrize("pool", ["coarse", "outliers"])
def test_the_official_split_of_a_further_source_says_nothing_of_the_main_one(pool: str) -> None:
    """Both are folders, so both are of the catalog `birds`."""
    flagged = beside(pool, ["cup", "fork"], 10, catalog="birds")
    for at, row in enumerate(flagged):
        row["official_split"] = "test" if at % 2 else "train"
    alone = [row["split"] for row in make(birds())]
    rows = make(birds() + flagged)
    assert [row["split"] for row in rows[: len(alone)]] == alone


def test_coarse_images_without_any_class_are_refused_and_not_forgotten() -> None:
    unnamed = beside("coarse", ["cup"], 10)
    for row in unnamed:
        row["class_name"] = None
    with pytest.raises(ConfigError, match="no image of the coarse catalog has a class"):
        make(birds() + unnamed)
    rows = make(birds() + unnamed + beside("coarse", ["fork"], 10))
    assert "coarse_ood" in {row["publish"] for row in rows}
    assert {row["reason"] for row in rows if row["class_name"] is None} == {"unlabelled"}


@pytest.mark.parametrize("other", ["train", "near_ood", "outliers", "val"])
def test_a_copy_of_a_test_image_is_dropped_from_the_lesser_set(other: str) -> None:
    samples = birds(classes=16) + beside("outliers", ["web"], 30)
    before = make(samples)
    test = next(i for i, row in enumerate(before) if row["publish"] == "test")
    copy = next(
        i
        for i, row in enumerate(before)
        if row["publish"] == other and row["class_name"] != before[test]["class_name"]
    )
    planted = [*samples]
    planted[copy] = samples[copy] | {"phash": samples[test]["phash"]}
    after = make(planted)
    assert after[test]["publish"] == "test", "never from ID test"
    assert (after[copy]["publish"], after[copy]["reason"]) == ("reserve", "duplicate")
    assert after[test]["dup_group"] == after[copy]["dup_group"] is not None
    kept = make(planted, on_leak="fail")
    assert kept[copy]["publish"] == other, "left for the check to find"


def test_alike_images_of_one_class_are_kept_on_one_side() -> None:
    alike = birds(phash=lambda c, i: f"{rng_for(2, 'pair', c, i // 2).integers(2**62):016x}")
    rows = make(alike)
    sides = defaultdict(set)
    for row in rows:
        if row["role"] == "id":
            sides[row["phash"]].add(row["split"])
    assert all(len(parts) == 1 for parts in sides.values())
    assert not [row for row in rows if row["reason"] == "duplicate"]


def test_declared_variants_are_free_within_a_class() -> None:
    tones = birds(
        phash=lambda c, i: f"{rng_for(3, 'drawing', c).integers(2**62):016x}",
        variant_group=lambda c, i: f"drawing {c}",
        skin_tone=lambda c, i: i % 5,
    )
    rows = make(tones, test_where={"skin_tone": ["4"]})
    assert counts([row for row in rows if row["role"] == "id"], "split") == {
        "train": 126,
        "val": 18,
        "test": 36,
    }
    assert all(row["dup_group"] is None for row in rows)


def test_leaky_outliers_leave_and_the_rest_may_be_sampled() -> None:
    samples = birds() + beside("outliers", ["web"], 30)
    leaky = Ref.of(
        pa.table({"key": ["outliers-web-3", "outliers-web-4"], "reason": ["leaky_concept", "leaky_name"]})
    )
    rows = [row for row in make(samples, leaky=leaky, n_outliers=10) if row["pool"] == "outliers"]
    assert counts(rows, "publish", "reason") == {
        ("outliers", None): 10, ("reserve", "leaky_concept"): 1, ("reserve", "leaky_name"): 1,
        ("reserve", "not_sampled"): 18,
    }  # fmt: skip


def test_outliers_that_look_like_a_test_image_leave() -> None:
    samples = birds() + beside("outliers", ["web"], 5)
    vectors = np.eye(len(samples), dtype=np.float32)
    first = next(i for i, row in enumerate(make(samples)) if row["publish"] == "test")
    vectors[-1] = vectors[first]
    features = Ref.of(TableRows(pa.table({"features": pa.array(list(vectors), pa.list_(pa.float32()))})))
    rows = make(samples, features=features, max_sim_to_test=0.9)
    assert (rows[-1]["publish"], rows[-1]["reason"]) == ("reserve", "similar_to_test")
    assert counts(rows[-5:], "publish")["outliers"] == 4
    with pytest.raises(ConfigError, match="max_sim_to_test needs features"):
        make(samples, max_sim_to_test=0.9)


@pytest.mark.parametrize("balance", ["source", "class", "none"])
def test_coarse_is_as_large_as_id_test_and_balanced(balance: str) -> None:
    coarse = beside("coarse", ["cup", "plate"], 40, "kitchen") + beside("coarse", ["car"], 10, "street")
    rows = make(birds() + coarse, coarse_balance=balance)
    chosen = [row for row in rows if row["publish"] == "coarse_ood"]
    assert len(chosen) == sum(row["publish"] == "test" for row in rows) == 36
    if balance == "source":
        assert counts(chosen, "catalog") == {"kitchen": 26, "street": 10}
    if balance == "class":
        assert sorted(counts(chosen, "class_name").values()) == [10, 13, 13]
    assert {row["tier"] for row in chosen} == {"coarse"}


def test_the_far_pool_is_far_with_its_distance_told_all_the_same() -> None:
    relatives = [row | {"taxonomy": ["birds", "family 9"]} for row in beside("far", ["ostrich"], 3)]
    rows = make(birds() + relatives + beside("far", ["rock"], 3))
    far = {
        row["class_name"]: (row["publish"], row["tier"], row["tax_distance"])
        for row in rows
        if row["pool"] == "far" and row["role"] == "ood"
    }
    assert far == {"ostrich": ("far_ood", "far", 2), "rock": ("far_ood", "far", None)}


def test_attribute_tiers_come_from_class_vectors() -> None:
    samples = birds(classes=16)
    rows = table_of(samples)
    turn = [float(row["class_name"][-2:]) for row in samples]
    vectors = [[np.cos(t / 12), np.sin(t / 12)] for t in turn]
    features = Ref.of(TableRows(pa.table({"features": pa.array(vectors, pa.list_(pa.float32()))})))
    attributes = Ref.of(class_features(features=features)(rows))
    held = {"mode": "explicit", "held_out": [f"bird {c:02d}" for c in range(10, 16)], "val_ood_fraction": 0.0}
    made = make(samples, held=held, tiers="attributes", attributes=attributes)
    tier_of = {row["class_name"]: row["tier"] for row in made if row["role"] == "ood"}
    assert list(tier_of.values()) == ["near", "near", "mid", "mid", "far", "far"]
    assert {row["nearest_id_class"] for row in made if row["role"] == "ood"} == {"bird 09"}


def test_classes_of_one_name_in_several_pools_are_measured_by_their_own_vectors() -> None:
    """Outliers need no attributes; a far class may have the name of a main class that is too small to use."""
    others = {"main": (1, [1.0, 0.0]), "far": (3, [0.0, 1.0]), "outliers": (2, None)}
    rocks = [row | {"traits": v} for pool, (n, v) in others.items() for row in beside(pool, ["rock"], n)]
    samples = birds(traits=lambda c, i: [1.0, 0.01 * c]) + rocks
    rows = table_of(samples)
    attributes = Ref.of(class_features(features=Ref.of(rows), name="traits")(rows))
    made = make(samples, tiers="attributes", attributes=attributes)
    far, main = ([row for row in made if row["pool"] == p and row["role"] == "ood"] for p in ("far", "main"))
    assert (
        far and {row["tier"] for row in far} == {"far"} and {row["nearest_id_class"] for row in far} != {None}
    )
    assert all(row["attr_distance"] > 0.8 for row in far)
    assert main and all(row["attr_distance"] < 0.01 for row in main)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tiers": "taxonmy"}, "tiers: no taxonmy; did you mean taxonomy"),
        ({"on_leak": "ignore"}, "on_leak: no ignore"),
        ({"val_fraction": 1.2}, r"val_fraction is 1\.2"),
    ],
)
def test_unknown_choices_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(birds(), **options)


def test_duplicates_of_other_rows_are_refused() -> None:
    other = pa.table({"key_a": ["x"], "key_b": ["y"], "declared": [False]})
    with pytest.raises(StageError, match="duplicates are of other rows"):
        make(birds(), duplicates=other)


def test_images_without_a_class_are_unused_and_every_reserve_has_a_reason() -> None:
    samples = [*birds(), {"__key__": "lost", "pool": "main", "class_name": None, "catalog": "birds"}]
    rows = make(samples)
    assert (rows[-1]["role"], rows[-1]["reason"], rows[-1]["label"]) == ("unused", "unlabelled", -1)
    assert all((row["publish"] == "reserve") == (row["reason"] is not None) for row in rows)


def test_the_class_summary_counts_what_the_split_did() -> None:
    samples = birds() + beside("far", ["rock"], 3)
    rows = table_of(samples)
    classes = class_table()(rows)
    roles = hold_out(seed=0, classes=Ref.of(classes))(rows)
    made = split(seed=0, classes=Ref.of(roles), ood_images="test")(rows)
    summary = class_summary(split=Ref.of(made), classes=Ref.of(classes))(rows).to_pylist()
    assert [row["class_name"] for row in summary] == classes["class_name"].to_pylist()
    rock = summary[0]
    assert (rock["role"], rock["tier"], rock["far_ood"], rock["reserve"]) == ("ood", "far", 1, 2)
    known = [row for row in summary if row["role"] == "id"]
    assert [row["label"] for row in known] == list(range(9))
    assert sum(row["train"] + row["val"] + row["test"] for row in known) == 180


def test_auto_tests_the_same_images_of_every_class_where_somebody_chose_them() -> None:
    flagged = birds(classes=16, official_split=lambda c, i: "test" if i < 2 else "train")
    tested = [row for row in make(flagged, ood_images="auto") if row["publish"] in ("test", "near_ood")]
    assert tested and all(row["official_split"] == "test" for row in tested)
    toned = birds(classes=16, tone=lambda c, i: "dark" if i < 2 else "light")
    tested = [
        row
        for row in make(toned, ood_images="auto", test_where={"tone": ["dark"]})
        if row["publish"] in ("test", "near_ood")
    ]
    assert tested and all(row["tone"] == "dark" for row in tested)
