"""What stands from an earlier attempt: taken up, counted, and never trusted where code changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import datakit
from datakit.errors import ConfigError, FailureLimit
from datakit.run.build import Build
from datakit.run.locks import sharing

TOY = Path(__file__).parent.parent / "toy_recipe.py"
BEFORE, AFTER = "mean >= darkest", "mean < darkest"  # the same version, other code


def build(recipe: Path, out: Path, **words: Any) -> Build:
    run = {"inline": True} | words.pop("run", {})
    return datakit.build(str(recipe), out=out, progress="quiet", run=run, **words)


def command(recipe: Path, out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A build in a process of its own, so that it reads the recipe as it is now."""
    line = [sys.executable, "-m", "datakit.cli", "build", f"recipe={recipe}", f"out={out}", "run.inline=true"]
    return subprocess.run([*line, "--quiet", *words], capture_output=True, text=True)


def splits(out: Path) -> dict[str, int]:
    return {name: len(datakit.open_store(out)[name]) for name in datakit.open_store(out).splits}


@pytest.fixture
def changed(tmp_path: Path) -> tuple[Path, Path]:
    """A finished tree whose recipe has changed since, without a word."""
    recipe, out = tmp_path / "mine.py", tmp_path / "out"
    recipe.write_text(TOY.read_text())
    done = command(recipe, out, "darkest=100")
    assert done.returncode == 0, done.stderr
    assert BEFORE in TOY.read_text()
    recipe.write_text(TOY.read_text().replace(BEFORE, AFTER))
    return recipe, out


def test_changed_code_with_the_same_version_is_refused(changed: tuple[Path, Path]) -> None:
    recipe, out = changed
    before = splits(out)
    refused = command(recipe, out, "darkest=100")
    assert refused.returncode == 2 and "not_dark" in refused.stderr and "raise the version" in refused.stderr
    assert splits(out) == before
    recipe.write_text(TOY.read_text().replace("HTML pages", "HTML documents"))
    assert command(recipe, out, "darkest=100").returncode == 0  # a docstring is not code


@pytest.mark.parametrize("lost", ["", "manifest.json"])
def test_redo_makes_everything_that_stood_on_the_changed_code(
    changed: tuple[Path, Path], tmp_path: Path, lost: str
) -> None:
    recipe, out = changed
    if lost:
        (out / lost).unlink()
    done = command(recipe, out, "darkest=100", "run.stale=redo")
    assert done.returncode == 0, done.stderr
    assert command(recipe, tmp_path / "fresh", "darkest=100").returncode == 0
    assert splits(out) == splits(tmp_path / "fresh")
    assert command(recipe, out, "darkest=100").returncode == 0


def test_redo_reaches_steps_of_other_words_too(changed: tuple[Path, Path], tmp_path: Path) -> None:
    """A build of other words made a step upon the same changed one: it is stale as well."""
    recipe, out = changed
    recipe.write_text(TOY.read_text())
    assert command(recipe, out, "darkest=100", "margin=3").returncode == 0
    recipe.write_text(TOY.read_text().replace(BEFORE, AFTER))
    assert command(recipe, out, "darkest=100", "run.stale=redo").returncode == 0
    again = command(recipe, out, "darkest=100", "margin=3")
    assert again.returncode == 2 and "a stage before it changed" in again.stderr


def test_one_old_shard_is_enough_to_refuse(changed: tuple[Path, Path]) -> None:
    """Workers end out of order: after a kill the first shard may be the missing one."""
    recipe, out = changed
    for first in (out / ".datakit" / "steps").glob("*/00000.json"):
        first.unlink()
    (out / "manifest.json").unlink()
    refused = command(recipe, out, "darkest=100")
    assert refused.returncode == 2 and "not_dark" in refused.stderr


def test_keep_takes_what_stands(changed: tuple[Path, Path]) -> None:
    recipe, out = changed
    before = splits(out)
    assert command(recipe, out, "darkest=100", "run.stale=keep").returncode == 0
    assert splits(out) == before


def test_running_again_does_not_forget_broken_samples(tmp_path: Path) -> None:
    limit = {"max_failed": 0.04}
    for _ in range(3):
        with pytest.raises(FailureLimit, match="3 of 60 samples are broken"):
            build(TOY, tmp_path / "out", bad=(1,), run=limit)
    manifests = sorted((tmp_path / "out" / ".datakit" / "steps").glob("*/00001.json"))
    for path in manifests:  # as if killed with one shard to go
        if json.loads(path.read_bytes())["failed"]:
            path.unlink()
    with pytest.raises(FailureLimit, match="of 60 samples are broken"):
        build(TOY, tmp_path / "out", bad=(1,), run=limit)


def test_a_shared_cache_keeps_what_is_not_ours(tmp_path: Path) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out"
    kept = ["backups/thesis.tar.part-99999", "disk.img.part-00012", "x.part-20261122000000"]
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    ours = [f"steps/abc/00000.arrow.part-{dead.pid}"]
    alive = [f"steps/abc/00001.arrow.part-{os.getpid()}"]
    for name in [*kept, *ours, *alive]:
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_bytes(b"x")
    torn = out / ".datakit" / "published" / "abc" / f"00000.json.part-{dead.pid}"
    build(TOY, out, run={"cache": str(cache)})
    torn.parent.mkdir(parents=True)
    torn.write_bytes(b"x")
    build(TOY, out, margin=3, run={"cache": str(cache)})
    assert [name for name in [*kept, *ours, *alive] if (cache / name).exists()] == [*kept, *alive]
    assert not torn.exists()


def test_a_word_that_only_the_card_shows_is_published(tmp_path: Path) -> None:
    recipe = tmp_path / "named.py"
    text = TOY.read_text()
    for line, more in [
        ("        step=divided", "        class_names=raw.reduce(names(first=config.first)),\n"),
        ("    least: int", "    first: str = 'a'\n"),
        (
            "def recipe(",
            "@reduce(version=1)\ndef names(rows: Rows, *, first: str) -> list[str]:\n"
            '    return [first, "b", "c"]\n\n\n',
        ),
    ]:
        text = text.replace(line, more + line)
    recipe.write_text(text)
    out = tmp_path / "out"
    build(recipe, out, first="rose")
    build(recipe, out, first="tulip")
    card = (out / "README.md").read_text()
    assert "tulip" in card and "rose" not in card
    assert "recipe=named" not in card and f"datakit build recipe={recipe} first=tulip" in card
    assert "named-made" in (out / "croissant.json").read_text()  # the name says nothing of the folder


def test_the_date_in_the_card_is_that_of_source_date_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    made = build(TOY, tmp_path / "out")
    assert json.loads((made.out / "croissant.json").read_bytes())["datePublished"] == "2001-09-09"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(ConfigError, match="SOURCE_DATE_EPOCH=yesterday"):
        build(TOY, tmp_path / "other")


def test_a_changed_mind_is_refused_before_the_tree_is_touched(changed: tuple[Path, Path]) -> None:
    recipe, out = changed
    with pytest.raises(ConfigError):
        build(recipe, out, darkest="black")
    assert (out / "manifest.json").is_file()


@pytest.mark.parametrize("afterwards", ["redo", "clean"])
def test_what_was_kept_is_never_taken_for_what_the_code_makes_now(
    changed: tuple[Path, Path], tmp_path: Path, afterwards: str
) -> None:
    recipe, out = changed
    assert command(recipe, out, "darkest=100", "run.stale=keep").returncode == 0
    kept = splits(out)
    words = ["darkest=100"]
    if afterwards == "clean":
        line = [sys.executable, "-m", "datakit.cli", "clean", str(out), "--yes", "--quiet"]
        assert subprocess.run(line, capture_output=True).returncode == 0
    else:
        refused = command(recipe, out, *words)
        assert refused.returncode == 2 and "raise the version" in refused.stderr
        words.append("run.stale=redo")
    done = command(recipe, out, *words)
    assert done.returncode == 0, done.stderr
    assert command(recipe, tmp_path / "fresh", "darkest=100").returncode == 0
    assert splits(out) == splits(tmp_path / "fresh") != kept
    named = ("manifest.json", "provenance.json", "data/train.index.json")
    assert all((out / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes() for name in named)


def test_steps_made_on_kept_ones_are_stale_as_they_are(changed: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, out = changed
    assert command(recipe, out, "darkest=100", "margin=3", "run.stale=keep").returncode == 0
    refused = command(recipe, out, "darkest=100", "margin=3")
    assert refused.returncode == 2 and "raise the version" in refused.stderr
    assert command(recipe, out, "darkest=100", "margin=3", "run.stale=redo").returncode == 0
    assert command(recipe, tmp_path / "fresh", "darkest=100", "margin=3").returncode == 0
    assert splits(out) == splits(tmp_path / "fresh")


def test_kept_steps_that_are_kept_again_are_up_to_date(changed: tuple[Path, Path]) -> None:
    recipe, out = changed
    words = ["darkest=100", "run.stale=keep"]
    assert command(recipe, out, *words).returncode == 0
    made = (out / "manifest.json").stat().st_mtime_ns
    assert command(recipe, out, *words).returncode == 0
    assert (out / "manifest.json").stat().st_mtime_ns == made


def test_the_tree_names_the_words_that_were_asked_for_last(tmp_path: Path) -> None:
    """Words that change no image: `unused` is of no stage."""
    recipe, out = tmp_path / "mine.py", tmp_path / "out"
    recipe.write_text(
        TOY.read_text().replace('    lose: str = ""\n', '    lose: str = ""\n    unused: int = 0\n', 1)
    )
    build(recipe, out, unused=1)
    assert build(recipe, out, unused=2).fresh
    assert "unused: 2" in (out / "recipe.yaml").read_text()
    assert not build(recipe, out, unused=2).fresh


@pytest.mark.parametrize("what", ["*.arrow", "*.tar", "value.*", "00000.json"])
def test_steps_that_were_damaged_on_disk_are_made_again(tmp_path: Path, what: str) -> None:
    out = tmp_path / "out"
    build(TOY, out)
    steps = out / ".datakit" / "steps"
    wanted = {path: path.read_bytes() for path in steps.rglob("*") if path.is_file()}
    found = sorted(steps.glob(f"*/{what}"))
    assert found
    for path in found:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    (out / "manifest.json").unlink()
    build(TOY, out)
    now = {path: path.read_bytes() for path in steps.rglob("*") if path.is_file()}
    assert now.keys() == wanted.keys()
    assert [path for path in wanted if path.suffix != ".json" and now[path] != wanted[path]] == []


@pytest.mark.parametrize("damaged", [False, True])
def test_parts_of_phases_are_judged_in_their_own_folders(tmp_path: Path, damaged: bool) -> None:
    """A cache keeps them: taken for the step's own shards, they would have its manifest deleted under its readers."""
    cache = tmp_path / "cache"
    first = command(TOY, tmp_path / "first", f"run.cache={cache}")
    assert first.returncode == 0, first.stderr
    manifests = {path: path.stat().st_ino for path in (cache / "steps").rglob("*.json")}
    parts = sorted((cache / "steps").glob("*/split/*.arrow"))
    assert parts and any(path.parent.name == "split" for path in manifests)
    if damaged:
        data = bytearray(parts[0].read_bytes())
        data[len(data) // 2] ^= 1
        parts[0].write_bytes(data)
    line = [sys.executable, "-m", "datakit.cli", "build", f"recipe={TOY}", f"out={tmp_path / 'second'}"]
    second = subprocess.run(
        [*line, f"run.cache={cache}", "run.inline=true", "--plain"], capture_output=True, text=True
    )
    assert second.returncode == 0, second.stderr
    gone = [path for path, inode in manifests.items() if not path.exists() or path.stat().st_ino != inode]
    assert second.stderr.count("damaged on disk") == len(gone) == int(damaged)
    assert all(path.parent == parts[0].parent for path in gone)


def test_redo_does_not_delete_under_another_build_of_the_same_cache(
    changed: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe, _ = changed
    cache = tmp_path / "cache"
    words = [f"run.cache={cache}", "darkest=100"]
    recipe.write_text(TOY.read_text())
    assert command(recipe, tmp_path / "first", *words).returncode == 0
    recipe.write_text(TOY.read_text().replace(BEFORE, AFTER))
    with sharing(cache):
        refused = command(recipe, tmp_path / "second", *words, "run.stale=redo")
    assert refused.returncode == 5 and "another build uses the cache" in refused.stderr
    assert command(recipe, tmp_path / "second", *words, "run.stale=redo").returncode == 0
