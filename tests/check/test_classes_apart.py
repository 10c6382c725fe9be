"""Checks that no class, label, identity or outlier concept is on two sides: good builds pass, broken ones fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from datakit.check.class_disjoint import check_class_disjoint
from datakit.check.identity_group import check_identity_group
from datakit.check.label_table import check_label_table
from datakit.check.outlier_taxonomy import check_outlier_taxonomy
from datakit.check.pretrain_overlap import check_pretrain_overlap
from datakit.check.seed_diversity import check_seed_diversity
from datakit.stage import Ref

Build = Any


@pytest.mark.parametrize(
    "spelling",
    ["Kestrels", "KESTREL", "kestrel.", "ke\u0301strel", "\uff4b\uff45\uff53\uff54\uff52\uff45\uff4c"],
)
def test_a_class_on_both_sides_is_found_under_any_spelling(good: Build, spelling: str) -> None:
    assert good.find(check_class_disjoint)["passed"]
    rows = good.where(class_name="swift", publish="near_ood")
    broken = good.misfiled(class_name=dict.fromkeys(rows, spelling))
    found = broken.find(check_class_disjoint)
    assert not found["passed"] and found["severity"] == "fail" and found["count"] == 1
    assert "kestrel (id)" in found["detail"]["shared"]["kestrel"]


def test_a_synonym_on_both_sides_is_found_only_when_it_is_declared(good: Build) -> None:
    rows = good.where(class_name="swift", publish="near_ood")
    broken = good.misfiled(class_name=dict.fromkeys(rows, "windhover"))
    assert broken.find(check_class_disjoint)["passed"]
    assert not broken.find(check_class_disjoint, synonyms=[["kestrel", "windhover"]])["passed"]


def test_a_held_out_class_that_lies_under_an_id_class_is_found(good: Build) -> None:
    rows = good.where(class_name="swift")
    broken = good.planted(taxonomy={row: ["songbirds", "finches", "siskin"] for row in rows})
    found = broken.find(check_class_disjoint)
    assert not found["passed"] and found["detail"]["nested"] == [["swift", "siskin"]]


@pytest.mark.parametrize("level", ["Siskins", "SISKIN", "spinus"])
def test_nesting_is_found_however_a_level_is_spelt(good: Build, level: str) -> None:
    rows = good.where(class_name="swift")
    broken = good.planted(taxonomy={row: ["Songbird", "finch", level] for row in rows})
    found = broken.find(check_class_disjoint, synonyms=[["siskin", "spinus"]])
    assert not found["passed"] and found["detail"]["nested"] == [["swift", "siskin"]]


def test_an_id_class_that_lies_under_a_held_out_class_is_found(good: Build) -> None:
    rows = good.where(class_name="siskin")
    broken = good.planted(taxonomy={row: ["songbirds", "finches", "swift"] for row in rows})
    found = broken.find(check_class_disjoint)
    assert not found["passed"] and found["detail"]["nested"] == [["siskin", "swift"]]


def test_labels_are_contiguous_and_a_gap_or_a_swap_is_found(good: Build) -> None:
    found = good.find(check_label_table)
    assert found["passed"] and found["detail"]["id_classes"] == 9
    labels = good.split["label"].to_pylist()
    one_based = good.misfiled(label={i: label + 1 for i, label in enumerate(labels) if label >= 0})
    assert not one_based.find(check_label_table)["passed"]
    held_out = good.where(publish="near_ood")[0]
    assert not good.misfiled(label={held_out: 3}).find(check_label_table)["passed"]


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_an_id_class_without_train_val_or_test_images_is_found(good: Build, part: str) -> None:
    rows = good.where(class_name="serin", split=part)
    broken = good.misfiled(role=dict.fromkeys(rows, "unused"), label=dict.fromkeys(rows, -1),
                           reason=dict.fromkeys(rows, "lost"))  # fmt: skip
    found = broken.find(check_label_table)
    assert not found["passed"] and "serin" in found["summary"] and found["keys"]


def test_the_label_base_trap(good: Build) -> None:
    """Labels 1 … 15 declared as 0 … 14: class 0 is a phantom, class 15 is never drawn (MixOE's butterflies)."""
    labels = good.rows.data["orig_label"].to_pylist()
    main = [i for i, pool in enumerate(good.rows.data["pool"].to_pylist()) if pool == "main"]
    shifted = {i: label + 1 for i, label in enumerate(labels)}
    one_based = good.planted(orig_label=shifted).misfiled(orig_label=shifted)
    count = len({labels[i] for i in main})
    assert good.find(check_label_table, label_base=0, label_count=count)["passed"]
    assert one_based.find(check_label_table, label_base=1, label_count=count)["passed"]
    found = one_based.find(check_label_table, label_base=0, label_count=count)
    assert not found["passed"]
    assert found["detail"]["phantom or undeclared label"] == [
        "0 has no image",
        f"{count} is not among 0 … {count - 1}",
    ]


def test_a_label_of_two_classes_is_found(good: Build) -> None:
    row = good.where(class_name="siskin")[0]
    found = good.planted(orig_label={row: 1}).misfiled(orig_label={row: 1}).find(check_label_table)
    assert not found["passed"] and "label and class not one to one" in found["detail"]


def test_a_class_of_two_labels_is_found(good: Build) -> None:
    row = good.where(class_name="siskin")[0]
    found = good.planted(orig_label={row: 99}).misfiled(orig_label={row: 99}).find(check_label_table)
    assert found["detail"]["label and class not one to one"] == ["siskin is [0, 99]"]


def test_classes_that_change_names_are_found_though_labels_go_along(good: Build) -> None:
    after = {"siskin": "linnet", "linnet": "serin", "serin": "siskin"}
    names, labels = good.split["class_name"].to_pylist(), good.split["label"].to_pylist()
    label_of = {name: label for name, label in zip(names, labels, strict=True) if label >= 0}
    moved = [i for i, name in enumerate(names) if name in after]
    broken = good.misfiled(
        class_name={i: after[names[i]] for i in moved},
        label={i: label_of[after[names[i]]] for i in moved if labels[i] >= 0},
    )
    found = broken.find(check_label_table)
    assert not found["passed"] and found["detail"]["class of another"] == [
        "linnet is told to be serin", "serin is told to be siskin", "siskin is told to be linnet",
    ]  # fmt: skip
    assert found["count"] == 3 and len(found["keys"]) == len(moved)


def test_images_of_a_held_out_class_that_are_booked_as_id_are_found(good: Build) -> None:
    rows = good.where(class_name="swift")[:3]
    siskin = good.where(class_name="siskin", publish="train")[0]
    taken = {
        name: dict.fromkeys(rows, good.split[name][siskin].as_py())
        for name in ("class_name", "role", "split", "publish", "label", "tier", "reason")
    }
    nothing = {"orig_label": dict.fromkeys(range(len(good.rows)))}
    found = good.planted(**nothing).misfiled(**nothing, **taken).find(check_label_table)
    assert not found["passed"] and found["summary"] == "class of another: swift is told to be siskin"
    assert found["keys"] == sorted(good.split["key"][row].as_py() for row in rows)


@pytest.mark.parametrize(
    ("publish", "column", "value"),
    [
        ("near_ood", "orig_label", -1),  # lost on the way
        ("near_ood", "label", 3),
        ("train", "label", 99),
        ("reserve", "reason", None),
        ("test", "publish", "far_ood"),
    ],
)
def test_an_image_with_a_wrong_entry_is_found_and_named(
    good: Build, publish: str, column: str, value: Any
) -> None:
    row = good.where(publish=publish)[0]
    found = good.misfiled(**{column: {row: value}}).find(check_label_table)
    assert not found["passed"] and found["count"] == 1
    assert found["keys"] == [good.split["key"][row].as_py()]


@pytest.mark.parametrize(
    ("lists", "shown"),
    [
        ({"near_ood": "train"}, "swift is ood test near, but published in train"),
        ({"train": "near_ood"}, "siskin is id train, but published in near_ood"),
        ({"near_ood": "far_ood", "far_ood": "near_ood"}, "jet is ood test far, but published in near_ood"),
        ({"test": "train"}, "siskin is id test, but published in train"),
        ({"outliers": "coarse_ood"}, "chair is outlier train, but published in coarse_ood"),
        ({"reserve": "train"}, "swift is unused, but published in train"),
        ({"val": "nowhere"}, "siskin is id val, but published in nowhere"),
    ],
)
def test_images_published_as_what_they_are_not_are_found(
    good: Build, lists: dict[str, str], shown: str
) -> None:
    moved = {row: into for name, into in lists.items() for row in good.where(publish=name)}
    found = good.misfiled(publish=moved).find(check_label_table)
    assert not found["passed"] and shown in found["detail"]["published as what it is not"]
    keys = good.split["key"].to_pylist()
    assert set(found["keys"]) <= {keys[row] for row in moved} and found["keys"]


@pytest.mark.parametrize("field", ["identity_group", "variant_group"])
def test_an_identity_on_two_sides_is_found(good: Build, field: str) -> None:
    assert good.find(check_identity_group)["passed"]
    male, female = good.where(class_name="siskin", split="train")[0], good.where(publish="near_ood")[0]
    found = good.planted(**{field: {male: "spinus", female: "spinus"}}).find(check_identity_group)
    assert not found["passed"] and found["detail"][field] == {"spinus": ["id", "ood"]}
    both_id = good.planted(**{field: {male: "spinus", good.where(split="test", role="id")[0]: "spinus"}})
    assert both_id.find(check_identity_group)["passed"]


def test_an_outlier_below_a_root_is_found_by_taxonomy_and_name(good: Build) -> None:
    assert good.find(check_outlier_taxonomy)["passed"]
    row = good.where(publish="outliers")[0]
    by_path = good.planted(taxonomy={row: ["hunters", "harriers"]})
    assert not by_path.find(check_outlier_taxonomy)["passed"]
    by_name = good.misfiled(class_name={row: "Kestrels"})
    assert not by_name.find(check_outlier_taxonomy)["passed"]


@pytest.mark.parametrize("role", ["ood", "val_ood"])
def test_an_outlier_that_is_a_held_out_class_is_found(good: Build, role: str) -> None:
    larks = good.where(class_name="lark", role="ood")
    row = good.where(publish="outliers")[0]
    broken = good.misfiled(role=dict.fromkeys(larks, role), class_name={row: "Larks"})
    assert not broken.find(check_outlier_taxonomy)["passed"]


def test_an_outlier_below_a_root_is_found_by_wordnet(good: Build, tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text(
        "  1 licence\n"
        "00000100 03 n 01 bird 0 000 | flies\n"
        "00000200 05 n 02 quail 0 bobwhite 0 001 @ 00000100 n 0000 | small game bird\n"
        "00000300 06 n 01 chair 0 000 | a seat\n"
    )
    row = good.where(publish="outliers")[0]
    leaky = good.planted(concept={row: "n00000200"})
    options = {"roots": ["n00000100"], "wordnet": str(tmp_path)}
    assert good.find(check_outlier_taxonomy, **options)["passed"]
    assert not leaky.find(check_outlier_taxonomy, **options)["passed"]
    for by_word in ({"concept": {row: "quail"}}, {"taxonomy": {row: ["bobwhites"]}}):
        assert not good.planted(**by_word).find(check_outlier_taxonomy, **options)["passed"]
    sense = good.planted(concept={row: "n00000300"}, taxonomy={row: ["quail"]})
    assert sense.find(check_outlier_taxonomy, **options)["passed"], "a wnid says which sense is meant"
    assert leaky.find(check_outlier_taxonomy)["passed"], "without WordNet nothing says that a quail is a bird"


def test_seeds_that_hold_out_the_same_classes_are_found(good: Build) -> None:
    same = check_seed_diversity(splits=[Ref.of(good.split), Ref.of(good.split)], seeds=[4, 5])(good.rows)[0]
    assert not same["passed"] and same["value"] == 1 and "seeds 4 and 5" in same["summary"]
    rows = [i for name in ("swift", "lark", "teal") for i in good.where(class_name=name)]
    other = good.misfiled(role=dict.fromkeys(rows, "unused"))
    rest = good.misfiled(role={i: "unused" for i in range(len(good.rows)) if i not in rows})
    most = check_seed_diversity(splits=[Ref.of(good.split), Ref.of(_but_one(good, "swift", "kestrel"))])
    assert most(good.rows)[0]["value"] == pytest.approx(5 / 6) and not most(good.rows)[0]["passed"]
    apart = check_seed_diversity(splits=[Ref.of(other.split), Ref.of(rest.split)])(good.rows)[0]
    assert apart["passed"] and apart["value"] == 0


def _but_one(good: Build, back: str, instead: str) -> Any:
    """A split that holds out one class instead of another."""
    roles = dict.fromkeys(good.where(class_name=back), "id") | dict.fromkeys(
        good.where(class_name=instead), "ood"
    )
    return good.misfiled(role=roles).split


def test_classes_that_the_backbone_knows_are_named(good: Build) -> None:
    assert good.find(check_pretrain_overlap, pretrained={"net": ["tench, Tinca tinca"]})["passed"]
    labels = ["sea eagle", "Swifts, Apus apus", "kestrel"]
    found = good.find(check_pretrain_overlap, pretrained={"other": ["tench"], "net": labels})
    assert found["detail"]["classes"] == ["swift"] and found["severity"] == "info"
    same = good.find(check_pretrain_overlap, pretrained={"net": ["martlet"]}, synonyms=[["martlet", "swift"]])
    assert same["detail"]["classes"] == ["swift"]


def test_a_model_whose_labels_are_not_known_passes_for_none_that_has_seen_nothing(good: Build) -> None:
    found = good.find(check_pretrain_overlap, pretrained={"mine": []})
    assert not found["passed"] and found["severity"] == "info" and found["value"] is None
    assert found["summary"] == "the labels of the pre-training of mine are not known"
    both = good.find(check_pretrain_overlap, pretrained={"net": ["tench"], "mine": []})
    assert not both["passed"] and "0 OOD classes are among the labels of net" in both["summary"]
    assert both["summary"].endswith("of mine are not known")
