"""The training loop of the reference classifiers, and what a trained one says about images.

Not run on a GPU: the device is an argument and every batch is moved to it, but only the CPU was tried.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datakit.rng import rng_for
from datakit.train.augment import Images, batch, pad, to_tensor
from datakit.train.backbone import Classifier
from datakit.train.outlier_exposure import Loss
from datakit.train.runtime import seeded

MOMENTUM = 0.9
WARMUP = 0.1  # share of the steps in which the rate rises to its peak
EVAL_BATCH = 256

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how fast one training goes; `lr` is the peak of the cosine."""

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    hflip: bool
    device: torch.device


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """ID images (N, H, W, 3) uint8 with labels (N,), and outliers where the loss wants them."""

    images_NHWC: Images
    labels: npt.NDArray[np.int64]
    outliers_NHWC: Images | None = None


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a model says about one split, on the CPU: images as given, feature_ND, logit_NK float32."""

    images_NHWC: Images
    feature_ND: Tensor
    logit_NK: Tensor

    def predictions(self) -> npt.NDArray[np.int64]:
        return np.asarray(self.logit_NK.argmax(dim=1).numpy(), dtype=np.int64)


def fit(
    model: Classifier, data: TrainingSet, loss: Loss, plan: Plan, *, seed: int, name: str
) -> Iterator[tuple[int, float]]:
    """Train in place, by SGD with Nesterov momentum, the rate on a cosine by step; yields (epoch, mean loss).

    The weights to use are those after the last epoch: at the foot of the cosine they are the best in practice, and
    choosing an epoch by ID-val accuracy would make val look more in-distribution than test.
    Every order, view and dropout comes from (seed, name): equal runs are equal bit for bit on one thread.
    """
    optimizer = torch.optim.SGD(
        model.parameters(), lr=plan.lr, momentum=MOMENTUM, weight_decay=plan.weight_decay, nesterov=True
    )
    batches = _Batches(data, plan, seed=seed, name=name)
    total = plan.epochs * batches.steps
    for epoch in range(plan.epochs):
        model.train()
        losses: list[float] = []
        with seeded(seed, name, "dropout", epoch):
            for step, (image_NCHW, label_N, outlier_NCHW) in enumerate(batches.epoch(epoch)):
                _set_rate(optimizer, plan.lr * cosine((epoch * batches.steps + step) / total))
                value = loss(model, image_NCHW, label_N, outlier_NCHW)
                optimizer.zero_grad()
                value.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses.append(value.item())
        yield epoch, math.fsum(losses) / len(losses)


def cosine(progress: float) -> float:
    """Share of the peak rate at `progress` in [0, 1]: a linear rise over WARMUP, then a half cosine to 0."""
    if progress < WARMUP:
        return (progress + 0.01) / (WARMUP + 0.01)
    return (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP))) / 2


def predict(model: Classifier, images_NHWC: Images, device: torch.device) -> Outputs:
    """Features and logits of images as they are, in evaluation mode, without gradients."""
    model.eval()
    parts: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        for start in range(0, len(images_NHWC), EVAL_BATCH):
            feature_ND, logit_NK = model(to_tensor(images_NHWC[start : start + EVAL_BATCH], device))
            parts.append((feature_ND.float().cpu(), logit_NK.float().cpu()))
    features, logits = zip(*parts, strict=True)
    return Outputs(images_NHWC=images_NHWC, feature_ND=torch.cat(features), logit_NK=torch.cat(logits))


class _Batches:
    """Batches of one training: a fresh order an epoch, the last partial batch left out, as many outliers as images."""

    def __init__(self, data: TrainingSet, plan: Plan, *, seed: int, name: str) -> None:
        self._images = pad(data.images_NHWC)
        self._outliers = None if data.outliers_NHWC is None else pad(data.outliers_NHWC)
        self._labels = torch.from_numpy(data.labels)
        self._plan, self._seed, self._name = plan, seed, name
        self._size = min(plan.batch_size, len(self._images))
        self.steps = len(self._images) // self._size

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        rng = rng_for(self._seed, self._name, "batches", epoch)
        order = rng.permutation(len(self._images))
        others = None if self._outliers is None else _cycle(rng, len(self._outliers), self.steps * self._size)
        for start in range(0, self.steps * self._size, self._size):
            rows_N = order[start : start + self._size]
            label_N = self._labels[torch.from_numpy(rows_N)].to(self._plan.device)
            outlier_NCHW = None
            image_NCHW = batch(self._images, rows_N, rng, hflip=self._plan.hflip, device=self._plan.device)
            if self._outliers is not None and others is not None:
                rows_N = others[start : start + self._size]
                outlier_NCHW = batch(
                    self._outliers, rows_N, rng, hflip=self._plan.hflip, device=self._plan.device
                )
            yield image_NCHW, label_N, outlier_NCHW


def _cycle(rng: np.random.Generator, n: int, length: int) -> Rows:
    """`length` rows of n: whole permutations one after another, so that no outlier is far ahead of the others."""
    return np.concatenate([rng.permutation(n) for _ in range(-(-length // n))])[:length]


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
