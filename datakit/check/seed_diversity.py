"""Do the seeds hold out different classes?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pyarrow as pa

from datakit.check.finding import Finding
from datakit.check.sides import only, read_split
from datakit.stage import Ref, Rows, reduce

LIMIT = 0.8  # share of the smaller set of held-out classes that another seed may hold out too


@reduce(version=1)
def check_seed_diversity(
    rows: Rows, *, splits: Sequence[Ref[pa.Table]], seeds: Sequence[int] = (), limit: float = LIMIT
) -> list[dict[str, Any]]:
    """No two seeds hold out the same classes of the main pool, or share more than `limit` of them.

    splits: one a seed. value: the largest overlap. detail: how many classes are ever held out.
    """
    held = [_held_out(rows, split.value) for split in splits]
    names = list(seeds) or list(range(len(splits)))
    overlap = {
        f"{names[i]} and {names[j]}": len(held[i] & held[j]) / max(1, min(len(held[i]), len(held[j])))
        for i, j in combinations(range(len(held)), 2)
    }
    alike = {pair: share for pair, share in overlap.items() if share > limit}
    ever = set().union(*held)
    closest = max(overlap, key=lambda pair: overlap[pair], default="")
    return [
        Finding(
            id="seed_diversity",
            severity="warn",
            passed=not alike,
            count=len(alike),
            value=overlap[closest] if overlap else None,
            limit=limit,
            summary=f"seeds {closest} share {overlap[closest]:.0%} of their held-out classes; "
            f"{len(ever)} classes are held out under some seed"
            if overlap
            else "there is one seed only",
            detail={"overlap": overlap, "ever_held_out": len(ever)},
        ).to_json()
    ]


def _held_out(rows: Rows, split: pa.Table) -> set[str]:
    """Classes of the main pool that the model must not know; far and coarse ones are so under every seed."""
    return set(only(read_split(rows, split, "pool"), pool="main", role=("ood", "val_ood"))["class_name"])
