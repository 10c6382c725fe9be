"""Checks that no image, copy or look-alike is on two sides: good builds pass, broken ones fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image as pil

from datakit.check.image_disjoint import check_image_disjoint
from datakit.check.near_dup import check_near_dup
from datakit.check.outlier_similarity import check_outlier_similarity
from datakit.errors import StageError
from datakit.image import decode, encode
from datakit.rng import rng_for
from datakit.stage import Ref
from datakit.stages.columns import TableRows
from datakit.stages.phash import phash64

Build = Any


def picture(seed: int, side: int = 96) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Smooth random colour: a coarse grid blown up."""
    grid = rng_for(seed, "picture").integers(0, 256, (8, 8, 3)).astype(np.uint8)
    return np.asarray(pil.fromarray(grid).resize((side, side), pil.Resampling.BICUBIC))


def hashes(build: Build, row: int, image: np.ndarray[Any, np.dtype[np.uint8]]) -> Build:
    upright, flipped = phash64(image)
    return build.planted(phash={row: f"{upright:016x}"}, phash_flip={row: f"{flipped:016x}"})


def test_equal_bytes_in_two_lists_are_found_and_within_one_list_are_not(good: Build) -> None:
    assert good.find(check_image_disjoint)["passed"]
    train, test = good.where(publish="train")[:2], good.where(publish="test")[0]
    found = good.planted(content={train[0]: "aa", test: "aa"}).find(check_image_disjoint)
    assert not found["passed"] and found["severity"] == "fail" and len(found["keys"]) == 2
    assert found["detail"]["lists"] == {"aa": ["test", "train"]}
    assert good.planted(content={train[0]: "aa", train[1]: "aa"}).find(check_image_disjoint)["passed"]


def test_an_image_under_two_classes_is_a_warning_of_its_own(good: Build) -> None:
    siskin, kestrel = (good.where(publish="train", class_name=name)[0] for name in ("siskin", "kestrel"))
    broken = good.planted(content={siskin: "aa", kestrel: "aa"})
    exact, classes = check_image_disjoint(split=_ref(broken), seed=0)(broken.rows)
    assert exact["passed"] and exact["summary"].endswith("none in two lists")
    assert (classes["id"], classes["severity"], classes["passed"]) == ("image_classes", "warn", False)
    assert len(classes["keys"]) == 2 and classes["detail"]["classes"] == {"aa": ["kestrel", "siskin"]}


def test_a_key_that_is_there_twice_is_found_and_named(good: Build) -> None:
    one, other = good.where(publish="train")[:2]
    name = good.split["key"][one].as_py()
    found = good.planted(__key__={other: name}).misfiled(key={other: name}).find(check_image_disjoint)
    assert not found["passed"] and (found["count"], found["keys"]) == (1, [name])


def test_equal_bytes_in_an_unused_image_are_no_leak(good: Build) -> None:
    unused, test = good.where(publish="reserve")[0], good.where(publish="test")[0]
    assert good.planted(content={unused: "aa", test: "aa"}).find(check_image_disjoint)["passed"]


def test_a_torn_burst_is_a_warning_of_its_own(good: Build) -> None:
    train, test = good.where(publish="train")[0], good.where(publish="test")[0]
    broken = good.planted(capture_group={train: "burst", test: "burst"})
    exact, burst = check_image_disjoint(split=_ref(broken), seed=0)(broken.rows)
    assert exact["passed"] and not burst["passed"]
    assert (burst["id"], burst["severity"], len(burst["keys"])) == ("capture_group", "warn", 2)


def test_a_split_of_other_rows_is_refused(good: Build) -> None:
    shorter = TableRows(good.rows.data.slice(1))
    with pytest.raises(StageError, match="not of these rows"):
        check_image_disjoint(split=_ref(good))(shorter)


@pytest.mark.parametrize("change", ["jpeg", "half size", "brighter", "mirrored"])
@pytest.mark.parametrize("into", ["near_ood", "train", "outliers"])
def test_a_planted_copy_of_a_test_image_is_found(good: Build, change: str, into: str) -> None:
    image = picture(1)
    copy = {
        "jpeg": decode(encode(image, format="JPEG", quality=50)),
        "half size": np.asarray(pil.fromarray(image).resize((48, 48))),
        "brighter": np.clip(image.astype(int) + 20, 0, 255).astype(np.uint8),
        "mirrored": np.ascontiguousarray(image[:, ::-1]),
    }[change]
    test, other = good.where(publish="test")[0], good.where(publish=into)[0]
    broken = hashes(hashes(good, test, image), other, copy)
    assert good.find(check_near_dup)["passed"]
    found = broken.find(check_near_dup)
    assert not found["passed"] and found["count"] == 1 and len(found["keys"]) == 2
    assert found["detail"]["borders"] == {" | ".join(sorted(["test", into])): 1}
    if change == "mirrored":
        assert broken.find(check_near_dup, flip=False)["passed"], (
            "a mirror image is invisible to the plain hash"
        )


def test_other_pictures_are_no_duplicates(good: Build) -> None:
    test, other = good.where(publish="test")[0], good.where(publish="train")[0]
    assert hashes(hashes(good, test, picture(1)), other, picture(2)).find(check_near_dup)["passed"]


def test_declared_variants_may_differ_in_part_but_not_in_class(good: Build) -> None:
    train = good.where(publish="train", class_name="siskin")[0]
    test = good.where(publish="test", class_name="siskin")[0]
    alike = hashes(hashes(good, train, picture(1)), test, picture(1))
    assert not alike.find(check_near_dup)["passed"]
    assert alike.planted(variant_group={train: "a", test: "a"}).find(check_near_dup)["passed"]
    other = good.where(publish="near_ood")[0]
    across = hashes(hashes(good, train, picture(1)), other, picture(1))
    assert not across.planted(variant_group={train: "a", other: "a"}).find(check_near_dup)["passed"]


def test_features_can_clear_a_pair_that_only_the_hash_finds_alike(good: Build) -> None:
    train, other = good.where(publish="train")[0], good.where(publish="far_ood")[0]
    alike = hashes(hashes(good, train, picture(1)), other, picture(1))
    found = alike.find(check_near_dup, embed_sim=0.95, features=good.features_ref())
    assert found["passed"] and not alike.find(check_near_dup)["passed"]


def test_features_of_the_mirror_image_tell_that_a_pair_is_one_picture(good: Build) -> None:
    """The encoder sees the copy as another picture; its hash and its features, once mirrored, do not."""
    image = picture(1)
    first, second = sorted((good.where(publish="train")[0], good.where(publish="far_ood")[0]))
    turned = hashes(hashes(good, first, image), second, np.ascontiguousarray(image[:, ::-1]))
    options: dict[str, Any] = {"embed_sim": 0.95, "features": good.features_ref()}
    assert turned.find(check_near_dup, **options)["passed"]
    vectors: list[Any] = [None] * len(good.rows)
    vectors[first] = good.features.table(["features"])["features"][second].as_py()
    mirrored = Ref.of(TableRows(good.rows.data.select(["__key__"]).append_column("mirrored", [vectors])))
    found = turned.find(check_near_dup, **options, mirrored=mirrored)
    assert not found["passed"] and found["count"] == 1
    plain = hashes(hashes(good, first, image), second, image)
    assert plain.find(check_near_dup, **options, mirrored=mirrored)["passed"], (
        "no mirror image found this pair"
    )


@pytest.mark.parametrize("bits", [0, 3, 6, 10])
def test_the_search_finds_what_comparing_all_with_all_finds(good: Build, bits: int) -> None:
    """Random words, each a few flipped bits from another: banding must miss none."""
    rng = rng_for(0, "words")
    size = len(good.rows)
    words = [int(rng.integers(0, 2**62)) for _ in range(size // 2)]
    for word in words[: size - len(words)] + words:
        flips = rng.choice(64, int(rng.integers(0, 14)), replace=False)
        words.append(word ^ sum(1 << int(bit) for bit in flips))
    words = words[:size]
    broken = good.planted(phash={i: f"{word:016x}" for i, word in enumerate(words)})
    lists = good.split["publish"].to_pylist()
    used = [i for i in range(size) if lists[i] != "reserve"]
    expected = sum(
        (words[i] ^ words[j]).bit_count() <= bits and lists[i] != lists[j]
        for i in used
        for j in used
        if i < j
    )
    assert expected > 0
    assert broken.find(check_near_dup, phash_bits=bits, flip=False)["count"] == expected


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("test", "kestrel"),
        ("near_ood", "swift"),
        ("mid_ood", "barn owl"),
        ("far_ood", "jet"),
        ("coarse_ood", "cup"),
    ],
)
def test_an_outlier_that_looks_like_a_test_image_is_a_warning(good: Build, where: str, name: str) -> None:
    options = {"features": good.features_ref(), "max_sim_to_test": 0.9}
    assert good.find(check_outlier_similarity, **options)["passed"]
    tested = good.where(publish=where, class_name=name)[0]
    alike = next(i for i in good.where(class_name=name) if i != tested)
    broken = good.misfiled(publish={alike: "outliers"})
    found = broken.find(check_outlier_similarity, **options)
    assert not found["passed"] and found["severity"] == "warn" and found["value"] > 0.9
    assert found["detail"]["pairs"][0][1].startswith(name.replace(" ", "-"))


def _ref(build: Build) -> Ref[Any]:
    return Ref.of(build.split)
