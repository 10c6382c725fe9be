"""Builds on Dask: the same bytes, whatever happens to workers; errors whole; nothing left running, nothing said."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import datakit
from datakit.config import RunOptions
from datakit.errors import (
    ConfigError,
    DatakitError,
    EnvironmentProblem,
    MissingExtra,
    SampleError,
    StageError,
)
from datakit.manifest import Manifest
from datakit.run import remote
from datakit.run.job import Job, open_steps
from datakit.run.pool import InlinePool, drain, open_pool
from datakit.run.progress import QuietSink

from .trouble import CRASH, GROW, HANG_IN_C, write_recipe

pytest.importorskip("distributed")
pytestmark = pytest.mark.timeout(120)
TOY = str(Path(__file__).parent.parent / "toy_recipe.py")
ON_DASK = RunOptions(on="dask", workers=2)


class Counts(QuietSink):
    """What a build said of its samples, and its notes."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.taken_back = 0
        self.notes: list[str] = []

    def event(self, kind: str, **data: Any) -> None:
        if kind == "advance":
            self.counts.update({name: data[name] for name in ("kept", "dropped", "failed")})
            self.taken_back += max(0, -data["kept"])
        elif kind == "note":
            self.notes.append(data["text"])


def first_jobs(root: Path, *words: str, recipe: str = TOY) -> list[Job]:
    """The jobs of a recipe's source, which need no other."""
    steps = open_steps(recipe, words, (), str(root))
    fingerprint, step = next(iter(steps.plan.steps.items()))
    job = Job(recipe=recipe, words=words, listings=(), root=str(root), step=fingerprint, shard=0)
    lineage = steps.plan.lineage(step)
    return [replace(job, lineage=lineage, shard=shard) for shard in range(steps.shards(step))]


def run(pool: Any, jobs: list[Job]) -> dict[int, Manifest]:
    made: dict[int, Manifest] = {}

    def done(job: Job, manifest: Manifest) -> list[Job]:
        assert job.shard not in made
        made[job.shard] = manifest
        return []

    drain(pool, jobs, done)
    return made


def everything(out: Path) -> dict[str, str]:
    """path → sha256 of every file of a build, published or of a step; times, which manifests hold, left out."""
    found = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name, data = path.relative_to(out).as_posix(), path.read_bytes()
        if "/logs/" in name:
            continue
        if name.startswith(".datakit/steps/") and path.suffix == ".json":
            words = json.loads(data)
            if isinstance(words, dict):
                words.pop("seconds", None)
                words.pop("xxh3", None)  # the record's own digest, of its seconds too
            data = json.dumps(words).encode()
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def test_every_file_is_that_of_a_local_build(tmp_path: Path) -> None:
    hows: list[dict[str, Any]] = [{"workers": 1}, {"workers": 2}, {"workers": 2, "on": "dask"}]
    trees = []
    for number, how in enumerate(hows):
        out = tmp_path / str(number)
        datakit.build(TOY, out=out, progress="quiet", bad=(1,), run={"max_failed": 0.2, **how})
        trees.append(everything(out))
    assert trees[0] == trees[1] == trees[2]
    assert any(name.startswith(".datakit/steps/") for name in trees[0]) and "manifest.json" in trees[0]
    assert not active_children()


def test_samples_that_cost_their_workers_are_put_down_as_by_a_local_build(tmp_path: Path) -> None:
    trouble = {("one", "s0-002"): HANG_IN_C, ("one", "s1-001"): CRASH, ("one", "s1-005"): GROW}
    recipe = write_recipe(tmp_path / "trouble.py", trouble)
    trees = []
    for on in ("local", "dask"):
        out = tmp_path / on
        limits = {"timeout": 1.0, "memory": 500, "workers": 2, "max_failed": 0.5}
        datakit.build(str(recipe), out=out, progress="quiet", shards=2, samples=8, run={"on": on, **limits})
        trees.append(everything(out))
        assert not active_children() and not list(out.rglob("*.part-*"))
    rows = pq.read_table(tmp_path / "dask" / "metadata" / "outcomes.parquet").to_pylist()
    failed = {row["__key__"]: row["reason"] for row in rows if row["outcome"] == "failed"}
    assert failed == {"s0-002": "timeout", "s1-001": "crashed", "s1-005": "memory"}
    assert trees[0] == trees[1]


SLOW = "        __import__('time').sleep(0.01)\n"
LOOP = "    for index in range(samples):\n"


def changed(path: Path, line: str) -> str:
    """The toy recipe with a line more in its source's loop."""
    text = Path(TOY).read_text()
    assert LOOP in text
    path.write_text(text.replace(LOOP, LOOP + line))
    return str(path)


@contextlib.contextmanager
def signalled(number: int, times: int, after: float) -> Iterator[list[int]]:
    """Sends a signal to some of this process's Dask workers, each some seconds after it was there."""
    sent: list[int] = []
    over = threading.Event()

    def send() -> None:
        while len(sent) < times and not over.is_set():
            for process in active_children():
                if process.pid is not None and process.pid not in sent and len(sent) < times:
                    time.sleep(after)
                    os.kill(process.pid, number)
                    sent.append(process.pid)
            time.sleep(0.02)

    sender = threading.Thread(target=send)
    sender.start()
    yield sent
    over.set()
    sender.join()


def test_killed_workers_are_replaced_and_their_samples_counted_once(tmp_path: Path) -> None:
    recipe, sink = changed(tmp_path / "slow.py", SLOW), Counts()
    with open_pool(ON_DASK, sink) as pool, signalled(signal.SIGKILL, 2, after=1.5) as killed:
        made = run(pool, first_jobs(tmp_path, "samples=200", "shards=4", recipe=recipe))
    assert len(killed) == 2 and not active_children()
    assert {shard: manifest.samples for shard, manifest in made.items()} == dict.fromkeys(range(4), 200)
    assert sink.counts == {"kept": 800, "dropped": 0, "failed": 0} and sink.taken_back
    assert not list(tmp_path.rglob("*.part-*"))


def test_a_stopped_worker_is_replaced_while_it_starts_and_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datakit.run import cluster

    assert cluster.LOOK * cluster.HELD < 5
    monkeypatch.setattr(cluster, "LOOK", 0.2)
    with signalled(signal.SIGSTOP, 1, after=0.1) as stopped, open_pool(ON_DASK, QuietSink()) as pool:
        assert len(stopped) == 1
        jobs = first_jobs(tmp_path, "samples=20", "shards=6")
        run(pool, jobs[:2])
        os.kill(next(pid for child in active_children() if (pid := child.pid)), signal.SIGSTOP)
        made = run(pool, jobs[2:])
    assert set(made) == {2, 3, 4, 5} and not active_children()


@pytest.mark.parametrize("whom", ["getpid", "getppid"])
def test_a_job_that_kills_every_worker_is_named(whom: str, tmp_path: Path) -> None:
    """A child, or the Dask worker over it."""
    recipe = changed(tmp_path / "deadly.py", f"        __import__('os').kill(__import__('os').{whom}(), 9)\n")
    jobs = first_jobs(tmp_path, "shards=1", recipe=recipe)
    with (
        pytest.raises(EnvironmentProblem, match=f"died 3 times on shard 0 of step {jobs[0].step}"),
        open_pool(replace(ON_DASK, workers=1), QuietSink()) as pool,
    ):
        run(pool, jobs)
    assert not active_children()


def test_errors_have_the_class_and_the_words_of_a_local_build(tmp_path: Path) -> None:
    words = ("samples=2", "shards=1")
    stale = replace(first_jobs(tmp_path, *words)[0], step="0123")
    said: dict[str, list[str]] = {"here": [], "there": []}
    recipe = changed(tmp_path / "broken.py", "        raise SampleError('odd', 'very')\n")
    broken = first_jobs(tmp_path, *words, recipe=recipe)[0]
    for job in (stale, broken):
        with pytest.raises(StageError) as here:
            run(InlinePool(QuietSink()), [job])
        said["here"].append(str(here.value))
        with pytest.raises(StageError) as there, open_pool(replace(ON_DASK, workers=1), QuietSink()) as pool:
            run(pool, [job])
        said["there"].append(str(there.value))
    assert said["here"] == said["there"] and "has another one" in said["there"][0]


@pytest.mark.parametrize(
    "problem",
    [SampleError("odd", "very"), MissingExtra("it", "dask"), StageError("broke"), OSError(28, "full", "/x")],
)
def test_an_error_comes_through_as_text(problem: Exception) -> None:
    text = json.dumps({"problem": remote.problem_words(problem)})
    with pytest.raises(type(problem)) as heard:
        remote.read_answer(text)
    assert str(heard.value) == str(problem) and vars(heard.value).keys() >= vars(problem).keys()


def test_an_error_that_no_text_holds_is_told_with_where_it_arose() -> None:
    class Own(Exception):
        pass

    for problem in (Own("lost"), ValueError(object())):
        with pytest.raises(RuntimeError, match=type(problem).__name__):
            remote.read_answer(json.dumps({"problem": remote.problem_words(problem)}))


def test_a_worker_refuses_other_code_other_libraries_and_another_disk(tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    probe.write_text("mine")
    terms = remote.terms_of("mine", (str(probe),))
    assert remote.refusal(terms) == ""
    assert "other code of datakit" in remote.refusal(replace(terms, code="old"))
    assert "numpy" in remote.refusal(replace(terms, versions={"numpy": "0.1"}))
    remote_seen, remote.SEEN = remote.SEEN, 0.0
    try:
        assert str(tmp_path) in remote.refusal(replace(terms, probes=(str(tmp_path / "away"),)))
        assert str(tmp_path) in remote.refusal(replace(terms, build="another's"))
    finally:
        remote.SEEN = remote_seen


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Somebody's cluster: a scheduler and a worker of two threads, started in another folder."""
    folder = tmp_path_factory.mktemp("cluster")
    code = (
        "import sys\n"
        "from distributed import LocalCluster\n"
        "if __name__ == '__main__':\n"
        "    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, host='tcp://127.0.0.1',\n"
        "                      dashboard_address=None,\n"
        "                      scheduler_kwargs={'dashboard_address': '127.0.0.1:0'}) as found:\n"
        "        print(found.scheduler_address, flush=True)\n"
        "        sys.stdin.read()\n"
    )
    (folder / "cluster.py").write_text(code)
    process = subprocess.Popen(
        [sys.executable, "cluster.py"],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    )
    assert process.stdout
    with process:
        yield process.stdout.readline().strip()
        process.kill()


def test_a_scheduler_that_runs_builds_the_same_tree(scheduler: str, tmp_path: Path) -> None:
    for out, how in (("here", {"inline": True}), ("there", {"scheduler": scheduler})):
        datakit.build(TOY, out=tmp_path / out, progress="quiet", run=how)
    assert everything(tmp_path / "here") == everything(tmp_path / "there")


def test_a_recipe_that_changed_since_is_read_anew(scheduler: str, tmp_path: Path) -> None:
    """Workers of a scheduler outlive a build."""
    recipe, kept = tmp_path / "mine.py", []
    for number, line in enumerate(("", "        if index < 5: continue\n")):
        recipe.write_text(Path(TOY).read_text().replace(LOOP, LOOP + line))
        how = {"out": str(number), "progress": "quiet", "run": {"scheduler": scheduler}}
        code = f"import datakit; datakit.build({str(recipe)!r}, **{how!r})"
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, done.stderr
        kept.append(sum(len(datakit.open_store(tmp_path / str(number))[name]) for name in ("train", "test")))
    assert kept == [60, 45]


def test_workers_that_see_another_disk_are_refused_at_once(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver's probe is written where no worker looks: as good as a disk of its own."""
    real = Path.write_text
    monkeypatch.setattr(
        Path, "write_text", lambda path, text: 0 if ".part-" in path.name else real(path, text)
    )
    with (
        pytest.raises(EnvironmentProblem, match=r"does not see .*steps.* that all machines share"),
        open_pool(RunOptions(scheduler=scheduler), QuietSink()) as pool,
    ):
        run(pool, first_jobs(tmp_path, "samples=2", "shards=1"))


def test_a_scheduler_that_does_not_answer_is_named_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    from datakit.run import cluster

    assert cluster.CONNECT < 10
    monkeypatch.setattr(cluster, "CONNECT", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # takes the connection and says nothing
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        with (
            pytest.raises(EnvironmentProblem, match=f"no Dask scheduler answers at {address}"),
            open_pool(RunOptions(scheduler=address), QuietSink()),
        ):
            pass
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"on": "local", "scheduler": "tcp://127.0.0.1:8786"}, "contradict"),
        ({"on": "dask", "inline": True}, "run.inline"),
        ({"scheduler": "127.0.0.1:8786"}, "tcp://host:8786"),
    ],
)
def test_words_that_contradict_each_other_are_refused(words: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RunOptions(**words)


def test_dask_that_is_not_installed_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"datakit\[dask\]"), open_pool(ON_DASK, QuietSink()):
        pass


def test_a_script_without_a_main_guard_builds_in_silence(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import datakit\nprint('once')\ndatakit.build({TOY!r}, out={str(tmp_path / 'out')!r}, progress='quiet', "
        "run={'on': 'dask', 'workers': 1})\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "once\n", "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_build_leaves_no_process(tmp_path: Path, number: int, code: int) -> None:
    recipe = changed(tmp_path / "slow.py", SLOW)
    line = [sys.executable, "-m", "datakit.cli", "build", f"recipe={recipe}", f"out={tmp_path / 'out'}"]
    words = ["samples=2000", "run.on=dask", "run.workers=2", "--quiet"]
    hears = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        build = subprocess.Popen([*line, *words], start_new_session=True, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, hears)
    try:
        while not list(tmp_path.rglob("*.tar.part-*")):
            assert build.poll() is None
            time.sleep(0.05)
        os.killpg(build.pid, number)
        _, said = build.communicate(timeout=10)  # ends when nobody holds its stderr any more
        assert build.returncode == code
        assert said.strip() == "datakit: stopped; the same command goes on from here"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(build.pid, signal.SIGKILL)
    assert issubclass(EnvironmentProblem, DatakitError)
