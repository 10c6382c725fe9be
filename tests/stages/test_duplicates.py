from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.errors import ConfigError, StageError
from datakit.rng import rng_for
from datakit.stage import Ref
from datakit.stages.columns import TableRows
from datakit.stages.duplicates import mirror_images, near_duplicates
from datakit.stages.leaks import drop_leaks, pair_rows, too_similar

FAR = 0x0F0F0F0F0F0F0F0F  # 32 bits from 0: the mirror image of most samples here


def rows(*samples: dict[str, Any]) -> TableRows:
    """Rows keyed a, b, c …; hashes given as integers, contents all different unless given."""
    table = {
        "__key__": [chr(97 + i) for i in range(len(samples))],
        "content": [sample.get("content", f"content {i}") for i, sample in enumerate(samples)],
        "phash": [_hex(sample.get("phash")) for sample in samples],
        "phash_flip": [_hex(sample.get("flip", FAR)) for sample in samples],
        "variant_group": [sample.get("variant") for sample in samples],
    }
    return TableRows(pa.table(table))


def _hex(word: int | None) -> str | None:
    return None if word is None else f"{word % 2**64:016x}"


def pairs(table: pa.Table) -> set[tuple[str, str]]:
    return set(zip(table["key_a"].to_pylist(), table["key_b"].to_pylist(), strict=True))


def test_pairs_are_found_up_to_the_bits_and_not_beyond() -> None:
    samples = rows(
        {"phash": 0}, {"phash": 0b111111}, {"phash": 0b1111111}, {"phash": 2**63 - 1}, {"phash": None}
    )
    found = near_duplicates(phash_bits=6, flip=False)(samples)
    assert dict(zip(zip(found["key_a"].to_pylist(), found["key_b"].to_pylist(), strict=True),
                    found["distance"].to_pylist(), strict=True)) == {("a", "b"): 6, ("b", "c"): 1}  # fmt: skip
    assert pairs(near_duplicates(phash_bits=7, flip=False)(samples)) == {("a", "b"), ("a", "c"), ("b", "c")}


def test_a_mirror_image_is_found_from_either_side_and_symmetric_images_are_not_their_own_pair() -> None:
    samples = rows({"phash": 0, "flip": 255}, {"phash": 255 << 20, "flip": 1}, {"phash": ~FAR, "flip": ~FAR})
    found = near_duplicates(flip=True)(samples).to_pylist()
    assert [(f["key_a"], f["key_b"], f["distance"], f["flipped"]) for f in found] == [("a", "b", 1, True)]
    assert near_duplicates(flip=False)(samples).num_rows == 0


def test_equal_bytes_are_a_pair_whatever_the_hash_says() -> None:
    found = near_duplicates()(
        rows(
            {"content": "x", "phash": None},
            {"content": "x", "phash": 5},
            {"content": "x", "phash": 255 << 20},
            {"phash": 4},
        )
    )
    exact = found.filter(found["exact"])
    assert pairs(exact) == {("a", "b"), ("a", "c"), ("b", "c")} and exact["distance"].to_pylist() == [0, 0, 0]
    assert pairs(found) - pairs(exact) == {("b", "d")}


def test_variants_are_declared_but_equal_bytes_are_never_excused() -> None:
    found = near_duplicates()(
        rows({"phash": 0, "variant": "v"}, {"phash": 1, "variant": "v"}, {"phash": 3, "variant": "w"},
             {"content": "x", "variant": "u"}, {"content": "x", "variant": "u"})
    )  # fmt: skip
    declared = {(row["key_a"], row["key_b"]): row["declared"] for row in found.to_pylist()}
    assert declared == {("a", "b"): True, ("a", "c"): False, ("b", "c"): False, ("d", "e"): False}


def test_features_confirm_a_pair_or_clear_it() -> None:
    samples = rows({"phash": 0}, {"phash": 1}, {"phash": 2}, {"content": "x"}, {"content": "x"})
    vectors = [[1.0, 0.0], [0.99, 0.05], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    features = Ref.of(TableRows(pa.table({"features": pa.array(vectors, pa.list_(pa.float32(), 2))})))
    found = near_duplicates(embed_sim=0.95, features=features)(samples)
    assert pairs(found) == {("a", "b"), ("d", "e")}, "equal bytes need no confirmation"
    assert found["similarity"][0].as_py() == pytest.approx(0.9987, abs=1e-3)
    with pytest.raises(ConfigError, match="embed_sim needs features"):
        near_duplicates(embed_sim=0.95)(samples)


def vectors(name: str, *values: list[float] | None) -> Ref[TableRows]:
    return Ref.of(TableRows(pa.table({name: pa.array(values, pa.list_(pa.float32()))})))


def test_a_mirror_image_is_confirmed_by_features_of_the_mirror_image() -> None:
    """b is a's mirror image, which the encoder sees as another picture; d is plainly near c and no copy of it."""
    near = {"flip": ~FAR}
    samples = rows({"phash": 0, "flip": 255}, {"phash": 255, "flip": 0}, {"phash": FAR << 1, **near},
                   {"phash": FAR << 1, **near})  # fmt: skip
    assert mirror_images()(samples)["__key__"].to_pylist() == ["a"]
    seen = vectors("features", [1.0, 0.0], [0.9, 0.4], [1.0, 0.0], [0.9, 0.4])
    turned = vectors("mirrored", [0.9, 0.4], None, [0.9, 0.4], None)
    options: dict[str, Any] = {"embed_sim": 0.97, "features": seen}
    assert near_duplicates(**options)(samples).num_rows == 0
    found = near_duplicates(**options, mirrored=turned)(samples).to_pylist()
    assert [(f["key_a"], f["key_b"]) for f in found] == [("a", "b")]
    assert found[0]["similarity"] == pytest.approx(1)
    lower = near_duplicates(embed_sim=0.9, features=seen, mirrored=turned)(samples)
    assert pairs(lower) == {("a", "b"), ("c", "d")}


def test_a_symmetric_picture_is_confirmed_either_way() -> None:
    """a and b are near plainly and, less so, through the mirror image."""
    samples = rows({"phash": 0, "flip": 3}, {"phash": 0, "flip": 3})
    seen, turned = vectors("features", [1.0, 0.0], [0.0, 1.0]), vectors("mirrored", [0.0, 1.0], None)
    found = near_duplicates(embed_sim=0.97, features=seen, mirrored=turned)(samples).to_pylist()
    assert [(f["distance"], f["flipped"]) for f in found] == [(0, False)]


def test_an_image_whose_mirror_image_was_not_embedded_is_no_image_told_apart() -> None:
    samples = rows({"phash": 0, "flip": 255}, {"phash": 255, "flip": 0})
    seen, turned = vectors("features", [1.0, 0.0], [0.0, 1.0]), vectors("mirrored", None, [1.0, 0.0])
    with pytest.raises(StageError, match="1 rows have no mirrored"):
        near_duplicates(embed_sim=0.97, features=seen, mirrored=turned)(samples)


def test_without_mirror_images_nothing_is_asked_of_them() -> None:
    samples = rows({"phash": 0}, {"phash": 1})
    assert mirror_images()(samples).num_rows == 0 == mirror_images()(rows()).num_rows
    options: dict[str, Any] = {"embed_sim": 0.9, "features": vectors("features", [1.0, 0.0], [1.0, 0.0])}
    turned = Ref.of(TableRows(pa.table({"mirrored": pa.nulls(2)})))
    assert pairs(near_duplicates(**options, mirrored=turned)(samples)) == {("a", "b")}


def test_the_search_finds_what_comparing_all_with_all_finds() -> None:
    rng = rng_for(0, "words")
    words = [int(rng.integers(0, 2**63)) for _ in range(1500)]
    words += [
        word ^ sum(1 << int(bit) for bit in rng.choice(64, int(rng.integers(0, 12)), replace=False))
        for word in words
    ]
    samples = TableRows(pa.table({"__key__": [f"{i:04d}" for i in range(3000)], "phash": list(map(_hex, words)),
                                  "phash_flip": list(map(_hex, words[::-1]))}))  # fmt: skip
    packed = np.array(words, dtype=np.uint64)
    apart = np.bitwise_count(packed[:, None] ^ packed[None, :])
    mirrored = np.bitwise_count(packed[::-1][:, None] ^ packed[None, :])
    wanted = np.minimum(apart, np.minimum(mirrored, mirrored.T))
    a, b = np.nonzero(np.triu(wanted <= 6, k=1))
    found = near_duplicates()(samples)
    assert (
        pairs(found) == {(f"{i:04d}", f"{j:04d}") for i, j in zip(a, b, strict=True)} and found.num_rows > 500
    )
    assert found["distance"].to_pylist() == wanted[a, b].tolist()


def test_bounds_are_checked_and_a_crowd_of_copies_is_named() -> None:
    with pytest.raises(ConfigError, match="phash_bits is 40"):
        near_duplicates(phash_bits=40)(rows({"phash": 1}))
    crowd = rows(*({"phash": 77} for _ in range(20)), {"phash": 255 << 20})
    assert near_duplicates()(crowd).num_rows == 190
    with pytest.raises(ConfigError, match="20 look like a; drop that placeholder"):
        near_duplicates(max_pairs=100)(crowd)


def test_no_rows_and_no_hashes_give_an_empty_table() -> None:
    assert near_duplicates()(rows({"phash": None}, {"phash": None})).num_rows == 0
    assert near_duplicates()(rows()).num_rows == 0


def test_images_that_are_all_different_need_no_confirmation() -> None:
    samples = rows({"phash": 0, "phash_flip": 0}, {"phash": 2**64 - 1, "phash_flip": 2**64 - 1})
    vectors = pa.array([[1.0, 0.0], [0.0, 1.0]], pa.list_(pa.float32(), 2))
    features = Ref.of(TableRows(pa.table({"features": vectors})))
    assert near_duplicates(embed_sim=0.9, features=features)(samples).num_rows == 0


def test_of_a_torn_pair_the_lower_set_goes_and_a_dropped_image_drops_no_other() -> None:
    #       0  1  2  3  4  5  6
    rank = [9, 2, 8, 1, 2, 0, 9]
    a, b = np.array([0, 1, 2, 4, 5, 0]), np.array([1, 3, 3, 1, 6, 6])
    dropped = drop_leaks(np.array(rank), a, b)
    # 1 goes for 0; 3 would go for 1, but goes for 2; 4 and 1 are of one set; 5 is unused; 0 and 6 are both test.
    assert np.flatnonzero(dropped).tolist() == [1, 3]
    alone = drop_leaks(np.array([9, 2, 1]), np.array([0, 1]), np.array([1, 2]))
    assert np.flatnonzero(alone).tolist() == [1], "2 was alike only to an image that is gone"


@pytest.mark.parametrize("seed", range(10))
def test_after_dropping_no_pair_is_torn_and_the_highest_set_is_whole(seed: int) -> None:
    rng = rng_for(seed, "leaks")
    rank, a, b = rng.integers(0, 10, 80), rng.integers(0, 80, 120), rng.integers(0, 80, 120)
    dropped = drop_leaks(rank, a, b)
    left = np.where(dropped, 0, rank)
    torn = (left[a] != left[b]) & (left[a] > 0) & (left[b] > 0)
    assert not torn.any() and not dropped[rank == 9].any()


def test_declared_pairs_count_only_across_classes() -> None:
    keys = pa.chunked_array([["a", "b", "c"]])
    found = pa.table({"key_a": ["a", "a"], "key_b": ["b", "c"], "declared": [True, True]})
    a, b = pair_rows(keys, found, np.array([1, 1, 2]))
    assert (a.tolist(), b.tolist()) == ([0], [2])
    assert not len(pair_rows(keys, None, np.array([1, 1, 2]))[0])


def test_outliers_near_a_test_image_are_told() -> None:
    vectors = np.array([[1, 0], [0, 1], [0.9, 0.1], [-1, 0]], dtype=np.float16)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 2)
    features = TableRows(pa.table({"features": flat}))
    close = too_similar(features, np.array([2, 3]), np.array([0, 1]), 0.9)
    assert close.tolist() == [True, False]
    assert too_similar(features, np.array([2]), np.array([], dtype=np.int64), 0.9).tolist() == [False]
