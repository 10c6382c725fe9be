"""Checks that no class, label, identity or outlier concept is on two sides: good builds pass, broken ones fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
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


def test_an_original_label_lost_on_the_way_is_found(good: Build) -> None:
    row = good.where(publish="near_ood")[0]
    assert not good.misfiled(orig_label={row: -1}).find(check_label_table)["passed"]


def test_an_image_left_out_without_a_reason_is_found(good: Build) -> None:
    row = good.where(role="unused")[0]
    assert not good.misfiled(reason={row: None}).find(check_label_table)["passed"]


@pytest.mark.parametrize("field", ["identity_group", "variant_group"])
def test_an_identity_on_two_sides_is_found(good: Build, field: str) -> None:
    assert good.find(check_identity_group)["passed"]
    male, female = good.where(class_name="siskin", split="train")[0], good.where(publish="near_ood")[0]
    found = good.planted(**{field: {male: "spinus", female: "spinus"}}).find(check_identity_group)
    assert not found["passed"] and found["detail"][field] == {"spinus": ["id", "ood"]}
    both_id = good.planted(**{field: {male: "spinus", good.where(split="test", role="id")[0]: "spinus"}})
    assert both_id.find(check_identity_group)["passed"]


def test_an_outlier_below_a_root_is_found_by_taxonomy_edges_and_name(good: Build) -> None:
    assert good.find(check_outlier_taxonomy)["passed"]
    row = good.where(publish="outliers")[0]
    by_path = good.planted(taxonomy={row: ["hunters", "harriers"]})
    assert not by_path.find(check_outlier_taxonomy)["passed"]
    by_name = good.misfiled(class_name={row: "Kestrels"})
    assert not by_name.find(check_outlier_taxonomy)["passed"]
    edges = Ref.of(pa.table({"child": ["chair", "perch"], "parent": ["perch", "siskin"]}))
    found = good.find(check_outlier_taxonomy, edges=edges)
    assert not found["passed"] and found["count"] == 10 and "chair under siskin" in found["summary"]


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
    assert leaky.find(check_outlier_taxonomy)["passed"], "without WordNet nothing says that a quail is a bird"


def test_seeds_that_hold_out_the_same_classes_are_found(good: Build) -> None:
    same = check_seed_diversity(splits=[Ref.of(good.split), Ref.of(good.split)], seeds=[4, 5])(good.rows)[0]
    assert not same["passed"] and same["value"] == 1 and "seeds 4 and 5" in same["summary"]
    rows = [i for name in ("swift", "lark", "teal") for i in good.where(class_name=name)]
    other = good.misfiled(role=dict.fromkeys(rows, "unused"))
    rest = good.misfiled(role={i: "unused" for i in range(len(good.rows)) if i not in rows})
    apart = check_seed_diversity(splits=[Ref.of(other.split), Ref.of(rest.split)])(good.rows)[0]
    assert apart["passed"] and apart["value"] == 0


def test_classes_that_the_backbone_knows_are_named(good: Build) -> None:
    assert good.find(check_pretrain_overlap, pretrained=["tench, Tinca tinca"])["passed"]
    found = good.find(check_pretrain_overlap, pretrained=["sea eagle", "Swifts, Apus apus", "kestrel"])
    assert found["detail"]["classes"] == ["swift"] and found["severity"] == "info"
