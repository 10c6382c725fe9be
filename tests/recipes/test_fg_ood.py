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
from datakit.catalog import load
from datakit.config import parse
from datakit.errors import ConfigError, GateError, MissingExtra
from datakit.image import decode, encode
from datakit.models import encoder
from datakit.models.labels import pretrained_labels
from datakit.recipes.fg_ood import Config, embed_sim, recipe
from datakit.run.build import Build
from datakit.stages.columns import unit
from datakit.stages.phash import phash64

# WordNet's own format: peacock < game bird < bird, and a crane that is a machine
NOUNS = """\
00000100 05 n 01 bird 0 000 | warm-blooded egg-laying vertebrates
00000200 05 n 02 game_bird 0 fowl 1 001 @ 00000100 n 0000 | any bird that is hunted
00000400 05 n 01 peacock 1 001 @i 00000200 n 0000 | male peafowl
00000600 06 n 01 crane 4 001 @ 00000800 n 0000 | lifts and moves heavy objects
00000800 06 n 01 machine 0 000 | a device
"""
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


def as_others(
    toy_folder: Callable[..., Path], root: Path, family: str = "things", **kinds: str
) -> dict[str, Any]:
    """A further catalog at `root`: each class shows toys of one kind, none of which is drawn elsewhere."""
    drawn = toy_folder(f"{root.name} drawn", images=28)
    for name, kind in kinds.items():
        (root / family / name).mkdir(parents=True)
        for path in sorted(drawn.glob(f"*/{kind}/*"))[14:]:
            shutil.copy(path, root / family / name)
    return {"catalog": "imagefolder", "source": str(root)}


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


def test_a_mirror_image_that_the_encoder_takes_for_another_picture_is_dropped_too(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    """At a cosine above what the encoder gives a picture and its mirror image."""
    source = toy_folder()
    with Image.open(source / "round" / "egg" / "03.jpg") as picture:
        mirror = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mirror.save(source / "spiky" / "cross" / "mirror.jpg", quality=100, subsampling=0)
    model = encoder.load("efficientnet-lite0")
    copy, original = (unit(model([np.asarray(image)])) for image in (mirror, picture))
    turned = unit(model([np.asarray(mirror)[:, ::-1].copy()]))
    assert (copy * original).sum() < 0.99 < (turned * original).sum()
    made = build(source=str(source), embed_sim=0.99, mode="explicit", seeds=(0,),
                 holdout={"held_out": ("star", "cross")}, ood_images="all")  # fmt: skip
    assert all(finding["passed"] for finding in made.findings if finding["id"] == "near_dup")
    outcomes = pq.read_table(made.out / "metadata" / "outcomes.parquet").to_pylist()
    gone = [row["name"] for row in outcomes if row["reason"] == "duplicate"]
    assert gone == ["round/egg/03.jpg"], "of the two the one in train goes"


def test_a_leaky_outlier_is_left_out_or_stops_the_build(
    build: Callable[..., Build], toy_folder: Callable[..., Path], tmp_path: Path
) -> None:
    others = as_others(toy_folder, tmp_path / "others", Discs="star", clouds="cross")
    words = {"source": str(toy_folder(images=14)), "outliers": others, "seeds": (0,), "max_sim_to_test": None}
    with pytest.raises(GateError) as caught:
        build(**words, on_leak="fail")
    assert {"class_disjoint", "outlier_taxonomy"} <= failed(caught)
    assert classes(build(**words), "outliers") == {"clouds"}


def test_outliers_under_an_excluded_name_or_a_synonym_of_ours_are_left_out(
    build: Callable[..., Build], toy_folder: Callable[..., Path], tmp_path: Path
) -> None:
    names = {"peacock": "star", "crane": "bar", "glow": "cross", "clouds": "box"}
    others = as_others(toy_folder, tmp_path / "others", **names)
    (tmp_path / "data.noun").write_text(NOUNS)
    words = {"source": str(toy_folder(images=14)), "seeds": (0,), "max_sim_to_test": None}
    assert classes(build("all", **words, outliers=others), "outliers") == set(names)
    words |= {"outliers": others | {"exclude": ("bird", "n00000800")}, "synonyms": ("star=glow",)}
    words |= {"wordnet": str(tmp_path)}
    with pytest.raises(GateError, match="outlier_taxonomy: 42 outliers") as caught:
        build(**words, on_leak="fail")
    assert {"class_disjoint", "outlier_taxonomy"} <= failed(caught)
    assert classes(build(**words), "outliers") == {"clouds"}


def test_the_level_of_the_taxonomy_that_excludes_outliers_is_chosen(
    build: Callable[..., Build], toy_folder: Callable[..., Path], tmp_path: Path
) -> None:
    others = as_others(toy_folder, tmp_path / "others", family="round", moon="star", clouds="cross")
    words = {"source": str(toy_folder(images=14)), "seeds": (0,), "max_sim_to_test": None, "outliers": others}
    assert "outliers" not in build("families", **words).splits
    assert classes(build("classes", **words, root_depth=0), "outliers") == {"moon", "clouds"}


def test_outliers_and_coarse_are_as_many_as_asked_for(
    build: Callable[..., Build], toy_folder: Callable[..., Path], tmp_path: Path
) -> None:
    beside = as_others(toy_folder, tmp_path / "beside", family="kitchen", cups="star", forks="cross")
    for path in sorted(tmp_path.glob("beside/*/cups/*"))[10:]:
        path.unlink()
    others = as_others(toy_folder, tmp_path / "others", clouds="box")
    words = {"source": str(toy_folder(images=14)), "seeds": (0,), "max_sim_to_test": None, "phash_bits": 0}
    made = build(**words, outliers=others | {"n": 5}, coarse=beside | {"size": 18, "balance": "class"})
    assert made.splits["outliers"] == 5
    shown = datakit.open_store(made.out)["coarse_ood"].table(["class_name"])["class_name"].to_pylist()
    assert shown.count("cups") == shown.count("forks") == 9
    made = build("as many as test", **words, outliers=others, coarse=beside)
    assert made.splits["outliers"] == 14 and made.splits["coarse_ood"] == made.splits["test"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("encoder=efficientnet-lite1",), "no encoder efficientnet-lite1; did you mean efficientnet-lite0"),
        (("synonyms=star=glow,disc",), "synonyms=disc: give all names of one class"),
        (("synonyms=star=glow,glow=disc",), "glow is in two groups"),
        (("exclude=bird.n.01",), "exclude=bird.n.01: give bird"),
        (("outliers.n=-1",), "outliers.n=-1: must be at least 0"),
        (("coarse.source=cars/",), "are of coarse.catalog: give that too"),
        (("outliers.options=class_name=kind",), "are of outliers.catalog: give that too"),
        (("phash_bits=32",), "phash_bits=32: must be from 0 to 31"),
    ],
)
def test_words_that_cannot_be_meant_are_refused_before_any_work(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(parse(Config, ["catalog=imagefolder", "validate=none", *words]))


def test_a_class_spelt_two_ways_is_never_on_two_sides(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    source = toy_folder()
    (source / "round" / "disc").rename(source / "round" / "Stars")
    words = {"source": str(source), "mode": "explicit", "seeds": (0,)}
    with pytest.raises(ConfigError, match="star and Stars are kin"):
        build(**words, held_out=("star",))
    with pytest.raises(ConfigError, match="egg and bar are kin"):
        build(**words, held_out=("egg",), synonyms=("bar=egg",))


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


def test_the_cosine_that_confirms_is_the_keys_else_the_catalogs_else_one_for_photographs() -> None:
    def told(catalog: str, *words: str) -> float | None:
        return embed_sim(parse(Config, words), load(catalog))

    assert told("emoji") == told("emoji", "embed_sim=none") == 0.97
    assert told("imagefolder") == told("imagefolder", "embed_sim=none") == 0.9
    assert told("emoji", "embed_sim=0.5") == told("imagefolder", "embed_sim=0.5") == 0.5
    assert told("emoji", "embed_sim=0") is told("imagefolder", "embed_sim=0") is None


@pytest.mark.shared_data
def test_the_cosine_confirms_copies_of_photographs(shared_data: Path) -> None:
    model, least = encoder.load("efficientnet-lite0"), embed_sim(Config(), load("grocery"))
    cosines = []
    for path in sorted((shared_data / "grocery" / "train").rglob("*.jpg"))[::53]:
        image = decode(path.read_bytes())
        height, width, _ = image.shape
        copies = [
            decode(encode(image, format="JPEG", quality=50)),
            np.asarray(Image.fromarray(image).resize((width // 2, height // 2))),
            np.minimum(image * 1.2, 255).astype(np.uint8),
            np.ascontiguousarray(image[:, ::-1]),
        ]
        first, *others = unit(model([image, *copies]))
        hashes = phash64(image)
        cosines += [
            float(first @ other)
            for other, copy in zip(others, copies, strict=True)
            if min((phash64(copy)[0] ^ own).bit_count() for own in hashes) <= 6
        ]
    assert len(cosines) > 190 and least is not None
    assert np.mean(np.array(cosines) >= least) > 0.97


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


@pytest.mark.parametrize(
    ("words", "models"),
    [
        ((), ["efficientnet-lite0"]),
        (("train.backbone=timm:resnet18",), ["efficientnet-lite0"]),
        (("train.backbone=timm:resnet18", "pretrained=true"), ["efficientnet-lite0", "timm:resnet18"]),
        (
            ("encoder=timm:vit", "train.backbone=timm:resnet18", "pretrained=true", "validate=none"),
            ["timm:vit"],
        ),
    ],
)
def test_every_model_with_weights_of_its_own_is_asked_what_it_has_seen(
    words: tuple[str, ...], models: list[str]
) -> None:
    pytest.importorskip("torchvision")
    stages = [check.step.stages[0] for check in recipe(parse(Config, words)).checks if check.step]
    asked = [stage.keywords["pretrained"] for stage in stages if "pretrained" in stage.keywords]
    assert asked == [{model: pretrained_labels(model) for model in models}] * len(Config().seeds)


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
