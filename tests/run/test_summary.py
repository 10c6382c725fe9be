"""What a plan says of disk, network and deletions is so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import datakit
from datakit.errors import ConfigError
from datakit.find import recipe_module
from datakit.recipe import CatalogUse
from datakit.run.summary import network, plan_build
from datakit.sources.hf import fetches

TOY = str(Path(__file__).parent.parent / "toy_recipe.py")


def test_a_plan_names_what_is_fetched() -> None:
    fg_ood = recipe_module("fg_ood")
    embedded = fg_ood.recipe(fg_ood.Config(validate="none"))
    assert network([CatalogUse(name="emoji")], embedded) == []
    hub = CatalogUse(name="hf", options=(("repo", "someone/birds"),))
    assert network([hub], embedded) == ["the data set someone/birds of the Hugging Face hub"]
    by_timm = fg_ood.recipe(fg_ood.Config(validate="none", encoder="timm:resnet18"))
    assert network([], by_timm) == ["the weights of timm:resnet18"]


def test_a_local_copy_is_not_fetched(tmp_path: Path) -> None:
    assert fetches(tmp_path, repo="someone/birds") == []


def test_a_plan_names_what_a_build_would_replace(tmp_path: Path) -> None:
    words = [f"recipe={TOY}", f"out={tmp_path / 'out'}", "run.inline=true"]
    before, text = plan_build(words)
    assert before["replaces"] == before["deletes"] == [] and "deletes: nothing" in text
    datakit.build(TOY, out=tmp_path / "out", progress="quiet", run={"inline": True})
    same, text = plan_build(words)
    assert same["replaces"] == [] and "deletes: nothing" in text and "up to date" in text
    there = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out" / "data").iterdir()}
    other, text = plan_build([*words, "margin=5"])
    assert there <= set(other["replaces"]) and "that the new one does not hold" in text


def test_a_plan_of_changed_code_says_what_the_build_would(tmp_path: Path) -> None:
    text = Path(TOY).read_text()
    changed = text.replace("sample if mean >= darkest", "sample if mean > darkest")
    for folder, source in (("before", text), ("after", changed)):  # a path is read once a process
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(source)
    before, after = (str(tmp_path / folder / "mine.py") for folder in ("before", "after"))
    datakit.build(before, out=tmp_path / "out", progress="quiet", run={"inline": True})
    words = [f"recipe={after}", f"out={tmp_path / 'out'}"]
    with pytest.raises(ConfigError, match="not_dark"):
        plan_build(words)
    found, text = plan_build([*words, "run.stale=redo"])
    assert all(Path(folder).is_dir() for folder in found["deletes"]) and "stale steps" in text
    assert found["deletes"] and not found["up_to_date"]


def test_free_disk_is_that_of_the_nearest_folder_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    usage = shutil.disk_usage

    def noted(path: Path) -> object:
        asked.append(Path(path))
        return usage(path)

    monkeypatch.setattr(shutil, "disk_usage", noted)
    plan_build([f"recipe={TOY}", f"out={tmp_path / 'a' / 'b'}"])
    assert asked == [tmp_path]
