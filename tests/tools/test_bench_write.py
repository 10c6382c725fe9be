"""The write benchmark: what it times of ours is a whole store, and every goal gets a verdict."""

from __future__ import annotations

import importlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datakit.store import shard
from datakit.store.tar import TarWriter
from datakit.store.verify import verify

TOOLS = Path(__file__).parent.parent.parent / "tools"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(TOOLS)
    monkeypatch.setattr(shard, "TarWriter", TarWriter)  # a run is a process of its own, but for here
    return importlib.import_module("bench_write")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 20, 3), np.uint8)
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "JPEG")
        path = tmp_path / "corpus" / f"class_{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded.getvalue())
    return tmp_path / "corpus"


def test_what_it_times_is_a_whole_store(bench: Any, corpus: Path, tmp_path: Path) -> None:
    files = bench.listing(corpus, 5)
    runs = [bench.measure(bench.OURS, files, tmp_path / name) for name in ("a", "b")]
    assert runs[0]["digest"] == runs[1]["digest"]
    assert verify(tmp_path / "a", deep=True).ok
    made = {path.relative_to(tmp_path / "a").as_posix() for path in (tmp_path / "a").rglob("*")}
    assert {"data/train.index.json", "metadata/train-00000-of-00001.parquet", "manifest.json"} <= made
    bench.measure("datakit, xxh3", files, tmp_path / "c")
    same = "data/train-00000-of-00001.tar"
    assert (tmp_path / "c" / same).read_bytes() == (tmp_path / "a" / same).read_bytes()


@pytest.mark.parametrize(("mib", "said"), [(99, "reached"), (101, "NOT REACHED")])
def test_every_goal_has_a_verdict_also_without_the_other_environments(
    bench: Any, mib: int, said: str
) -> None:
    run = {"cpu": 1.0, "wall": 1.0, "peak": mib * 2**20 / 1e6, "libraries": 90.0, "digest": ""}
    without = [name for name in bench.WRITERS if name not in (bench.PEER, bench.CORE)]
    lines = list(bench.table({name: [run] for name in without}))
    verdicts = [line for line in lines if "goal" in line]
    assert len(verdicts) == len(bench.GOALS) - 1 + 1  # without that against img2dataset, with the peak
    assert verdicts[-1].endswith(f"goal 100: {said}")
    missing = [line.split("give ")[1].split()[0] for line in lines if "not run" in line]
    assert missing == ["--core-python", "--img2dataset-python"]


def test_a_peak_in_the_core_alone_does_not_hide_the_peak_here(bench: Any) -> None:
    here = {"cpu": 1.0, "wall": 1.0, "peak": 140.0, "libraries": 123.0, "digest": ""}
    runs = {name: [here] for name in bench.WRITERS} | {bench.CORE: [here | {"peak": 102.0}]}
    peaks = [line for line in bench.table(runs) if ", peak: " in line]
    assert [line.rsplit(": ", 1)[1] for line in peaks] == ["NOT REACHED", "reached"]


def test_it_says_where_it_writes_and_what_a_sync_costs_there(bench: Any, tmp_path: Path) -> None:
    assert str(tmp_path) in bench.place_of(str(tmp_path))
    if Path("/dev/shm").is_dir():
        assert "fsync costs next to nothing" in bench.place_of("/dev/shm")
