"""A catalog's listing: keys by the grammar, one checksum for equal data, nothing left out without a reason."""

from __future__ import annotations

import io
import os
import re
import shutil
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datakit.errors import CatalogError
from datakit.recipe import CatalogUse, Plan, Recipe, Step, Store
from datakit.sources.scan import KEY, key_of, scan
from datakit.stage import Ref
from datakit.store.listing import Listing
from datakit.store.rows import read_table
from datakit.store.steps import Steps

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


def images(listing: Listing) -> dict[str, bytes]:
    """Every image of a listing, by name, as a step would read it."""
    use = listing.use
    step = Step(verb="catalogs", uses=(use,))
    plan = Plan(Recipe(store=Store(step=step, image_format=Ref(loaded="JPEG"))), {use.id: listing.checksum})
    rows = Steps(root=listing.folder.parent, plan=plan, listings={use.id: listing}).rows(step)
    names = rows.table(["name"])["name"].to_pylist()
    return dict(zip(names, (image.encoded for image in rows.images()), strict=True))


def test_a_listing_outlives_a_move_of_itself(tmp_path: Path) -> None:
    rows = [{"image": {"bytes": bytes([n]), "path": f"{n}.jpg"}, "class_name": "a"} for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    use = CatalogUse(name="parquet", source=str(tmp_path / "t.parquet"))
    first = scan(use, tmp_path / "out" / "listings")
    (tmp_path / "out").rename(tmp_path / "moved")
    moved = scan(use, tmp_path / "moved" / "listings")
    assert moved.checksum == first.checksum
    assert images(moved) == {f"t.parquet:{n + 1}/{n}.jpg": bytes([n]) for n in range(3)}


def test_a_listing_outlives_a_move_of_images_beside_their_table(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "photos" / "x").mkdir(parents=True)
    for name in ("1.jpg", "x/2.jpg"):
        (tmp_path / "photos" / name).write_text(name)
    (tmp_path / "tables" / "t.csv").write_text("path\n1.jpg\nx/2.jpg\n")

    def listing(photos: str) -> Listing:
        options = (("images", str(tmp_path / photos)),)
        return scan(
            CatalogUse(name="csv", source=str(tmp_path / "tables"), options=options), tmp_path / "listings"
        )

    first = listing("photos")
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    assert listing("elsewhere").checksum == first.checksum
    assert images(listing("elsewhere")) == {"1.jpg": b"1.jpg", "x/2.jpg": b"x/2.jpg"}


def test_images_at_another_place_in_their_shards_are_another_listing(tmp_path: Path) -> None:
    def listing(*names: str) -> Listing:
        with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.USTAR_FORMAT) as file:
            for name in names:
                info = tarfile.TarInfo(f"{name}.jpg")
                info.size = len(name)
                file.addfile(info, io.BytesIO(name.encode()))
        return scan(CatalogUse(name="webdataset", source=str(tmp_path)), tmp_path / "listings")

    first, second = listing("a", "b"), listing("b", "a")
    assert second.checksum != first.checksum
    assert images(second) == {"a": b"a", "b": b"b"}


def test_what_could_not_be_read_is_tried_again(
    toy_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, real = toy_folder(images=1), os.open
    opened = listed(source, tmp_path / "a")

    def locked(path: str, *more: int, **named: int) -> int:
        if str(path).endswith("00.jpg"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *more, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", locked)
        closed = listed(source, tmp_path / "b")
    assert set(read_table(closed.path)["content"].to_pylist()) == {""}
    assert listed(source, tmp_path / "b").checksum == opened.checksum


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("levles = 1", r"options\.levles is no option of the reader imagefolder; did you mean levels"),
        ("colour = 3", "options.colour is no option of the reader imagefolder; it has levels"),
        ('levels = "1"', "options.levels is '1': must be of type int"),
    ],
)
def test_an_option_that_the_reader_has_not_is_named(tmp_path: Path, option: str, message: str) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "toy.toml").write_text(TOML.replace("levels = -1", option))
    with pytest.raises(CatalogError, match=message):
        scan(CatalogUse(name=str(tmp_path / "toy.toml"), source=str(tmp_path / "s")), tmp_path / "listings")


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
            os.link(base, f"{folder}/{block}-{index:05d}.jpg")
    started = time.process_time()
    listing = listed(tmp_path / "big", tmp_path / "a")
    assert listing.samples == 100_000
    # Generous: it takes about a tenth of this here. A listing that is not linear takes hours.
    assert time.process_time() - started < 120


def test_a_pool_nobody_knows_is_refused(toy_folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=re.escape("pool near is none of main, far, coarse, outliers")):
        listed(toy_folder(images=1), tmp_path / "a", "[pools.near]\n")


@pytest.mark.parametrize("name", ["con", "nul", "com1", "-rf"])
def test_no_key_is_a_device_or_an_option_of_a_shell(name: str) -> None:
    assert KEY.fullmatch(key_of(name)) and key_of(name) != name and key_of(name)[0] != "-"


@pytest.mark.parametrize("reader", ["..config", "os; import os", "entry", "records", "os"])
def test_a_reader_is_one_of_ours_by_its_plain_name(reader: str, tmp_path: Path) -> None:
    (tmp_path / "toy.toml").write_text(TOML.replace('"imagefolder"', f'"{reader}"'))
    with pytest.raises(CatalogError, match="reader"):
        scan(CatalogUse(name=str(tmp_path / "toy.toml"), source=str(tmp_path)), tmp_path / "listings")
