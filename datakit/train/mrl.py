"""Nested embeddings of fixed features: a small Matryoshka trainer, with labels or from pairs of views.

After Kusupati et al. 2022: a projection whose first m numbers are trained to be an embedding by themselves, for every
m of a list of sizes, so that an index may choose a size for each of its steps. Importing this file costs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from datakit.errors import MissingExtra
from datakit.models.projection import Features, Projection
from datakit.train.retrieval_options import MrlOptions

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["MrlOptions", "Nested", "nested_embeddings", "nested_views"]

Labels = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Nested:
    """A trained projection.

    history   epoch (from 1), loss (mean over the steps), and loss_M of each nested size M, supervised only
    settings  options, device, rows, classes or groups, torch's version
    """

    projection: Projection
    history: list[dict[str, float]]
    settings: dict[str, Any]


def nested_embeddings(
    features_ND: Features, labels_N: Labels, *, seed: int, options: MrlOptions | None = None
) -> Nested:
    """Learn from labels: loss = Σ_m c_m · CE(W_m z[:m]), a linear head a size (or MRL-E), thrown away after.

    features_ND: (N, D) of any encoder. labels_N: (N,), ids or names, of two classes or more. dims=(256,) alone is
    the ordinary embedding to compare with. Equal arguments give equal bits on one machine's CPU.
    Raises ValueError for shapes that differ, NaN or a single class, MissingExtra without torch, ConfigError for a
    device that is not there.
    """
    options = options or MrlOptions()
    check_vectors(features_ND, len(labels_N), "labels")
    classes, label_N = np.unique(np.asarray(labels_N), return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"labels are of {len(classes)} class: there is nothing to tell apart")
    loop = torch_loop("nested_fit", "nested embeddings")
    projection, history, device = loop.fit_labels(features_ND, label_N.reshape(-1), options, seed=seed)
    return Nested(
        projection=projection,
        history=history,
        settings=_settings(options, device, rows=len(features_ND), classes=len(classes)),
    )


def nested_views(
    left_ND: Features,
    right_ND: Features,
    *,
    seed: int,
    groups_N: Labels | None = None,
    options: MrlOptions | None = None,
) -> Nested:
    """Learn without labels from two views of the same things (two styles, two crops): row i of both is one pair.

    One projection for both views, symmetric InfoNCE at every nested size, in-batch negatives. groups_N: pairs of one
    group are never negatives of each other; each row is its own group if None. Raises as `nested_embeddings`.
    """
    options = options or MrlOptions()
    check_vectors(left_ND, len(right_ND), "right views")
    check_vectors(right_ND, len(left_ND), "left views")
    if left_ND.shape != right_ND.shape:
        raise ValueError(f"views {left_ND.shape} and {right_ND.shape} must be of one encoder")
    group_N = group_numbers(groups_N, len(left_ND))
    loop = torch_loop("nested_fit", "nested embeddings")
    projection, history, device = loop.fit_views(left_ND, right_ND, group_N, options, seed=seed)
    return Nested(
        projection=projection,
        history=history,
        settings=_settings(options, device, rows=len(left_ND), groups=int(group_N.max()) + 1),
    )


def check_vectors(features_ND: Features, others: int, what: str) -> None:
    """Raises ValueError unless there are as many rows as `others`, at least two, all finite."""
    if features_ND.ndim != 2 or len(features_ND) != others:
        raise ValueError(f"features {features_ND.shape} and {others} {what} do not fit together")
    if len(features_ND) < 2:
        raise ValueError(f"{len(features_ND)} rows are too few to learn from")
    if not np.isfinite(features_ND).all():
        raise ValueError("features hold NaN or infinity")


def group_numbers(groups_N: Labels | None, n: int) -> NDArray[np.int64]:
    """Groups as numbers from 0 on, in the order of their values; every row its own if None."""
    if groups_N is None:
        return np.arange(n)
    if len(groups_N) != n:
        raise ValueError(f"{len(groups_N)} groups for {n} rows")
    return np.unique(np.asarray(groups_N), return_inverse=True)[1].reshape(-1).astype(np.int64)


def torch_loop(name: str, what: str) -> ModuleType:
    """The module of datakit.train that needs torch; MissingExtra where it is not installed."""
    from importlib import import_module

    try:
        return import_module(f"datakit.train.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("datakit"):
            raise
        raise MissingExtra(f"training {what} (no {error.name})", "torch") from error


def _settings(options: MrlOptions, device: str, **sizes: int) -> dict[str, Any]:
    version = torch_loop("runtime", "nested embeddings").version()
    return {"options": options.as_json(), "device": device, "torch": version, **sizes}
