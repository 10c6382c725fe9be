"""What a build holds on to while things change around it: its code, its source, its answer on standard output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image as Pillow

import datakit
from datakit.errors import CatalogError, ConfigError, StageError, StoreError
from datakit.run import build as builds

from .trouble import write_recipe

TOY = Path(__file__).parent.parent / "toy_recipe.py"
FOLDER = '''"""Images of a folder."""
from dataclasses import dataclass
from datakit.recipe import CatalogUse, Recipe, Store, catalogs
from datakit.stage import Rows, Sample, reduce, stage
from datakit.stages.image import intake

@dataclass(frozen=True, kw_only=True)
class Config:
    source: str = ""

@stage(version=1)
def split(sample: Sample) -> Sample:
    return sample | {"split_name": "train"}

@reduce(version=1)
def png(rows: Rows) -> str:
    return "PNG"

def recipe(config: Config) -> Recipe:
    raw = catalogs(CatalogUse(name="imagefolder", source=config.source))
    format = raw.reduce(png())
    images = raw.map(intake(format=format), split())
    store = Store(step=images.repartition(by="split_name", per_shard=10, seed=0), image_format=format,
                  label=None, metadata=("name",), split_notes={"train": "all"}, title="Toy", description="Noise.")
    return Recipe(store=store)
'''


def build(recipe: Path, out: Path, **words: Any) -> Any:
    run = {"inline": True} | words.pop("run", {})
    return datakit.build(str(recipe), out=out, progress="quiet", run=run, **words)


def command(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "datakit.cli", *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, **options)


def values(out: Path) -> set[Any]:
    store = datakit.open_store(out)
    return {value for split in store.splits for value in store[split].table(["low"])["low"].to_pylist()}


def with_value(value: int, version: int = 1) -> str:
    """The toy recipe, whose samples have a column `low` of this value; the second shard loses its worker, once."""
    text = TOY.read_text().replace(
        "@stage(version=1)\ndef not_dark", f"LOW = {value}\n\n\n@stage(version=1)\ndef not_dark"
    )
    text = text.replace("return sample if mean >=", 'return sample | {"low": LOW} if mean >=')
    text = text.replace('metadata=("name",', 'metadata=("name", "low",')
    return text.replace("@stage(version=1)\ndef not_dark", f"@stage(version={version})\ndef not_dark")


def test_a_recipe_edited_while_it_is_built_is_never_half_of_each(tmp_path: Path) -> None:
    recipe, mark = tmp_path / "mine.py", tmp_path / "mark"
    lose = f"""
    import os, pathlib, time
    mark = pathlib.Path({str(mark)!r})
    if sample["__key__"] == "s1-003" and not mark.exists():
        mark.touch()
        while mark.read_bytes() != b"edited":
            time.sleep(0.01)
        os.kill(os.getpid(), 9)
"""
    body = "    mean = sample["
    text = with_value(1)
    assert text.count(body) == 1
    recipe.write_text(text.replace(body, lose + body))

    def edit() -> None:
        while not mark.exists():
            time.sleep(0.01)
        recipe.write_text(with_value(2))
        mark.write_bytes(b"edited")

    editor = threading.Thread(target=edit)
    editor.start()
    with pytest.raises(StageError, match="the recipe changed while this build ran"):
        build(recipe, tmp_path / "out", run={"inline": False, "workers": 1})
    editor.join()
    with pytest.raises(ConfigError, match="raise the version"):
        build(recipe, tmp_path / "out")
    recipe.write_text(with_value(2, version=2))
    build(recipe, tmp_path / "out")
    assert values(tmp_path / "out") == {2}


def test_a_tree_is_published_as_the_driver_s_recipe_lays_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "mine.py"
    recipe.write_text(with_value(1))
    told = builds.gate

    def edited(*given: Any) -> None:
        told(*given)
        recipe.write_text(with_value(1).replace('"low", ', ""))

    monkeypatch.setattr(builds, "gate", edited)
    # Its workers end before the publication starts others.
    end = builds.run_steps

    def run_steps(steps: Any, template: Any, options: Any, sink: Any, pool: Any) -> None:
        end(steps, template, options, sink, pool)
        pool.close()
        pool.idle.clear()

    monkeypatch.setattr(builds, "run_steps", run_steps)
    with pytest.raises(StageError, match="publishes another tree"):
        build(recipe, tmp_path / "out", run={"inline": False, "workers": 1})


def test_a_session_builds_the_recipe_as_it_is_now(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.py"
    for value in (1, 2):
        recipe.write_text(with_value(value, version=value))
        build(recipe, tmp_path / "out")
        assert values(tmp_path / "out") == {value}
    recipe.write_text(with_value(3, version=2))
    with pytest.raises(ConfigError, match="raise the version"):
        build(recipe, tmp_path / "out")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for number in range(8):
        (folder / "cat").mkdir(parents=True, exist_ok=True)
        Pillow.effect_noise((40, 40), 20 + number).convert("RGB").save(folder / "cat" / f"{number}.png")
    (tmp_path / "folder.py").write_text(FOLDER)
    return folder


@pytest.mark.parametrize("keeps_time", [True, False])
def test_an_image_that_is_replaced_while_it_is_built_is_not_published(
    keeps_time: bool, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By time, or else, where whoever copies keeps times and sizes, by its bytes."""
    first, told = photos / "cat" / "0.png", builds.run_steps
    whole, stat = first.read_bytes(), first.stat()

    def replaced(*given: Any) -> None:
        told(*given)
        first.write_bytes(whole[:-1] + b"\x00")
        if keeps_time:
            os.utime(first, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    monkeypatch.setattr(builds, "run_steps", replaced)
    with pytest.raises(StoreError if keeps_time else CatalogError, match=r"0\.png changed"):
        build(tmp_path / "folder.py", tmp_path / "out", source=str(photos))
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert keeps_time == bool(list((tmp_path / "out" / ".datakit" / "steps").glob("*/*")))
    monkeypatch.undo()
    monkeypatch.setenv("DATAKIT_CACHE_DIR", str(tmp_path / "cache"))
    # As it is now, and with the time that it has: nothing of what it was is remembered.
    build(tmp_path / "folder.py", tmp_path / "out", source=str(photos))
    found = {image.encoded for image in datakit.open_store(tmp_path / "out")["train"].images()}
    assert found == {path.read_bytes() for path in photos.rglob("*.png")}


@pytest.mark.parametrize(
    ("cache", "said"),
    [
        ("photos", "is the source"),
        ("photos/cat", "lies in the source"),
        (".", "holds the source"),
        ("out/data", "lies in out"),
    ],
)
def test_steps_are_never_kept_in_a_source_or_a_store(
    cache: str, said: str, photos: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=said):
        build(
            tmp_path / "folder.py", tmp_path / "out", source=str(photos), run={"cache": str(tmp_path / cache)}
        )
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("change", ['{"label": 7}', '{"image": None}', '{"mean_rgb": None}'])
def test_an_annotation_that_changes_what_is_there_is_refused(change: str, tmp_path: Path) -> None:
    text = TOY.read_text()
    line = 'return sample | {"split_name": split,'
    assert line in text
    recipe = tmp_path / "mine.py"
    recipe.write_text(text.replace(line, f'return sample | {change} | {{"split_name": split,'))
    name = change.split('"')[1]
    with pytest.raises(StageError, match=f"this one changed {name}"):
        build(recipe, tmp_path / "out")


FORK = """
if os.fork() == 0:
    time.sleep(20)
    os._exit(0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_dead_worker_is_missed_though_a_process_of_its_own_lives(tmp_path: Path) -> None:
    """In a reduce, which nobody times."""
    recipe = write_recipe(tmp_path / "mine.py", {("rest", ""): FORK})
    began = time.monotonic()
    with pytest.raises(datakit.errors.EnvironmentProblem, match="SIGKILL"):
        build(recipe, tmp_path / "out", samples=2, shards=1, run={"inline": False, "workers": 1})
    assert time.monotonic() - began < 19


@pytest.mark.parametrize("run", ["run.inline=true", "run.workers=1"])
def test_what_a_recipe_prints_is_no_answer(run: str, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "mine.py", {("one", "s0-001"): "print('from a stage')"})
    recipe.write_text(
        recipe.read_text().replace("    raw = source(", "    print('from a recipe')\n    raw = source(")
        + "\nprint('from a file')\n"
    )
    done = command(
        "build", f"recipe={recipe}", f"out={tmp_path / 'out'}", "samples=4", "shards=1", run, "--quiet"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'out'}\n"
    for said in ("stage", "recipe", "file"):
        assert f"from a {said}" in done.stderr
    told = command(
        "build", f"recipe={recipe}", f"out={tmp_path / 'two'}", "samples=4", "shards=1", run, "--json"
    )
    assert [json.loads(line) for line in told.stdout.splitlines()]


@pytest.mark.parametrize("run", ["run.inline=true", "run.workers=1"])
@pytest.mark.parametrize(
    "way", ["sys.exit(0)", "raise KeyboardInterrupt", "raise type('Odd', (BaseException,), {})()"]
)
def test_a_stage_that_leaves_is_a_defect(run: str, way: str, tmp_path: Path) -> None:
    if run == "run.inline=true" and way == "raise KeyboardInterrupt":
        return  # in this process it is the user's
    recipe = write_recipe(tmp_path / "mine.py", {("one", "s0-001"): f"import sys; {way}"})
    done = command("build", f"recipe={recipe}", f"out={tmp_path / 'out'}", "samples=4", "shards=1", run)
    assert done.returncode not in (0, 130) and "SIGKILL" not in done.stderr
    assert (
        way.split("(")[0].removeprefix("raise ") in done.stderr
        or "SystemExit" in done.stderr
        or "Odd" in done.stderr
    )
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("del sample['__key__']", "took the __key__ away"),
        ("raise SampleError(5)", "a reason is a short text"),
        ("raise type('Odd', (Exception,), {'__str__': lambda self: 1 / 0})()", "raised Odd"),
    ],
)
def test_what_a_stage_gives_wrongly_is_named(trouble: str, said: str, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "mine.py", {("one", "s0-001"): trouble})
    text = recipe.read_text()
    text = text.replace("def _at(key: str, stage: str)", "def _at(key: str, stage: str, sample: Any = None)")
    recipe.write_text(text.replace('_at(sample["__key__"], "one")', '_at(sample["__key__"], "one", sample)'))
    with pytest.raises(StageError, match=said):
        build(recipe, tmp_path / "out", samples=4, shards=1)


def test_half_a_character_in_a_detail_is_kept_as_it_can_be(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "mine.py", {("one", "s0-001"): "raise SampleError('odd', 'a\\ud800b')"})
    build(recipe, tmp_path / "out", samples=20, shards=1, run={"max_failed": 0.5})
    rows = pq.read_table(tmp_path / "out" / "metadata" / "outcomes.parquet").to_pylist()
    assert [row["detail"] for row in rows if row["outcome"] == "failed"] == ["a\\ud800b"]


def test_a_build_of_which_nothing_is_left_says_why(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no sample to publish \(dropped: 60 between\)"):
        build(TOY, tmp_path / "out", margin=1000.0)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_lead_nowhere(closed: str, tmp_path: Path) -> None:
    recipe, out = (
        write_recipe(tmp_path / "mine.py", {("one", "s0-001"): "print('x' * 5000)"}),
        tmp_path / "out",
    )
    words = f"recipe={recipe} out={out} samples=4 shards=1 run.workers=1"
    done = subprocess.run(["sh", "-c", f"{sys.executable} -m datakit.cli build {words} {closed}"])
    assert done.returncode == 0
    assert datakit.open_store(out).contents.counts
    assert not [path for path in out.rglob("*") if path.is_file() and b"x" * 5000 in path.read_bytes()]


def test_a_signal_ends_a_build_in_this_process_as_any_other(tmp_path: Path) -> None:
    """The way out that it takes through a stage is not a defect of the stage."""
    mark = tmp_path / "mark"
    recipe = write_recipe(
        tmp_path / "mine.py", {("one", "s0-001"): f"pathlib.Path({str(mark)!r}).touch(); time.sleep(60)"}
    )
    line = [sys.executable, "-m", "datakit.cli", "build", f"recipe={recipe}", f"out={tmp_path / 'out'}"]
    with subprocess.Popen([*line, "run.inline=true"], stderr=subprocess.PIPE, text=True) as process:
        while not mark.exists():
            time.sleep(0.02)
        process.terminate()
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 143 and "raised" not in said and "goes on from here" in said


@pytest.mark.parametrize("where", ["import sys; sys.exit(0)\n", "def recipe(config): raise SystemExit(0)\n"])
@pytest.mark.parametrize("verb", ["build", "plan"])
def test_a_recipe_that_leaves_is_no_success(verb: str, where: str, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.py"
    recipe.write_text(TOY.read_text() + where)
    done = command(verb, f"recipe={recipe}", *([f"out={tmp_path / 'out'}"] if verb == "build" else []))
    assert done.returncode == 2 and "SystemExit" in done.stderr
