"""Training outliers that look like test images, whatever their label says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from datakit.check.finding import Finding, first_keys
from datakit.check.sides import OOD_LISTS, count_of, read_split
from datakit.stage import Ref, Rows, reduce
from datakit.stages.columns import Ints, same_order, unit_vectors

ROUNDING = 1e-4  # of a cosine
BLOCK = 2048  # outliers multiplied with all test images at a time


@reduce(version=1)
def check_outlier_similarity(
    rows: Rows,
    *,
    split: Ref[pa.Table],
    features: Ref[Rows],
    max_sim_to_test: float,
    seed: int | None = None,
) -> list[dict[str, Any]]:
    """No outlier has a feature cosine above `max_sim_to_test` to an image of ID test or OOD test.

    Web labels are noisy: a filter by concept lets look-alikes through. value: the largest similarity.
    """
    same_order(rows, features.value, "features")
    columns = read_split(rows, split.value)
    publish = np.array(columns["publish"])
    outliers = np.flatnonzero(publish == "outliers")
    nearest, similarity = _nearest(
        features.value, outliers, np.flatnonzero(np.isin(publish, ["test", *OOD_LISTS]))
    )
    close = np.flatnonzero(similarity > max_sim_to_test + ROUNDING)
    close = close[np.argsort(-similarity[close], kind="stable")]
    largest = float(similarity.max()) if len(similarity) else None
    pairs = [
        [columns["key"][outliers[i]], columns["key"][nearest[i]], round(float(similarity[i]), 4)]
        for i in close[:50]
    ]
    return [
        Finding(
            id="outlier_similarity",
            severity="warn",
            passed=not len(close),
            count=len(close),
            keys=first_keys(columns["key"][outliers[i]] for i in close),
            value=largest,
            limit=max_sim_to_test,
            summary=f"{count_of(len(close), 'outlier looks', 'outliers look')} like a test image"
            if len(close)
            else f"{count_of(len(outliers), 'outlier')}, none looks like a test image",
            detail={"pairs": pairs},
            seed=seed,
        ).to_json()
    ]


def _nearest(features: Rows, outliers: Ints, tests: Ints) -> tuple[Ints, np.typing.NDArray[np.float32]]:
    """(row of the nearest test image, cosine to it) of each outlier; empty where there is nothing to compare."""
    if not len(outliers) or not len(tests):
        return np.empty(0, np.int64), np.empty(0, np.float32)
    test_ND = unit_vectors(features, tests, name="features")
    best, cosine = [], []
    for first in range(0, len(outliers), BLOCK):
        sims = unit_vectors(features, outliers[first : first + BLOCK], name="features") @ test_ND.T
        best.append(tests[sims.argmax(axis=1)])
        cosine.append(sims.max(axis=1))
    return np.concatenate(best), np.concatenate(cosine)
