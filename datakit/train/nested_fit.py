"""The training loop of nested embeddings: AdamW on a cosine, one projection, and heads where there are labels.

Not run on a GPU: the device is an argument and all data go to it at once, but only the CPU was tried.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from datakit.models.projection import Features, Projection
from datakit.rng import rng_for
from datakit.train.nested_heads import NestedHeads, nested_cross_entropy
from datakit.train.pair_loss import info_nce, nested
from datakit.train.retrieval_options import DualOptions, MrlOptions
from datakit.train.runtime import pick_device, reproducible, seeded
from datakit.train.tower import Tower

Trained = tuple[Projection, list[dict[str, float]], str]
Ints = NDArray[np.integer]


def fit_labels(features_ND: Features, label_N: Ints, options: MrlOptions, *, seed: int) -> Trained:
    """See `mrl.nested_embeddings`; labels are 0..K-1."""
    device = pick_device(options.device)
    with reproducible(), seeded(seed, "nested embeddings"):
        tower = tower_of(features_ND, options).to(device)
        heads = NestedHeads(options.dims, int(label_N.max()) + 1, shared=options.shared).to(device)
        x_ND, y_N = on_device(features_ND, device), torch.from_numpy(label_N.astype(np.int64)).to(device)
        optimizer = Cosine(nn.ModuleList([tower, heads]), options, rows=len(x_ND))
        history: list[dict[str, float]] = []
        for epoch in range(options.epochs):
            losses: list[list[float]] = []
            for rows_B in batches(len(x_ND), options.batch_size, seed, "nested embeddings", epoch):
                rows = torch.from_numpy(rows_B).to(device)
                logits = heads(tower(x_ND[rows]))
                loss, parts_M = nested_cross_entropy(logits, y_N[rows], options.weights or None)
                optimizer.step(loss)
                losses.append([loss.item(), *parts_M.tolist()])
            mean, *by_size = (math.fsum(column) / len(losses) for column in zip(*losses, strict=True))
            sizes = {f"loss_{m}": value for m, value in zip(options.dims, by_size, strict=True)}
            history.append({"epoch": epoch + 1, "loss": mean, **sizes})
    return tower.projection(options.dims), history, str(device)


def fit_views(
    left_ND: Features, right_ND: Features, group_N: Ints, options: MrlOptions, *, seed: int
) -> Trained:
    """See `mrl.nested_views`; groups are numbers."""
    device = pick_device(options.device)
    loss_of = nested(
        lambda a, b, group: info_nce(a, b, group, scale=1 / options.temperature),
        options.dims,
        options.weights or None,
    )
    with reproducible(), seeded(seed, "nested views"):
        tower = tower_of(np.concatenate([left_ND, right_ND]), options).to(device)
        left, right = on_device(left_ND, device), on_device(right_ND, device)
        group = torch.from_numpy(group_N).to(device)
        optimizer = Cosine(tower, options, rows=len(left))
        history: list[dict[str, float]] = []
        for epoch in range(options.epochs):
            losses: list[float] = []
            for rows_B in batches(len(left), options.batch_size, seed, "nested views", epoch):
                rows = torch.from_numpy(rows_B).to(device)
                loss = loss_of(tower(left[rows]), tower(right[rows]), group[rows])
                optimizer.step(loss)
                losses.append(loss.item())
            history.append({"epoch": epoch + 1, "loss": math.fsum(losses) / len(losses)})
    return tower.projection(options.dims), history, str(device)


class Cosine:
    """AdamW whose rate falls to 0 on a half cosine over all steps of a training."""

    def __init__(self, model: nn.Module, options: MrlOptions | DualOptions, *, rows: int) -> None:
        steps = options.epochs * len(starts(rows, options.batch_size))
        self._optimizer = torch.optim.AdamW(
            model.parameters(), lr=options.lr, weight_decay=options.weight_decay
        )
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, T_max=steps)

    def step(self, loss: Tensor) -> None:
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._schedule.step()


def batches(n: int, size: int, seed: int, *names: str | int) -> Iterator[NDArray[np.int64]]:
    """Rows of n in a fresh order, by (seed, names); a rest of fewer than two is left out of this epoch."""
    order = rng_for(seed, *names, "batches").permutation(n)
    for start in starts(n, size):
        yield order[start : start + size]


def starts(n: int, size: int) -> range:
    """Where batches begin; one row alone has no negative, so the last one does not begin at the last row."""
    return range(0, max(1, n - 1), size)


def on_device(features_ND: Features, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(features_ND, dtype=np.float32)).to(device)


def tower_of(features_ND: Features, options: MrlOptions | DualOptions) -> Tower:
    return Tower(features_ND, options.dims[-1], hidden=options.hidden, dropout=options.dropout)
