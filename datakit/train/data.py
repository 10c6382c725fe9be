"""What the `fg_ood` reference loop is fed: arrays by split, of shapes and labels that it can train on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split: images (N, H, W, 3) uint8 RGB, labels (N,) int64 in 0..K-1 or -1 for OOD, class and key by image.

    Raises ValueError where lengths, shapes or types differ from that.
    """

    images_NHWC: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    classes: list[str]
    keys: list[str]

    def __post_init__(self) -> None:
        shape, dtype = self.images_NHWC.shape, self.images_NHWC.dtype
        if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8:
            raise ValueError(f"images must be (N, H, W, 3) uint8, not {shape} {dtype}")
        if not np.issubdtype(self.labels.dtype, np.integer):
            raise ValueError(f"labels must be integers, not {self.labels.dtype}")
        lengths = (shape[0], len(self.labels), len(self.classes), len(self.keys))
        if len(set(lengths)) > 1:
            raise ValueError(f"images, labels, classes and keys differ in number: {lengths}")
        if shape[0] == 0:
            raise ValueError("a split must hold at least one image")

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, kw_only=True)
class LoopData:
    """Splits of one seed. ID: train, val, test. OOD: one split a tier, `val_ood` for choosing detector parameters
    only, `outliers` for training only; without them the methods that need them are not run.

    Raises ValueError if labels are not 0..K-1 in train, an ID split has a foreign label, an OOD image has a label,
    or image sizes differ. A class or key on two sides is trained on as it is: the checks refuse it, by name.
    """

    train: Split
    val: Split
    test: Split
    ood: Mapping[str, Split]
    val_ood: Split | None = None
    outliers: Split | None = None

    def __post_init__(self) -> None:
        if not self.ood:
            raise ValueError("no OOD tier given: nothing to detect")
        if taken := {"train", "val", "test"} & set(self.ood):
            raise ValueError(f"an OOD tier may not be called {min(taken)}")
        if any("/" in tier for tier in self.ood):
            raise ValueError("an OOD tier's name may not hold a slash: it is part of the scores' names")
        self._check_labels()

    @property
    def n_classes(self) -> int:
        return int(self.train.labels.max()) + 1

    def splits(self) -> dict[str, Split]:
        """All splits that are given, by name; OOD tiers as ood/TIER."""
        optional = {"val_ood": self.val_ood, "outliers": self.outliers}
        return {
            "train": self.train,
            "val": self.val,
            "test": self.test,
            **{f"ood/{tier}": split for tier, split in self.ood.items()},
            **{name: split for name, split in optional.items() if split is not None},
        }

    def _check_labels(self) -> None:
        labels = np.unique(self.train.labels)
        if len(labels) < 2 or not np.array_equal(labels, np.arange(len(labels))):
            raise ValueError(
                "train labels must be 0..K-1 without a gap, K >= 2: an empty class is a dead logit"
            )
        shape = self.train.images_NHWC.shape[1:]
        for name, split in self.splits().items():
            inside = name in ("train", "val", "test")
            right = np.isin(split.labels, labels) if inside else split.labels == -1
            if not right.all():
                expected = f"0..{len(labels) - 1}" if inside else "-1, being OOD"
                raise ValueError(f"{name} has label {split.labels[~right][0]} where labels are {expected}")
            if split.images_NHWC.shape[1:] != shape:
                raise ValueError(f"{name} images are {split.images_NHWC.shape[1:]}, those of train {shape}")


def default_k(labels: npt.NDArray[np.integer[Any]]) -> int:
    """Neighbours for a k-NN score: a quarter of a middling class, 1 to 50.

    Sun et al. 2022 take 50 with 5,000 images a class. Where a class has 15, the 50th neighbour is of another class
    for ID and OOD alike: on emoji AUROC falls from 95 (k=3) to 45 (k=50).
    """
    return int(np.clip(np.median(np.bincount(labels)) // 4, 1, 50))
