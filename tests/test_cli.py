"""The command line: exit codes, streams, help, and how little it imports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import datakit

TOY = str(Path(__file__).parent / "toy_recipe.py")
HEAVY = {"numpy", "pyarrow", "torch", "faiss", "datasets", "PIL", "pydantic", "rich", "yaml"}


def run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "datakit.cli", *words], capture_output=True, text=True, cwd=cwd
    )


@pytest.mark.parametrize(
    "words", [["--help"], ["recipes"], ["catalogs"], ["build", "--help"], ["index", "--help"]]
)
def test_help_and_lists_import_nothing_heavy(words: list[str]) -> None:
    script = (
        "import sys, datakit.cli\n"
        f"sys.argv = ['datakit', *{words!r}]\n"
        "try:\n    datakit.cli.main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print(sorted(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.strip().strip("[]").replace("'", "").split(", "))
    assert not loaded & HEAVY


def test_a_recipes_help_lists_its_keys_with_types_and_defaults() -> None:
    text = run("build", "recipe=fg_ood", "--help").stdout
    assert "holdout.fraction=0.25  float" in text and "validate=train  none | probe | train" in text
    assert "run.workers=0  int" in text and "out=builds/fg_ood" in text


@pytest.mark.parametrize("word", ["--help", "recipes"])
def test_help_and_recipes_cost_little_processor_time(word: str) -> None:
    script = "import resource, subprocess, sys\n" + (
        f"command = [sys.executable, '-m', 'datakit.cli', {word!r}]\n"
        "assert b'fg_ood' in subprocess.run(command, check=True, capture_output=True).stdout\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\nprint(used.ru_utime + used.ru_stime)\n"
    )
    command = [sys.executable, "-c", script]
    found = [
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(3)
    ]
    assert min(found) <= 0.3


def test_a_wrong_verb_or_word_exits_2_and_says_what_was_meant() -> None:
    for words, said in (
        (["buidl"], "did you mean build?"),
        (["build"], "which recipe?"),
        (["build", "recipe=fg_oodd"], "did you mean fg_ood?"),
        (["build", f"recipe={TOY}", "sample=3"], "did you mean samples?"),
        (["build", f"recipe={TOY}", "run.worker=3"], "did you mean run.workers?"),
        (["plan", f"recipe={TOY}", "run.max_failed=7"], "must be from 0 to 1"),
        (["show", "recip=fg_ood"], "did you mean recipe?"),
        (["show", "catalog=emojy"], "did you mean emoji?"),
    ):
        done = run(*words)
        assert done.returncode == 2 and said in done.stderr and not done.stdout, done.stderr


def test_exit_codes_tell_what_is_at_fault(tmp_path: Path) -> None:
    inline = [f"recipe={TOY}", f"out={tmp_path / 'out'}", "run.inline=true"]
    assert run("build", *inline, "least=99").returncode == 3
    assert run("build", *inline, "bad=0").returncode == 4
    assert run("build", *inline, "crash=true").returncode == 1
    assert run("verify", str(tmp_path)).returncode == 3
    assert run("build", *inline).returncode == 0


def test_data_goes_to_stdout_and_words_to_stderr(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("build", f"recipe={TOY}", f"out={out}", "run.inline=true")
    assert done.stdout == f"{out}\n" and "map:intake,not_dark: 60 samples" in done.stderr
    again = run("build", f"recipe={TOY}", f"out={out}", "run.inline=true", "--json")
    events = [json.loads(line) for line in again.stdout.splitlines()]
    assert events[-1]["event"] == "finished" and events[-1]["fresh"] is False and events[-1]["v"] == 1


@pytest.mark.parametrize(
    "words",
    [["--help"], ["build", "--help"], ["catalogs"], ["plan", f"recipe={TOY}"], ["show", "catalog=emojy"]],
)
def test_a_reader_that_goes_away_ends_a_verb_quietly_as_by_sigpipe(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "datakit.cli", *words]
    only_errors = words[0] == "show"
    done = subprocess.run(command, stdout=writer, stderr=writer if only_errors else subprocess.PIPE)
    os.close(writer)
    assert done.returncode == 128 + signal.SIGPIPE and not done.stderr


def test_a_build_whose_reader_goes_away_is_not_taken_for_done(tmp_path: Path) -> None:
    words = ["build", f"recipe={TOY}", f"out={tmp_path / 'out'}", "--json", "run.workers=1", "samples=200"]
    command = [sys.executable, "-m", "datakit.cli", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr and process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 128 + signal.SIGPIPE and not process.stderr.read()
    process.stderr.close()


def test_export_help_lists_its_keys_and_formats() -> None:
    text = run("export", "--help").stdout
    assert (
        "store=...  str, required" in text and "format=openood  openood | coco | llava | datajuicer" in text
    )
    assert "list of keys: seed1" in text


def test_why_tells_what_became_of_a_sample(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["bad=0", "darkest=80", "run.max_failed=0.2", "run.inline=true"]
    assert run("build", f"recipe={TOY}", f"out={out}", *words, "--quiet").returncode == 0
    assert "failed: 0/0 by source:noise: not_an_image: an HTML page" in run("why", "0/0", str(out)).stdout
    outcomes = [run("why", f"s0-{index:03d}", str(out)).stdout for index in range(1, 20)]
    assert any(text.startswith("kept") for text in outcomes)
    assert any("dark" in text and "threshold 80" in text for text in outcomes)
    unknown = run("why", "nobody", str(out))
    assert unknown.returncode == 3 and "no sample with the key or name nobody" in unknown.stderr


def test_the_published_recipe_gives_the_same_build(tmp_path: Path) -> None:
    words = [f"recipe={TOY}", f"out={tmp_path / 'out'}", "run.inline=true"]
    assert run("build", *words, "bad=", "samples=7", "margin=2.5", "--quiet").returncode == 0
    again = run("build", *words, f"@{tmp_path / 'out' / 'recipe.yaml'}")
    assert again.returncode == 0 and "up to date" in again.stderr


def test_export_by_words_names_what_it_does_not_know(tmp_path: Path) -> None:
    run("build", f"recipe={TOY}", f"out={tmp_path / 'out'}", "run.inline=true", "--quiet")
    words = [f"store={tmp_path / 'out'}", f"out={tmp_path / 'lists'}"]
    assert run("export", "format=imagefolder", *words).returncode == 0
    wrong = run("export", "format=opnood", *words)
    assert wrong.returncode == 2 and "did you mean openood?" in wrong.stderr


def test_plan_writes_nothing(tmp_path: Path) -> None:
    done = run("plan", f"recipe={TOY}", f"out={tmp_path / 'out'}", "--json")
    assert done.returncode == 0 and not (tmp_path / "out").exists()
    assert {step["step"] for step in json.loads(done.stdout)["steps"]} >= {"source:noise", "reduce:page"}


def test_clean_says_first_and_deletes_only_what_a_build_made(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("build", f"recipe={TOY}", f"out={out}", "run.inline=true", "--quiet")
    assert "would delete" in run("clean", str(out)).stdout and (out / ".datakit" / "steps").exists()
    assert run("clean", str(out), "--yes").returncode == 0 and not (out / ".datakit" / "steps").exists()
    assert run("verify", str(out)).returncode == 0
    assert run("clean", str(tmp_path)).returncode == 2


def test_the_public_names_are_those_listed() -> None:
    for name in datakit.__all__:
        assert getattr(datakit, name) is not None
    with pytest.raises(AttributeError, match="it has Build"):
        _ = datakit.nothing


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_after_the_last_word_does_not_change_the_exit_code(number: signal.Signals) -> None:
    script = (
        "import os, sys\n"
        "from datakit.cli import main\n"
        "class Late:\n"
        f"    def __del__(self, kill=os.kill, pid=os.getpid()): kill(pid, {int(number)})\n"
        "late = Late()\n"  # goes when Python takes itself apart
        "sys.argv = ['datakit', '--version']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip().endswith(datakit.__version__)
    assert not done.stderr
