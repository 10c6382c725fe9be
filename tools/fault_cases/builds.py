"""A build of a few seconds over a folder of images made here, and what is done to builds: kills, signals, faults."""

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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from datakit.manifest import intact, read_manifest
from fault_cases import Tell

RECIPE = '''
"""A folder, its images mirrored, in two splits."""

from dataclasses import dataclass, field

from datakit.image import Image
from datakit.recipe import CatalogUse, Recipe, Store, catalogs
from datakit.stage import Rows, Sample, reduce, stage
from datakit.stages.image import common_format, intake


@dataclass(frozen=True, kw_only=True)
class Config:
    catalog: str
    source: str


@stage(version=1)
def mirrored(sample: Sample) -> Sample:
    return sample | {"image": Image.from_array(sample["image"].array[:, ::-1])}


@stage(version=1)
def placed(sample: Sample) -> Sample:
    return sample | {"split_name": "test" if sample["__key__"][-1] in "02468" else "train", "reason": None}


@reduce(version=1)
def page(rows: Rows) -> str:
    return f"<html>{len(rows)} rows</html>"


def recipe(config: Config) -> Recipe:
    found = catalogs(CatalogUse(name=config.catalog, source=config.source))
    format = found.reduce(common_format())
    images = found.map(intake(format=format), mirrored()).annotate(placed())
    store = Store(
        step=images.repartition(by="split_name", per_shard=10, seed=0),
        image_format=format,
        label=None,
        title="Small",
        description="Noise.",
    )
    return Recipe(store=store, files={"report/index.html": images.reduce(page())})
'''
CATALOG = """
title = "Noise"
description = ""
reader = "imagefolder"
per_shard = 8
[licence]
name = "made here"
"""
PATIENCE = 120  # seconds for a build to end by itself


def small_build(work: Path, images: int = 48, side: int = 64) -> list[str]:
    """The words of a build over this many PNGs in six folders, made in `work`."""
    draw = np.random.default_rng(0)
    for index in range(images):
        folder = work / "images" / f"class{index % 6}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (side, side, 3), np.uint8)).save(folder / f"{index:03d}.png")
    (work / "small.py").write_text(RECIPE)
    (work / "small.toml").write_text(CATALOG)
    return [f"recipe={work / 'small.py'}", f"catalog={work / 'small.toml'}", f"source={work / 'images'}"]


def tree(root: Path) -> dict[str, str]:
    """path → sha256 of every published file."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and ".datakit" not in path.parts]
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def command(words: list[str], out: Path) -> list[str]:
    return [sys.executable, "-m", "datakit.cli", "build", *words, f"out={out}", "--quiet"]


def build(words: list[str], out: Path) -> float:
    """Build in peace; seconds. Raises CalledProcessError."""
    started = time.monotonic()
    subprocess.run(command(words, out), check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE)
    return time.monotonic() - started


@dataclass(frozen=True)
class Ended:
    """How a build ended and what it said."""

    code: int
    said: str


def attempt(words: list[str], out: Path, env: Mapping[str, str] | None = None) -> Ended:
    """Build with these more environment variables, whatever comes of it."""
    done = subprocess.run(
        command(words, out),
        env={**os.environ, **(env or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
    )
    return Ended(done.returncode, done.stderr.strip())


@contextlib.contextmanager
def started(words: list[str], out: Path) -> Iterator[subprocess.Popen[str]]:
    """A build that runs, in a session of its own, of which nothing is left afterwards."""
    # A shell starts what it puts in the background deaf to Ctrl-C.
    hears = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            command(words, out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, hears)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def begun(process: subprocess.Popen[str], out: Path) -> bool:
    """Wait until the build has its lock, past the start of the interpreter; False if it ended before."""
    lock = out / ".datakit" / "lock"
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        if lock.exists() and _open_by(process.pid, lock):
            return True
        time.sleep(0.005)
    return False


def _open_by(pid: int, path: Path) -> bool:
    with contextlib.suppress(OSError):
        return any(entry.readlink() == path for entry in Path(f"/proc/{pid}/fd").iterdir())
    return False


def left_of(session: int) -> list[int]:
    """Pids of the processes of a session that still run."""
    found = []
    for entry in os.scandir("/proc"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(int(entry.name))
    return found


def kill(words: list[str], out: Path, files: int, after: float) -> bool:
    """Start a build and SIGKILL its process group some seconds after it has so many files; False if it ended before."""
    process = subprocess.Popen(command(words, out), stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        while process.poll() is None and files_of(out) < files:
            time.sleep(0.002)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=after)
            return False
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return True


def files_of(out: Path) -> int:
    """Files that a build has made so far, of its steps and of what it publishes."""
    return sum(len(names) for _, _, names in os.walk(out))


def damage(out: Path) -> list[str]:
    """What stands in the folder of a build and is not what was written: nothing, whatever happened to the build."""
    found = []
    for path in sorted((out / ".datakit" / "steps").glob("*/*.json")):
        if not path.stem.isdigit():
            continue  # the value of a reduce
        manifest = read_manifest(path.parent, int(path.stem))
        if manifest is None or not intact(path.parent, manifest):
            found.append(str(path.relative_to(out)))
    if (out / "manifest.json").exists():
        files = json.loads((out / "manifest.json").read_bytes())["files"]
        here = tree(out)
        found += [name for name, file in files.items() if here.get(name) != file["sha256"]]
    return found


def ends_well(words: list[str], out: Path, wanted: dict[str, str]) -> str:
    """Build on in peace, and say what is wrong with what comes out, or nothing; the folder goes."""
    problems = []
    if bad := damage(out):
        problems.append(f"damaged before: {', '.join(bad[:3])}")
    done = attempt(words, out)
    if done.code:
        problems.append(f"going on ended with {done.code}: {done.said[-200:]}")
    elif tree(out) != wanted:
        problems.append("another tree")
    if parts := list(out.rglob("*.part-*")):
        problems.append(f"{len(parts)} .part files left")
    shutil.rmtree(out, ignore_errors=True)
    return "; ".join(problems)


@dataclass
class Kills:
    """What came of kills: a line for each tree that differs, and what stood at each kill."""

    failures: list[str] = field(default_factory=list)
    stood: list[int] = field(default_factory=list)

    @property
    def figures(self) -> dict[str, str]:
        found = sorted(self.stood)
        some = sum(1 for files in found if files)
        middle = found[len(found) // 2] if found else 0
        return {
            "kills": f"{len(found)}, {some} with files there, {middle} in the middle, {max(found, default=0)} at most"
        }


def kills(words: list[str], count: int, draw: random.Random, scratch: Path, tell: Tell) -> Kills:
    """SIGKILL builds of these words at so many random moments; a line for each tree that differs from a peaceful one.

    A moment is drawn over the files that a build makes, from none to the last, and a hundredth of a second or two: by
    the clock alone, kills would fall into the start of the interpreter, which takes most of a small build's time. A
    build that ends before its moment is started anew in a new folder, so that every kill counts. A few kills hit the
    same folder: what was done stays done, so the later ones come upon later phases.
    """
    seconds = build(words, scratch / "peace")
    wanted = tree(scratch / "peace")
    most = files_of(scratch / "peace")
    tell(f"in peace: {seconds:.1f} s, {len(wanted)} files")
    found, rounds = Kills(), 0
    while len(found.stood) < count:
        out = scratch / f"round{rounds}"
        rounds += 1
        for _ in range(min(draw.randint(1, 5), count - len(found.stood))):
            there = files_of(out)
            # Less often the later ones, or most kills would come upon a tree that is whole.
            until = there + int((most - there) * draw.random() ** 2)
            if there >= most or not kill(words, out, until, draw.uniform(0.0, 0.02)):
                break
            found.stood.append(files_of(out))
            tell(f"kill {len(found.stood)}: {found.stood[-1]} of {most} files stood")
        wrong = ends_well(words, out, wanted)
        found.failures += [f"round {rounds}, up to kill {len(found.stood)}: {wrong}"] if wrong else []
        tell(f"round {rounds}: {wrong or 'equal'}")
    return found
