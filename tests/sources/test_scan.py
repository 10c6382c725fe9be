"""A catalog's listing: keys by the grammar, one checksum for equal data, nothing left out without a reason."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datakit.errors import CatalogError
from datakit.recipe import CatalogUse
from datakit.sources.scan import KEY, key_of, scan
from datakit.store.listing import Listing
from datakit.store.rows import read_table

TOML = """
title = "Toy"
description = "A folder of shapes."
reader = "imagefolder"
needs_source = true
[options]
levels = -1
splits = "auto"
fold_case = false
follow_links = false
"""


def listed(source: Path, folder: Path, more: str = "") -> Listing:
    toml = folder / "toy.toml"
    toml.parent.mkdir(parents=True, exist_ok=True)
    toml.write_text(TOML + more)
    return scan(CatalogUse(name=str(toml), source=str(source)), folder / "listings")


def problems(listing: Listing) -> Counter[str]:
    return Counter(read_table(listing.problems)["reason"].to_pylist())


@given(st.text(min_size=1))
def test_every_name_has_a_key_by_the_grammar(name: str) -> None:
    assert KEY.fullmatch(key_of(name))
    assert key_of(name) != key_of(name + "x")


def test_names_that_differ_only_in_case_dots_or_script_stay_apart() -> None:
    names = [
        "Rose/1.jpg",
        "rose/1.jpg",
        "rose/1.JPG",
        "ros\u00e9/1.jpg",
        "rose.1.jpg",
        "rose 1.jpg",
        "rose-1.jpg",
    ]
    assert len({key_of(name) for name in names}) == len(names)
    assert key_of("already-good_1") == "already-good_1"


def test_equal_data_elsewhere_has_the_same_checksum_and_a_changed_byte_has_not(
    toy_folder: Callable[..., Path], tmp_path: Path
) -> None:
    source = toy_folder(images=3)
    first = listed(source, tmp_path / "a")
    moved = Path(shutil.copytree(source, tmp_path / "elsewhere"))
    assert listed(moved, tmp_path / "b").checksum == first.checksum
    victim = moved / "round" / "disc" / "00.jpg"
    data = bytearray(victim.read_bytes())
    data[-3] ^= 1
    stamp = victim.stat()
    victim.write_bytes(data)
    os.utime(victim, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    assert listed(moved, tmp_path / "b").checksum != first.checksum


def test_a_wrong_path_and_a_folder_without_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no such file or folder"):
        listed(tmp_path / "nowhere", tmp_path / "a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CatalogError, match="found no image"):
        listed(tmp_path / "empty", tmp_path / "a")


def test_what_is_no_image_or_in_no_pool_or_too_few_is_counted(
    toy_folder: Callable[..., Path], tmp_path: Path
) -> None:
    source = toy_folder(images=3)
    (source / "round" / "disc" / "notes.txt").write_text("mine")
    (source / "round" / "egg" / "02.jpg").unlink()
    pools = '[pools.main]\nmin_images = 3\nwhere.taxonomy = [["round"], ["square"]]\n'
    listing = listed(source, tmp_path / "a", pools)
    assert problems(listing) == {"not_an_image_file": 1, "small_class": 2, "no_pool": 9}
    assert listing.inputs() == 27 - 1 + 1 and listing.samples == 5 * 3


def test_a_second_look_reads_no_image_again(toy_folder: Callable[..., Path], tmp_path: Path) -> None:
    source = toy_folder(images=3)
    first = listed(source, tmp_path / "a")
    for path in source.rglob("*.jpg"):
        path.chmod(0)
    if os.geteuid() == 0:  # root reads what nobody may: empty the files behind their times and sizes instead
        for path in source.rglob("*.jpg"):
            stamp, size = path.stat(), path.stat().st_size
            path.write_bytes(b"\0" * size)
            os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert listed(source, tmp_path / "a").checksum == first.checksum


def test_a_folder_of_a_hundred_thousand_files_is_listed_in_bounded_time(tmp_path: Path) -> None:
    folder = tmp_path / "big" / "class"
    folder.mkdir(parents=True)
    for block in range(4):
        base = folder / f"{block}-00000.jpg"
        base.write_bytes(b"\xff\xd8 not decoded here")
        for index in range(1, 25_000):
            os.link(base, folder / f"{block}-{index:05d}.jpg")
    started = time.process_time()
    listing = listed(tmp_path / "big", tmp_path / "a")
    assert listing.samples == 100_000
    # Generous: it takes about a tenth of this here. A listing that is not linear takes hours.
    assert time.process_time() - started < 120


def test_a_pool_nobody_knows_is_refused(toy_folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=re.escape("pool near is none of main, far, coarse, outliers")):
        listed(toy_folder(images=1), tmp_path / "a", "[pools.near]\n")
