"""No image is used twice, byte for byte; and no burst of one camera is in train and test."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from datakit.check.finding import Finding, first_keys
from datakit.check.sides import Columns, astride, count_of, keys_of, only, read_split, used
from datakit.stage import Ref, Rows, reduce


@reduce(version=1)
def check_image_disjoint(
    rows: Rows, *, split: Ref[pa.Table], seed: int | None = None
) -> list[dict[str, Any]]:
    """Equal bytes (`content`) lie in one published list only, and keys are unique. Beside it, as a warning of
    its own, `capture_group`: a burst, photographer or page torn between the ID lists.
    """
    columns = used(read_split(rows, split.value, "content", "capture_group"))
    torn = astride(columns["content"], columns["publish"])
    repeated = len(columns["key"]) - len(set(columns["key"]))
    count = len(torn) + repeated
    first = next((f", as in {' and '.join(lists)}" for lists in torn.values()), "")
    exact = Finding(
        id="image_disjoint",
        severity="fail",
        passed=not count,
        count=count,
        keys=first_keys(keys_of(columns, "content", torn)),
        summary=f"{count_of(count, 'image is', 'images are')} used twice{first}"
        if count
        else f"{count_of(len(columns['key']), 'image')}, none used twice",
        detail={"lists": dict(list(torn.items())[:50]), "repeated_keys": repeated},
        seed=seed,
    )
    return [exact.to_json(), *_captures(only(columns, role="id"), seed)]


def _captures(known: Columns, seed: int | None) -> list[dict[str, Any]]:
    if not any(known["capture_group"]):
        return []
    torn = astride(known["capture_group"], known["publish"])
    return [
        Finding(
            id="capture_group",
            severity="warn",
            passed=not torn,
            count=len(torn),
            keys=first_keys(keys_of(known, "capture_group", torn)),
            summary=f"{count_of(len(torn), 'capture group')} in more than one of train, val and test",
            detail={"lists": dict(list(torn.items())[:50])},
            seed=seed,
        ).to_json()
    ]
