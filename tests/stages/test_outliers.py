from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.errors import CatalogError
from datakit.stage import Ref
from datakit.stages.classes import class_table
from datakit.stages.columns import TableRows
from datakit.stages.names import normal_name
from datakit.stages.outliers import leaky_outliers
from datakit.stages.wordnet import read_nouns

# A few lines in WordNet's own format: bird > game bird > grouse (two lemmas), peacock as an instance, crane twice.
NOUNS = """\
  1 This software and database is provided as is
00000100 05 n 01 bird 0 002 @ 00000900 n 0000 ~ 00000200 n 0000 | warm-blooded egg-laying vertebrates
00000200 05 n 02 game_bird 0 fowl 1 001 @ 00000100 n 0000 | any bird (as grouse or pheasant) that is hunted
00000300 05 n 03 ruffed_grouse 0 partridge 0 Bonasa_umbellus 0 002 @ 00000200 n 0000 #m 00000700 n 0000 | valued
00000400 05 n 01 peacock 1 001 @i 00000200 n 0000 | male peafowl
00000500 05 n 01 crane 5 001 @ 00000100 n 0000 | large long-necked wading bird
00000600 06 n 01 crane 4 001 @ 00000800 n 0000 | lifts and moves heavy objects
00000800 06 n 01 machine 0 000 | a device
00000900 03 n 01 animal 0 000 | a living organism
"""
WORDNET = Path(os.environ.get("WNSEARCHDIR", "/usr/share/wordnet"))  # where Debian puts it
LEAKY_BIRDS = {
    "black grouse": "n01795545", "ptarmigan": "n01796340", "ruffed grouse": "n01797886", "prairie chicken": "n01798484",
    "peacock": "n01806143", "quail": "n01806567", "partridge": "n01807496",
}  # fmt: skip


@pytest.fixture
def wordnet(tmp_path: Path) -> str:
    (tmp_path / "data.noun").write_text(NOUNS)
    return str(tmp_path)


def leaks(
    *outliers: dict[str, Any], main: tuple[dict[str, Any], ...] = (), **options: Any
) -> dict[str, tuple[str, str]]:
    """name of the outlier → (reason, root), for outliers against main classes."""
    ours = main or ({"class_name": "siskin", "taxonomy": ["songbirds"]},)
    samples = [{"pool": "main"} | sample for sample in ours] + [
        {"pool": "outliers"} | sample for sample in outliers
    ]
    names = dict.fromkeys(name for sample in samples for name in sample)
    table = {name: [sample.get(name) for sample in samples] for name in names}
    keys = [str(s.get("class_name") or s.get("concept")) for s in samples]
    rows = TableRows(pa.table({"__key__": keys, **table}))
    found = leaky_outliers(classes=Ref.of(class_table()(rows)), **options)(rows)
    return {row["key"]: (row["reason"], row["root"]) for row in found.to_pylist()}


def test_nouns_are_parsed_with_both_kinds_of_hypernym(wordnet: str) -> None:
    nouns = read_nouns(wordnet)
    assert nouns.parents["n00000300"] == ("n00000200",) and nouns.parents["n00000400"] == ("n00000200",)
    assert nouns.parents["n00000800"] == ()
    assert nouns.senses["crane"] == ("n00000500", "n00000600")
    assert nouns.senses[normal_name("Bonasa umbellus")] == ("n00000300",)


def test_a_broken_or_missing_wordnet_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no WordNet at"):
        read_nouns(tmp_path / "nowhere")
    (tmp_path / "data.noun").write_text("00000100 05 n xx bird\n")
    with pytest.raises(CatalogError, match=r"data\.noun, line 1 is not a WordNet noun"):
        read_nouns(tmp_path)


def test_descendants_of_a_root_leak_and_other_senses_do_not(wordnet: str) -> None:
    found = leaks(
        {"concept": "n00000300"},
        {"concept": "n00000400"},
        {"concept": "n00000100"},
        {"class_name": "lifting crane", "concept": "n00000600"},
        {"class_name": "Machine"},
        {"class_name": "Partridges"},
        {"class_name": "crane"},
        roots=["n00000100"],
        wordnet=wordnet,
    )
    assert found == {
        "n00000300": ("leaky_concept", "n00000100"),
        "n00000400": ("leaky_concept", "n00000100"),
        "n00000100": ("leaky_name", "n00000100"),
        "Partridges": ("leaky_concept", "n00000100"),
        "crane": ("leaky_concept", "n00000100"),
    }


def test_levels_and_a_concept_that_is_a_word_count_with_all_their_senses(wordnet: str) -> None:
    found = leaks(
        {"class_name": "Q17", "taxonomy": ["game bird"]},
        {"class_name": "Q18", "concept": "peacock"},
        {"class_name": "Q19", "taxonomy": ["machine"]},
        {"class_name": "Q20", "concept": "n00000600", "taxonomy": ["machine", "crane"]},
        roots=["n00000100"],
        wordnet=wordnet,
    )
    assert found == {"Q17": ("leaky_concept", "n00000100"), "Q18": ("leaky_concept", "n00000100")}


def test_a_word_as_root_counts_with_all_its_senses(wordnet: str) -> None:
    found = leaks({"concept": "n00000600"}, {"concept": "n00000300"}, roots=["cranes"], wordnet=wordnet)
    assert found == {"n00000600": ("leaky_name", "cranes")}


def test_classes_are_roots_by_name_and_by_concept(wordnet: str) -> None:
    main = ({"class_name": "hunted birds", "concept": "n00000200"},)
    found = leaks({"concept": "n00000300"}, {"class_name": "Hunted Bird"}, main=main, wordnet=wordnet)
    assert found == {
        "n00000300": ("leaky_concept", "n00000200"),
        "Hunted Bird": ("leaky_name", "hunted birds"),
    }


def test_the_taxonomy_above_an_outlier_is_looked_through_to_the_level_of_the_roots() -> None:
    outliers = (
        {"class_name": "wren", "taxonomy": ["Songbirds", "wrens"]},
        {"class_name": "chair", "taxonomy": ["furniture"]},
    )
    assert leaks(*outliers) == {"wren": ("leaky_name", "songbirds")}
    assert leaks(*outliers, root_depth=0) == {}
    assert leaks(*outliers, synonyms=[["furniture", "siskin"]])["chair"] == ("leaky_name", "siskin")


def test_an_outlier_of_an_identity_of_ours_leaks() -> None:
    main = ({"class_name": "drake", "identity_group": "mallard"},)
    outliers = (
        {"class_name": "hen", "identity_group": "mallard"},
        {"class_name": "cup", "identity_group": "mug"},
    )
    assert leaks(*outliers, main=main) == {"hen": ("kin", "mallard")}


def test_without_outliers_nothing_leaks() -> None:
    assert leaks() == {}


@pytest.mark.skipif(
    not (WORDNET / "data.noun").exists(), reason="no WordNet 3.0: apt-get install wordnet-base"
)
def test_the_real_wordnet_catches_the_seven_birds_that_mixoe_let_through() -> None:
    """ImageNet's wnids are offsets of WordNet 3.0, the release that Debian ships."""
    folder = str(WORDNET)
    birds = [{"concept": wnid} for wnid in LEAKY_BIRDS.values()] + [
        {"class_name": name} for name in LEAKY_BIRDS
    ]
    chair = {"class_name": "folding chair", "concept": "n03376595"}
    warplane = {"class_name": "warplane", "concept": "n04552348"}
    roots = ["n01503061", "n02686568"]  # bird.n.01, aircraft.n.01
    found = leaks(*birds, chair, warplane, main=({"class_name": "Boeing 737"},), roots=roots, wordnet=folder)
    assert set(found) == {*LEAKY_BIRDS, *LEAKY_BIRDS.values(), "warplane"}
    assert found["n01806567"] == found["quail"] == ("leaky_concept", "n01503061")
