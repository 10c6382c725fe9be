"""What an index learned, to encode more rows by; or learned anew of the rows that it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from datakit.errors import StoreError
from datakit.index.arrays import Floats, Longs
from datakit.index.base import Base, axes_of, learned
from datakit.index.build import Trained, sample_rows, train
from datakit.index.spec import Spec, settled


def as_learned(path: Path, about: Mapping[str, Any]) -> Trained:
    """As it was when the base was built. Raises StoreError naming the file that is damaged."""
    spec, arrays = learned(path, about)
    axes = axes_of(spec, arrays, about)
    found = Trained(
        spec=spec,
        dim=about["dim"],
        axes=axes,
        centroids=arrays["centroids"],
        means=arrays["means"],
        empty=arrays["empty"].tobytes(),
    )
    if found.empty:
        try:
            lists = found.lists()
        except RuntimeError as problem:
            raise StoreError(
                f"{path / about['base']['axes']}: its lists cannot be read: {problem}"
            ) from problem
        if (lists.nlist, lists.d, lists.ntotal) != (*found.means.shape, 0):
            raise StoreError(f"{path / about['base']['axes']}: its lists are others than its centroids'")
    return found


def unlearned(path: Path, about: Mapping[str, Any], left: Longs) -> Longs:
    """Places in `left` of rows that nothing was learned from: those held out then, and those added since."""
    held = learned(path, about)[1]["held"]
    return np.flatnonzero(np.isin(left, held) | (left >= about["rows"]))


def learned_anew(base: Base, points: Floats, rows: int) -> Trained:
    """Axes, lists and codes of these points; in the same space, so that they are compared as they were."""
    spec, dim = base.spec, points.shape[1]
    free = replace(spec.coarse, nlist=0)
    if settled(replace(spec, coarse=free), rows=rows, dim=dim).coarse != spec.coarse:
        free = spec.coarse  # asked for, and not chosen
    bare: Spec = replace(spec, coarse=free, space=replace(spec.space, center=False))
    sample = points[sample_rows(len(points), settled(bare, rows=len(points), dim=dim))]
    if spec.space.metric == "cosine":
        sample = sample[sample.any(axis=1)]  # the centre itself has no direction
    trained = train(sample, bare, rows=len(points))
    return replace(
        trained,
        spec=replace(trained.spec, space=spec.space),
        axes=replace(trained.axes, center=base.axes.center),
    )
