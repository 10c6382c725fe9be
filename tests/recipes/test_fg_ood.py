"""`fg_ood` end to end on toy pictures: the splits it promises, and each planted leak caught by its check."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

import datakit
from datakit.errors import ConfigError, GateError, MissingExtra
from datakit.run.build import Build

FOLDER = {"catalog": "imagefolder", "validate": "none", "seeds": (0, 1)}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Steps shared by the tests of this file: equal pictures are embedded once."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def build(cache: str, tmp_path: Path) -> Callable[..., Build]:
    def run(out: str = "out", **words: Any) -> Build:
        run = {"inline": True, "cache": cache} | words.pop("run", {})
        return datakit.build("fg_ood", out=tmp_path / out, progress="quiet", run=run, **FOLDER | words)

    return run


def classes(made: Build, split: str) -> set[str]:
    if split not in made.splits:
        return set()
    table = pq.ParquetDataset(sorted((made.out / "metadata").glob(f"{split}-*.parquet"))).read(["class_name"])
    return set(pc.unique(table["class_name"]).to_pylist())


def as_csv(folder: Path, **columns: Callable[[Path], Any]) -> Path:
    """A table beside the pictures, with further columns made from their paths."""
    path = folder.parent / f"{folder.name}.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "class_name", "family", *columns])
        for image in sorted(folder.rglob("*.jpg")):
            relative = image.relative_to(folder.parent)
            rows.writerow(
                [relative, image.parent.name, image.parent.parent.name, *(f(image) for f in columns.values())]
            )
    return path


def failed(caught: pytest.ExceptionInfo[GateError]) -> set[str]:
    """The ids of the checks that the error names."""
    return {line.strip().partition(":")[0] for line in str(caught.value).splitlines()[1:-1]}


def test_held_out_classes_are_never_trained_on(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    made = build(source=str(toy_folder()), fraction=0.34)
    known = classes(made, "train")
    assert known == classes(made, "val") == classes(made, "test") and len(known) == 6
    assert len(classes(made, "near_ood")) >= 2 and not known & classes(made, "near_ood")
    assert all(finding["passed"] for finding in made.findings if finding["severity"] == "fail")
    assert {finding["id"] for finding in made.findings} >= {
        "near_dup",
        "tax_distance",
        "seed_diversity",
        "power",
    }


def test_other_seeds_are_lists_over_the_same_shards(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    made = build(source=str(toy_folder()), fraction=0.34)
    store = datakit.open_store(made.out)
    other = store.select("seed1")
    assert set(other["train"].table(["class_name"])["class_name"].to_pylist()) != classes(made, "train")
    sample = other["near_ood"][0]
    assert sample["class_name"] not in set(other["train"].table(["class_name"])["class_name"].to_pylist())
    assert sample["image"].array.shape[2] == 3
    with pytest.raises(Exception, match="did you mean seed1"):
        store.select("seed2")


def test_taxonomy_mode_makes_tiers_of_growing_distance(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    shares = (0.25, 0.0, 0.75)
    made = build(
        source=str(toy_folder()),
        mode="taxonomy",
        fraction=0.45,
        shares=shares,
        seeds=(0,),
        val_ood_fraction=0.0,
    )
    names = set(made.splits)
    assert {"near_ood", "far_ood"} <= names
    table = pq.ParquetDataset(sorted((made.out / "metadata").glob("*_ood-*.parquet"))).read(
        ["tier", "tax_distance"]
    )
    by_tier = {row["tier"]: row["tax_distance"] for row in table.to_pylist()}
    assert by_tier["near"] == 1 and by_tier["far"] is None


def test_explicit_classes_are_the_held_out_ones_and_a_misspelt_one_is_named(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    source = str(toy_folder())
    made = build(source=source, mode="explicit", holdout={"held_out": ("disc", "star")}, seeds=(0,))
    assert classes(made, "near_ood") == {"disc", "star"}
    with pytest.raises(ConfigError, match="did you mean star"):
        build("other", source=source, mode="explicit", holdout={"held_out": ("sta",)}, seeds=(0,))


def test_a_planted_copy_and_a_planted_mirror_image_are_dropped_or_stop_the_build(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    source = toy_folder()
    with Image.open(source / "round" / "egg" / "03.jpg") as picture:
        picture.save(source / "spiky" / "star" / "copy.jpg", quality=60)
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(
            source / "spiky" / "cross" / "mirror.jpg", quality=90
        )
    words = {
        "source": str(source),
        "mode": "explicit",
        "holdout": {"held_out": ("star", "cross")},
        "seeds": (0,),
    }
    with pytest.raises(GateError) as caught:
        build(**words, on_leak="fail", ood_images="all", embed_sim=0)
    assert "near_dup" in failed(caught)
    made = build(**words, ood_images="all", embed_sim=0)
    assert all(finding["passed"] for finding in made.findings if finding["id"] == "near_dup")
    outcomes = json.loads((made.out / "provenance.json").read_bytes())["outcomes"]
    assert outcomes["dropped"]["duplicate"] >= 1


def test_a_leaky_outlier_is_left_out_or_stops_the_build(
    build: Callable[..., Build], toy_folder: Callable[..., Path], tmp_path: Path
) -> None:
    source, others = toy_folder(images=14), tmp_path / "outliers"
    for name in ("Discs", "clouds"):
        shutil.copytree(toy_folder(f"more-{name}") / "spiky" / "star", others / "things" / name)
    words = {
        "source": str(source),
        "outliers": {"catalog": "imagefolder", "source": str(others)},
        "seeds": (0,),
    }
    with pytest.raises(GateError) as caught:
        build(**words, on_leak="fail")
    assert {"class_disjoint", "outlier_taxonomy"} <= failed(caught)
    made = build(**words, embed_sim=0, phash_bits=0, max_sim_to_test=None)
    assert (
        "Discs" not in classes(made, "outliers")
        or not (made.out / "data" / "outliers-00000-of-00001.tar").exists()
    )


def test_a_class_spelt_two_ways_is_never_on_two_sides(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    source = toy_folder()
    (source / "round" / "disc").rename(source / "round" / "Stars")
    for seed in range(3):
        made = build(f"out{seed}", source=str(source), fraction=0.34, seeds=(seed,))
        held = {classes(made, name) is not None and frozenset(classes(made, name)) for name in ("near_ood",)}
        assert not any(
            len({"Stars", "star"} & names) == 1 and {"Stars", "star"} & classes(made, "train")
            for names in held
        )


def test_a_label_table_that_starts_at_one_stops_the_build(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    folder = toy_folder()
    names = sorted(path.name for path in folder.glob("*/*"))
    table = as_csv(folder, label=lambda path: names.index(path.parent.name) + 1)
    words = {"catalog": "csv", "source": str(table), "options": ("taxonomy=family",), "seeds": (0,)}
    with pytest.raises(GateError) as caught:
        build(**words, label_base=0, label_count=9)
    assert failed(caught) == {"label_table"}
    assert build(**words, label_base=1, label_count=9).splits["train"] > 0


def test_an_identity_group_is_held_out_whole(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    table = as_csv(
        toy_folder(), identity_group=lambda path: "same" if path.parent.name in ("disc", "bar") else ""
    )
    words = {"catalog": "csv", "source": str(table), "options": ("taxonomy=family",)}
    for seed in range(4):
        made = build(f"out{seed}", **words, fraction=0.4, seeds=(seed,))
        assert len({"disc", "bar"} & classes(made, "train")) in (0, 2)


def labelled(folder: Path, **columns: Callable[[Path], Any]) -> dict[str, Any]:
    """Words for a table with 0-based labels in the order of the class names."""
    names = sorted(path.name for path in folder.glob("*/*"))
    table = as_csv(folder, label=lambda path: names.index(path.parent.name), **columns)
    return {"catalog": "csv", "source": str(table), "options": ("taxonomy=family",), "seeds": (1,)}


def test_mixoe_compat_draws_the_class_sets_of_mixoes_rule(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    folder = toy_folder()
    names = sorted(path.name for path in folder.glob("*/*"))
    drawn = np.random.RandomState(1).choice(range(9), 6, replace=False)
    made = build(**labelled(folder), mixoe_compat=True, n_id=6, n_ood=3, label_count=9)
    assert classes(made, "train") == {names[index] for index in drawn}


def test_an_identity_group_that_mixoes_rule_tears_stops_the_build(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    folder = toy_folder()
    names = sorted(path.name for path in folder.glob("*/*"))
    known = [names[index] for index in np.random.RandomState(1).choice(range(9), 6, replace=False)]
    torn = (known[0], next(name for name in names if name not in known))
    words = labelled(folder, identity_group=lambda path: "one thing" if path.parent.name in torn else "")
    with pytest.raises(GateError) as caught:
        build(**words, mixoe_compat=True, n_id=6, n_ood=3, label_count=9)
    assert failed(caught) == {"identity_group"} and GateError.exit_code == 3


def test_attribute_vectors_make_three_tiers(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    made = build(source=str(toy_folder()), mode="attributes", fraction=0.45, val_ood_fraction=0.0, seeds=(0,))
    assert {"near_ood", "mid_ood", "far_ood"} <= set(made.splits)


def oddities(folder: Path) -> None:
    """One of everything that is found in the wild, among good pictures."""
    folder.joinpath("empty.jpg").write_bytes(b"")
    folder.joinpath("page.jpg").write_text("<!DOCTYPE html><title>404</title>")
    with Image.open(folder / "00.jpg") as picture:
        half = folder / "half.jpg"
        picture.resize((400, 400)).save(half, quality=95)
        half.write_bytes(half.read_bytes()[:4000])
        picture.convert("CMYK").save(folder / "print.jpg")
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.save(folder / "phone.jpg", exif=exif)
        picture.save(folder / "moving.gif", save_all=True, append_images=[picture.rotate(90)])
        Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 256).save(folder / "deep.png")
        picture.resize((8, 8)).save(folder / "tiny.jpg")
    folder.joinpath("notes.txt").write_text("not mine to delete")


def test_every_oddity_is_mended_or_refused_and_counted_in_the_report(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    source = toy_folder()
    oddities(source / "spiky" / "star")
    made = build(source=str(source), seeds=(0,), embed_sim=0, run={"inline": True, "max_failed": 0.1})
    counts = json.loads((made.out / "provenance.json").read_bytes())["outcomes"]
    assert counts["failed"] == {"empty": 1, "not_an_image": 1, "truncated": 1}
    assert counts["dropped"]["too_small"] == 1 and counts["dropped"]["not_an_image_file"] == 1
    tables = sorted((made.out / "metadata").glob("*-of-*.parquet"))
    changes = [
        change for row in pq.ParquetDataset(tables).read(["changes"])["changes"].to_pylist() for change in row
    ]
    assert {"cmyk", "exif_rotated", "animated", "gif->jpg", "16bit", "png->jpg"} <= set(changes)
    page = made.report.read_text()
    for word in ("empty", "not_an_image", "truncated", "exif_rotated", "half.jpg"):
        assert word in page


def test_a_class_with_one_image_unicode_names_and_spaces_are_handled(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    source = toy_folder()
    (source / "round" / "egg").rename(source / "round" / "Œuf à la coque.v2")
    lonely = source / "round" / "lonely one"
    lonely.mkdir()
    shutil.copy(source / "spiky" / "star" / "01.jpg", lonely / "just me.JPG")
    made = build(source=str(source), seeds=(0,))
    everything = set().union(*(classes(made, name) for name in made.splits))
    assert "Œuf à la coque.v2" in everything and "lonely one" not in everything
    keys = datakit.open_store(made.out)["train"].keys
    assert all(key == key.lower() and " " not in key and "." not in key for key in keys)
    outcomes = pq.read_table(made.out / "metadata" / "outcomes.parquet").to_pylist()
    assert [row["reason"] for row in outcomes if row["name"].startswith("round/lonely one")] == [
        "too_few_images"
    ]


def test_the_report_shows_every_check_and_class(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    made = build(source=str(toy_folder()), fraction=0.34)
    page = made.report.read_text()
    for name in ("disc", "arrow", "imagefolder"):
        assert name in page
    assert "http-equiv" in page and "default-src" in page


@pytest.mark.shared_data
def test_grocery_builds_and_passes_its_checks(
    build: Callable[..., Build], shared_data: Path, tmp_path: Path
) -> None:
    made = build(catalog="grocery", source=str(shared_data / "grocery"), seeds=(0,))
    assert sum(made.splits.values()) > 2000
    assert len(classes(made, "train")) + len(classes(made, "near_ood")) > 60


def test_what_else_a_source_knows_of_an_image_is_published_with_it(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    table = as_csv(toy_folder(), camera=lambda path: f"no {path.stem}", tier=lambda path: "mine")
    made = build(catalog="csv", source=str(table), options=("taxonomy=family",), seeds=(0,))
    rows = datakit.open_store(made.out)["train"].table(["name", "camera", "source_tier"]).to_pylist()
    assert all(
        row["camera"] == f"no {Path(row['name']).stem}" and row["source_tier"] == "mine" for row in rows
    )


@pytest.mark.parametrize(("absent", "extra"), [("torchvision", "torch"), ("onnxruntime", "demo")])
def test_a_missing_extra_is_named_before_any_work(
    absent: str,
    extra: str,
    build: Callable[..., Build],
    toy_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == absent else found(name))
    with pytest.raises(MissingExtra, match=rf"datakit\[{extra}\]"):
        build(source=str(toy_folder(images=1)), validate="train")
