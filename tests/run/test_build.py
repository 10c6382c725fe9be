"""A build: what comes out, what a second one does, what a kill leaves, what is said of broken input."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import datakit
from datakit.errors import ConfigError, EnvironmentProblem, FailureLimit, GateError, StageError
from datakit.run.build import Build
from datakit.run.locks import locked
from datakit.store.steps import Steps

TOY = str(Path(__file__).parent.parent / "toy_recipe.py")


def build(out: Path, **words: Any) -> Build:
    words.setdefault("run", {"inline": True})
    return datakit.build(TOY, out=out, progress="quiet", **words)


def tree(out: Path) -> dict[str, str]:
    """path → sha256 of every published file."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and ".datakit" not in path.relative_to(out).parts
    }


def command(out: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "datakit.cli", "build", f"recipe={TOY}", f"out={out}", "--quiet", *words]


@contextlib.contextmanager
def started(out: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A build of its own process group, of which nothing is left afterwards, whatever the test found."""
    # A shell starts what it puts in the background deaf to Ctrl-C, and with the tests all that they start.
    hears = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with (out.parent / "stderr").open("wb") as said:
            process = subprocess.Popen(
                command(out, *words), start_new_session=True, stdout=subprocess.DEVNULL, stderr=said
            )
    finally:
        signal.signal(signal.SIGINT, hears)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def workers_of(process: subprocess.Popen[bytes], count: int) -> list[int]:
    """Pids of at least `count` spawned workers: not of the resource tracker, which is a child too."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    found: list[int] = []
    while len(found) < count:
        assert process.poll() is None, "the build ended before its workers were seen"
        time.sleep(0.02)
        found = []
        for pid in children.read_text().split():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(int(pid))
    return found


def test_every_sample_is_published_dropped_or_failed(tmp_path: Path) -> None:
    made = build(tmp_path / "out", bad=(0,), darkest=60, margin=5, run={"inline": True, "max_failed": 0.1})
    outcomes = json.loads((made.out / "provenance.json").read_bytes())["outcomes"]
    gone = sum(outcomes["dropped"].values()) + sum(outcomes["failed"].values())
    assert outcomes["failed"] == {"not_an_image": 3}
    assert set(outcomes["dropped"]) == {"dark", "between"}
    assert sum(made.splits.values()) + gone == outcomes["inputs"] == 60


def test_the_second_build_does_nothing_and_a_changed_word_reuses_the_steps_before_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert build(out).fresh
    before = tree(out)
    assert not build(out).fresh
    steps = {path.name for path in (out / ".datakit" / "steps").iterdir()}
    build(out, margin=5)
    added = {path.name for path in (out / ".datakit" / "steps").iterdir()} - steps
    # Only the division, the repartition after it and the page are made anew.
    assert len(added) == 3
    build(out)
    assert tree(out) == before


def test_one_and_two_workers_and_this_process_give_the_same_bytes(tmp_path: Path) -> None:
    trees = []
    for name, run in (("a", {"workers": 1}), ("b", {"workers": 2}), ("c", {"inline": True})):
        build(tmp_path / name, run=run)
        trees.append(tree(tmp_path / name))
    assert trees[0] == trees[1] == trees[2]
    assert any(path.endswith(".tar") for path in trees[0])


def test_killed_at_any_moment_and_run_again_gives_the_same_bytes(tmp_path: Path) -> None:
    build(tmp_path / "clean")
    wanted, out = tree(tmp_path / "clean"), tmp_path / "killed"
    draw = random.Random(7)
    for _ in range(5):
        with started(out, "run.workers=2"):  # killed as a group when the block ends
            time.sleep(draw.uniform(0.2, 1.6))
    subprocess.run(command(out, "run.workers=2"), check=True, stdout=subprocess.DEVNULL)
    assert tree(out) == wanted
    assert not list(out.rglob("*.part-*"))


def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with started(out, "samples=400", "run.workers=2") as process:
        os.kill(workers_of(process, 1)[0], signal.SIGKILL)
        assert process.wait(timeout=60) == 0
    build(tmp_path / "clean", samples=400)
    assert tree(out) == tree(tmp_path / "clean")


@pytest.mark.parametrize("after", [0.0, 0.05, 0.3])  # seconds of the second worker's life
def test_ctrl_c_ends_with_130_and_one_line_and_leaves_no_worker(tmp_path: Path, after: float) -> None:
    """As a terminal does it: the build and its workers all get the signal."""
    with started(tmp_path / "out", "samples=2000", "run.workers=2") as process:
        workers = workers_of(process, 2)
        time.sleep(after)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=15) == 130
        said = (tmp_path / "stderr").read_text().strip()
        assert said == "datakit: stopped; the same command goes on from here"
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_ctrl_c_in_the_middle_of_a_text_that_is_run_ends_with_130(tmp_path: Path) -> None:
    recipe = tmp_path / "interrupted.py"
    text = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nfor _ in range(1000): pass\n"
    recipe.write_text(f"exec({text!r})\n")
    hears = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        words = [f"recipe={recipe}", f"out={tmp_path / 'out'}"]
        done = subprocess.run([sys.executable, "-m", "datakit.cli", "build", *words], capture_output=True)
    finally:
        signal.signal(signal.SIGINT, hears)
    assert done.returncode == 130


def test_a_second_ctrl_c_does_not_wait_for_workers_that_do_not_listen(tmp_path: Path) -> None:
    with started(tmp_path / "out", "samples=2000", "run.workers=2") as process:
        workers = workers_of(process, 2)
        while len(list((tmp_path / "out" / ".datakit" / "steps").glob("*/*.tar.part-*"))) < 2:
            time.sleep(0.02)  # both are at work
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        while not all(state(pid) == "T" for pid in workers):
            time.sleep(0.01)  # a SIGTERM that comes before they stop is heard
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None  # asking them to leave
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=1.5) == -signal.SIGINT
        deadline = time.monotonic() + 2
        while any(state(pid) not in "ZX" for pid in workers):
            assert time.monotonic() < deadline, "a worker outlived its parent"
            time.sleep(0.02)


def state(pid: int) -> str:
    """As /proc has it; X for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def test_too_many_broken_samples_stop_the_build_and_name_them(tmp_path: Path) -> None:
    with pytest.raises(FailureLimit, match=r"3 of 60 samples are broken \(3 not_an_image\).*0/1"):
        build(tmp_path / "out", bad=(1,))


def test_a_failed_check_publishes_nothing_and_keeps_the_report(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(GateError, match=r"enough: 60 rows, at least 99 wanted \(s0-000\)"):
        build(out, least=99)
    assert not (out / "manifest.json").exists()
    assert (out / ".datakit" / "failed" / "report" / "index.html").read_text() == "<html>60 rows</html>"


def test_a_defect_of_a_stage_names_recipe_step_shard_and_key(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"embed raised ZeroDivisionError: a defect .*shard 0, key s0-000"):
        build(tmp_path / "out", crash=True)


def test_where_a_defect_arose_comes_back_from_a_worker(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="ZeroDivisionError") as raised:
        build(tmp_path / "out", crash=True, run={"workers": 1})
    assert "toy_recipe.py" in "".join(raised.value.__notes__)


@pytest.mark.parametrize("error", ["ZeroDivisionError('half')", "SampleError('half')"])
def test_a_source_that_breaks_off_stops_the_build_and_is_named(tmp_path: Path, error: str) -> None:
    recipe = tmp_path / "half.py"
    text = Path(TOY).read_text()
    first = "        rng = rng_for(0,"
    recipe.write_text(text.replace(first, f"        if index == 7:\n            raise {error}\n{first}"))
    with pytest.raises(StageError, match=r"noise raised .*half.*step .*noise.*, shard 0"):
        datakit.build(
            str(recipe), out=tmp_path / "out", progress="quiet", run={"inline": True, "max_failed": 1}
        )


CHANGES = {
    "a stage without return": (
        "return sample if mean >= darkest else Drop",
        "sample if mean >= darkest else Drop",
        r"not_dark gave a NoneType, where a sample or a Drop must come back .*shard 0, key s0-000",
    ),
    "a batch too short": (
        "np.float32)} for sample in samples]",
        "np.float32)} for sample in samples[1:]]",
        r"embed gave \d results for \d samples .*shard 0, key s0-000",
    ),
    "a reduce that gives a sample up": (
        'return f"<html>',
        'raise SampleError("gone")\n    return f"<html>',
        r"page raised SampleError: gone .*step reduce:page, shard 0",
    ),
}


@pytest.mark.parametrize(("now", "then", "said"), CHANGES.values(), ids=CHANGES)
def test_a_stages_own_mistake_is_named(tmp_path: Path, now: str, then: str, said: str) -> None:
    recipe, text = tmp_path / "mine.py", Path(TOY).read_text()
    assert text.count(now) == 1
    recipe.write_text(text.replace(now, then))
    with pytest.raises(StageError, match=said):
        datakit.build(str(recipe), out=tmp_path / "out", progress="quiet", run={"inline": True})


def test_rows_without_a_name_can_leave_at_the_repartition(tmp_path: Path) -> None:
    recipe = tmp_path / "nameless.py"
    recipe.write_text(Path(TOY).read_text().replace('            "name": f"{shard}/{index}",\n', ""))
    made = datakit.build(
        str(recipe), out=tmp_path / "out", margin=30.0, progress="quiet", run={"inline": True}
    )
    assert 0 < sum(made.splits.values()) < 60


def test_an_image_format_that_only_the_store_asks_for_is_made(tmp_path: Path) -> None:
    recipe, text = tmp_path / "mine.py", Path(TOY).read_text()
    now = "image_format=format,"
    assert text.count(now) == 1
    recipe.write_text(text.replace(now, "image_format=images.reduce(png()),"))
    assert datakit.build(str(recipe), out=tmp_path / "out", progress="quiet", run={"inline": True}).fresh


def test_a_worker_that_dies_before_its_first_word_is_replaced_on_any_screen(tmp_path: Path) -> None:
    """A reduce says nothing before it ends; the bars must bear that its worker goes."""
    recipe, text = tmp_path / "dies.py", Path(TOY).read_text()
    once = f"""
    import os, pathlib, signal
    if not (mark := pathlib.Path({str(tmp_path / "died")!r})).exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
"""
    now = "def page(rows: Rows) -> str:\n"
    assert text.count(now) == 1
    recipe.write_text(text.replace(now, now + once))
    line = [sys.executable, "-m", "datakit.cli", "build", f"recipe={recipe}", f"out={tmp_path / 'out'}"]
    done = subprocess.run([*line, "run.workers=1", "--plain"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "died").exists() and "reduce:page: 60 samples" in done.stderr


def test_a_place_that_cannot_be_written_is_the_machines_problem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run(
        command(tmp_path / "out", f"run.cache={tmp_path / 'file'}"), capture_output=True, text=True
    )
    assert done.returncode == 5 and str(tmp_path / "file") in done.stderr and "defect" not in done.stderr


def test_an_annotation_that_loses_a_sample_stops_the_build_and_names_it(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"keeps every row, and 1 left shard 0, the first s0-002 \(odd\)"):
        build(tmp_path / "out", lose="s0-002")


def test_a_foreign_folder_and_the_source_itself_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"thesis\.tex"):
        build(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"
    with pytest.raises(ConfigError, match="is the source itself"):
        datakit.build("fg_ood", out=tmp_path / "mine", catalog="imagefolder", source=str(tmp_path / "mine"))
    build(tmp_path / "out")
    before = tree(tmp_path / "out")
    data = tmp_path / "out" / "data"
    for source in (data, data / "*.tar", f"{tmp_path}/other.tar::{data}/train-00000-of-00002.tar"):
        with pytest.raises(ConfigError, match=r"holds the source .*never writes into its source"):
            datakit.build("fg_ood", out=tmp_path / "out", catalog="webdataset", source=str(source))
    assert tree(tmp_path / "out") == before


def test_two_builds_in_one_folder_at_once_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with started(out, "samples=2000") as first:
        while not (out / ".datakit" / "steps").exists():
            assert first.poll() is None
            time.sleep(0.02)
        with pytest.raises(EnvironmentProblem, match="another build is running"):
            build(out)
        first.terminate()
        assert first.wait(timeout=15) == 143


def test_a_step_that_another_builder_completes_meanwhile_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was missing when we looked, and there when its jobs were made."""
    run = {"inline": True, "cache": str(tmp_path / "cache")}
    build(tmp_path / "first", run=run)
    (last,) = (
        path for path in tmp_path.glob("cache/steps/*/00000.json") if '"repartition:' in path.read_text()
    )
    shutil.rmtree(last.parent)
    monkeypatch.setattr(
        Steps, "missing", lambda self, step: [] if step.verb == "catalogs" else [*range(self.shards(step))]
    )
    build(tmp_path / "second", run=run)
    assert tree(tmp_path / "second") == tree(tmp_path / "first")


def test_a_build_that_is_refused_wrote_nothing(tmp_path: Path) -> None:
    """The first, with the lock, deletes what lies there half written, and so the second's words of it."""
    out = tmp_path / "out"
    with locked(out), pytest.raises(EnvironmentProblem, match="another build is running"):
        build(out)
    assert [path.name for path in out.rglob("*")] == [".datakit", "lock"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds files that datakit did not write \(notes\.txt\)"):
        build(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").rglob("*")] == ["notes.txt"]


def test_a_script_without_a_main_guard_builds(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import datakit\nprint(datakit.build({TOY!r}, out={str(tmp_path / 'out')!r}).splits)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0 and "'train'" in done.stdout and done.stdout.count("train") == 1
