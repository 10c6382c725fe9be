"""What a build is asked for: words told apart, and refused before anything is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import datakit
from datakit.errors import ConfigError, DatakitError
from datakit.run.request import request

TOY = str(Path(__file__).parent.parent / "toy_recipe.py")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("run.workers=-3", "run.workers=-3: must be at least 0"),
        ("run.max_failed=7", "run.max_failed=7.0: must be from 0 to 1"),
        ("run.max_failed=-0.1", "must be from 0 to 1"),
        ("run.worker=3", "unknown key run.worker; did you mean run.workers?"),
        ("workers=2", "unknown key workers; did you mean run.workers?"),
        ("inlin=true", "did you mean run.inline?"),
        ("zzz=1", "run.max_failed"),
    ],
)
def test_a_wrong_word_of_how_to_run_is_named_in_full(word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        request([f"recipe={TOY}", word])


def test_how_to_run_goes_back_to_its_default_as_any_key_does() -> None:
    asked = request([f"recipe={TOY}", "run.workers=2", "samples=5", "~run.workers", "~samples"])
    assert asked.run.workers == 0 and "samples=20" in asked.words


def test_a_file_of_words_may_hold_any_word_of_a_build(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    path.write_text(f"recipe: {TOY}\nout: {tmp_path / 'out'}\nsamples: 7\nrun:\n  workers: 3\n")
    asked = request([f"@{path}", "run.workers=1"])
    assert (asked.recipe, asked.out, asked.run.workers) == (TOY, tmp_path / "out", 1)
    assert "samples=7" in asked.words


@pytest.mark.parametrize("words", [["catalog=emojy"], ["catalog=imagefolder"], ["options=colour=1"]])
def test_a_refused_build_leaves_no_folder(words: list[str], tmp_path: Path) -> None:
    from datakit.run.build import run_build
    from datakit.run.progress import QuietSink

    with pytest.raises(DatakitError):
        run_build(request(["recipe=fg_ood", "validate=none", f"out={tmp_path / 'out'}", *words]), QuietSink())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("seeds=", "seeds=: give one or more, each once"),
        ("seeds=0,0", "seeds=0,0: give one or more, each once"),
        ("seeds=-1", "seeds=-1: must be from 0 to"),
        ("shares=1", "shares=1.0: give one for each of near, mid, far"),
        ("per_shard=0", "per_shard=0: must be at least 1"),
        ("quality=0", "intake.quality=0: must be from 1 to 100"),
        ("phash_bits=65", "leaks.phash_bits=65: must be from 0 to 31"),
        ("train.epochs=0", "epochs=0 must be above 0"),
        ("methods=msp", "unknown method msp"),
    ],
)
def test_a_word_out_of_range_is_refused_before_any_work(word: str, said: str, tmp_path: Path) -> None:
    given = dict([word.split("=", 1)])
    with pytest.raises(ConfigError, match=re.escape(said)):
        datakit.build("fg_ood", out=tmp_path / "out", progress="quiet", **given)
    assert not (tmp_path / "out").exists()
