"""Do tiers told by names also lie so in feature space? Reported, never used to choose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datakit.check.finding import Finding
from datakit.check.sides import read_split
from datakit.stage import Ref, Rows, reduce
from datakit.stages.columns import same_order, unit, unit_vectors

ORDER = ("near_ood", "mid_ood", "far_ood")


@reduce(version=1)
def check_tier_sanity(
    rows: Rows, *, split: Ref[pa.Table], features: Ref[Rows], seed: int | None = None
) -> list[dict[str, Any]]:
    """The mean distance of OOD classes to the nearest ID class grows from near over mid to far.

    Distance: 1 - cosine between the class's mean feature direction (test images) and that of an ID class
    (train images). value: Spearman's correlation of tier and distance over classes; above 0 is right.
    """
    same_order(rows, features.value, "features")
    columns = read_split(rows, split.value)
    known = _means(features.value, columns["publish"], columns["class_name"], ("train",))
    held = _means(features.value, columns["publish"], columns["class_name"], ORDER)
    known_ND = np.array(list(known.values()), dtype=np.float32)
    distance = {place: float(1 - (known_ND @ vector).max()) for place, vector in held.items() if known}
    of_tier = {tier: [d for (t, _), d in sorted(distance.items()) if t == tier] for tier in ORDER}
    means = {tier.removesuffix("_ood"): float(np.mean(found)) for tier, found in of_tier.items() if found}
    ranks = [(ORDER.index(tier), d) for (tier, _), d in sorted(distance.items())]
    grows = bool(means) and all(low < high for low, high in pairwise(means.values()))
    words = ", ".join(f"{tier} {mean:.3f}" for tier, mean in means.items())
    return [
        Finding(
            id="tier_sanity",
            severity="warn",
            passed=grows,
            count=0 if grows else 1,
            value=spearman(ranks) if len(means) > 1 else None,
            limit=0.0 if len(means) > 1 else None,
            summary=f"mean feature distance to the nearest ID class {'grows' if grows else 'does not grow'} "
            f"with the tier: {words or 'no tier'}",
            detail={
                "mean_distance": means,
                "classes": {t: len(v) for t, v in of_tier.items() if v},
            },
            seed=seed,
        ).to_json()
    ]


def spearman(pairs: Sequence[tuple[float, float]]) -> float:
    """Rank correlation of the pairs, ties at their mean rank; 0 where either side is constant."""
    first, second = (_ranks(np.array(side)) for side in zip(*pairs, strict=True))
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


def _means(
    features: Rows, publish: list[str], names: list[str], lists: tuple[str, ...]
) -> dict[tuple[str, str], NDArray[np.float32]]:
    """(list, class) → mean direction of its images."""
    members = defaultdict[tuple[str, str], list[int]](list)
    for index, place in enumerate(zip(publish, names, strict=True)):
        if place[0] in lists:
            members[place].append(index)
    return {
        place: unit(unit_vectors(features, np.array(indices), name="features").mean(axis=0, keepdims=True))[0]
        for place, indices in members.items()
    }
