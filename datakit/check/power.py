"""Is the test large enough to tell two methods apart?"""

from __future__ import annotations

from collections import Counter
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa

from datakit.check.finding import Finding
from datakit.check.sides import OOD_LISTS, only, read_split
from datakit.rng import rng_for
from datakit.stage import Ref, Rows, reduce

MIN_CLASSES, MIN_IMAGES = 20, 500
TRUE_AUROC = 0.8  # of the imagined detector, a usual one on near OOD
CLASS_SPREAD = 0.5  # between OOD classes, in standard deviations of the scores within one
DRAWS = 200
MOST = 5000  # images simulated a side; more would not widen or narrow what is printed


@reduce(version=1)
def check_power(
    rows: Rows,
    *,
    split: Ref[pa.Table],
    seed: int | None = None,
    min_classes: int = MIN_CLASSES,
    min_images: int = MIN_IMAGES,
) -> list[dict[str, Any]]:
    """Each fine tier has at least `min_classes` OOD classes and `min_images` images.

    value: how wide the 95% interval of an AUROC near 0.8 must be expected to be on the weakest tier, over
    another draw of its classes and images. Methods that differ by much less cannot be told apart here.
    """
    columns = read_split(rows, split.value)
    n_id = columns["publish"].count("test")
    tiers: dict[str, dict[str, float]] = {}
    for tier in OOD_LISTS[:3]:
        sizes = Counter(only(columns, publish=tier)["class_name"])
        if sizes:
            images = sorted(sizes.values())
            width = expected_width(n_id, images)
            tiers[tier] = {"classes": len(images), "images": sum(images), "ci_width": width}
    weak = [t for t, at in tiers.items() if at["classes"] < min_classes or at["images"] < min_images]
    words = [
        f"{t.removesuffix('_ood')} has {at['classes']} classes and {at['images']} images (95% interval of "
        f"an AUROC about {at['ci_width']:.3f} wide)"
        for t, at in tiers.items()
    ]
    return [
        Finding(
            id="power",
            severity="warn",
            passed=bool(tiers) and not weak,
            count=len(weak),
            value=max((at["ci_width"] for at in tiers.values()), default=None),
            summary="; ".join(words) or "there is no OOD test image",
            detail={"tiers": tiers, "id_images": n_id},
            seed=seed,
        ).to_json()
    ]


def expected_width(n_id: int, ood_sizes: list[int]) -> float:
    """Width of the 95% interval of an AUROC near 0.8 with n_id ID images and `ood_sizes` images a class.

    From simulated scores: ID normal; OOD normal about a mean of its class, which is normal too. In [0, 1].
    """
    if not n_id:
        return 1.0
    rng = rng_for(0, "power")
    share = min(1.0, MOST / sum(ood_sizes))
    sizes = np.maximum(1, np.round(np.array(ood_sizes) * share)).astype(int)
    below = NormalDist().inv_cdf(TRUE_AUROC) * (2 + CLASS_SPREAD**2) ** 0.5
    found = []
    for _ in range(DRAWS):
        id_scores = np.sort(rng.standard_normal(min(n_id, MOST)))
        means = np.repeat(CLASS_SPREAD * rng.standard_normal(len(sizes)) - below, sizes)
        ood_scores = means + rng.standard_normal(len(means))
        found.append(1 - float(np.searchsorted(id_scores, ood_scores).mean()) / len(id_scores))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(high - low)
