"""Procedural pictures, 32 px: shape is family, stripes are species; near OOD is a new species, far a new family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from datakit.rng import rng_for
from datakit.train.data import LoopData, Split
from datakit.train.ood_loop import run_loop
from datakit.train.options import LoopOptions
from datakit.train.results import LoopResult

SIDE = 32
FAMILIES = ("disc", "box", "wedge")
SPECIES = tuple((angle, pitch) for angle in (0.0, 0.785, 1.571, 2.356) for pitch in (6.0, 11.0))
ID_SPECIES = 4  # of the eight a family has; the next two are near OOD


def draw(family: str, species: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """One picture: a striped shape of any colours, a little off the centre, on a flat noisy ground."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float64) - SIDE / 2 - rng.uniform(-3, 3, size=2)[:, None, None]
    radius, (angle, pitch) = rng.uniform(10, 13), SPECIES[species]
    inside = {
        "disc": x**2 + y**2 < radius**2,
        "box": np.maximum(abs(x), abs(y)) < radius * 0.85,
        "wedge": (y < radius * 0.7) & (y > 2 * abs(x) - radius),
        "ring": abs(np.hypot(x, y) - radius * 0.8) < 2.5,
        "cross": (np.minimum(abs(x), abs(y)) < 3) & (np.maximum(abs(x), abs(y)) < radius),
        "bars": (abs(abs(x) - radius / 2) < 2) & (abs(y) < radius),
        "frame": (np.maximum(abs(x), abs(y)) < radius) & (np.maximum(abs(x), abs(y)) > radius - 3),
    }[family]
    stripe = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / pitch + rng.uniform(0, 6.28)) > 0
    ground, dark, light = rng.uniform(120, 160, 3), rng.uniform(0, 90, 3), rng.uniform(180, 255, 3)
    image = np.where(inside[..., None], np.where(stripe[..., None], light, dark), ground)
    return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


def split(name: str, kinds: list[tuple[str, int]], each: int, *, labelled: bool) -> Split:
    """`each` pictures of every (family, species); labels count the kinds, or are -1."""
    rng = rng_for(0, "toy pictures", name)
    images = [draw(family, species, rng) for family, species in kinds for _ in range(each)]
    return Split(
        images_NHWC=np.stack(images),
        labels=np.repeat(np.arange(len(kinds)) if labelled else np.full(len(kinds), -1), each).astype(
            np.int64
        ),
        classes=[f"{family}-{species}" for family, species in kinds for _ in range(each)],
        keys=[f"{name}/{number}" for number in range(len(images))],
    )


def toy_data(*, train_each: int = 50, each: int = 20) -> LoopData:
    """12 ID classes, 6 near-OOD classes, 4 far ones, 4 outlier ones."""
    inside = [(family, species) for family in FAMILIES for species in range(ID_SPECIES)]
    near = [(family, species) for family in FAMILIES for species in range(ID_SPECIES, ID_SPECIES + 2)]
    far = [(family, species) for family in ("ring", "cross") for species in (0, 5)]
    outliers = [(family, species) for family in ("bars", "frame") for species in (2, 7)]
    return LoopData(
        train=split("train", inside, train_each, labelled=True),
        val=split("val", inside, each, labelled=True),
        test=split("test", inside, each, labelled=True),
        ood={
            "near": split("near", near, each, labelled=False),
            "far": split("far", far, 2 * each, labelled=False),
        },
        outliers=split("outliers", outliers, 4 * each, labelled=False),
    )


@dataclass(frozen=True)
class ToyRun:
    data: LoopData
    options: LoopOptions
    result: LoopResult

    def row(self, method: str, detector: str, tier: str) -> dict[str, Any]:
        wanted = {"method": method, "detector": detector, "tier": tier}
        (row,) = (row for row in self.result.rows if wanted.items() <= row.items())
        return row

    def accuracy(self, method: str) -> float:
        (row,) = (row for row in self.result.accuracy if row["method"] == method)
        return float(row["test"])


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Two cores shared by several test runs: a second thread only waits."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy_run() -> ToyRun:
    """One whole run, learned to 99 %: every method, every detector."""
    data = toy_data()
    options = LoopOptions(
        size=SIDE, epochs=12, finetune_epochs=3, batch_size=16, lr=0.05, bootstrap=100, device="cpu"
    )
    return ToyRun(data, options, run_loop(data, options, seed=0))


@pytest.fixture(scope="session")
def small_data() -> LoopData:
    """Enough to run every line, not to learn."""
    return toy_data(train_each=6, each=3)
