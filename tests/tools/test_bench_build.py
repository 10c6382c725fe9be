"""The build benchmark: what it times makes small images, and every goal gets a verdict."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import datakit

TOOLS = Path(__file__).parent.parent.parent / "tools"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module("bench_build")


@pytest.fixture
def paths(bench: Any, tmp_path: Path) -> list[Path]:
    ramp = np.linspace(0, 255, 600 * 400 * 3).astype(np.uint8).reshape(400, 600, 3)
    for number in range(3):
        bench.write(tmp_path / "photos" / f"{number}.jpg", bench.as_jpeg(Image.fromarray(ramp), 90 + number))
    found: list[Path] = bench.listing(tmp_path / "photos", 3)
    return found


def test_every_codec_of_ours_makes_the_same_picture(bench: Any, paths: list[Path], tmp_path: Path) -> None:
    for row in (bench.OURS, bench.OURS_PILLOW, bench.PILLOW):
        out = tmp_path / row.replace(" ", "_")
        out.mkdir()
        run = bench.measure(row, paths, out)
        made = sorted(out.glob("*.made"))
        assert len(made) == 3
        assert run["bytes"] > 0
        assert all(bench.psnr(path.read_bytes(), of) > 35 for path, of in zip(made, paths, strict=True))
    assert bench.psnr(bench.as_jpeg(Image.new("RGB", (384, 256)), 90), paths[0]) < 20


def test_the_build_it_times_publishes_small_images(bench: Any, paths: list[Path], tmp_path: Path) -> None:
    run = bench.measure(bench.BUILD, paths, tmp_path)
    assert run["cpu"] > 0
    images = [sample["image"].array for sample in datakit.open_store(tmp_path / "store")["train"]]
    assert [image.shape for image in images] == [(256, 384, 3)] * 3


@pytest.mark.parametrize(("peer_s", "said"), [(1.7, "reached"), (1.5, "NOT REACHED")])
def test_every_goal_has_a_verdict(bench: Any, peer_s: float, said: str) -> None:
    run = {"cpu": 1.0, "wall": 1.0, "bytes": 1.0, "psnr": [40.0], "count": 1}
    runs = {(kind, row): [run] for kind in ("small", "large") for row in bench.ROWS}
    runs["small", bench.PEER] = [run | {"cpu": peer_s}]
    verdicts = [line for line in bench.table(runs) if "goal" in line]
    assert len(verdicts) == len(bench.GOALS) + 6  # PSNR: two corpora, three codecs
    assert verdicts[0].endswith(f": {said}")
