"""No image is in two lists, byte for byte; beside it, torn bursts and images under two classes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa

from datakit.check.finding import Finding, first_keys
from datakit.check.sides import Columns, astride, count_of, keys_of, only, read_split, used
from datakit.stage import Ref, Rows, reduce


@reduce(version=2)
def check_image_disjoint(
    rows: Rows, *, split: Ref[pa.Table], seed: int | None = None
) -> list[dict[str, Any]]:
    """Equal bytes (`content`) lie in one published list only, and keys are unique. Beside it, as warnings of
    their own, `capture_group`: a burst, photographer or page torn between the ID lists; and `image_classes`: equal
    bytes under two classes. That is no fault of the split: no choice of list mends it, only the source's labels
    (emoji draws the flags of Norway and of Svalbard alike).
    """
    columns = used(read_split(rows, split.value, "content", "capture_group"))
    torn = astride(columns["content"], columns["publish"])
    repeated = {key: times for key, times in Counter(columns["key"]).items() if times > 1}
    extra = sum(repeated.values()) - len(repeated)
    count = len(torn) + extra
    first = next((f", as in {' and '.join(lists)}" for lists in torn.values()), "")
    exact = Finding(
        id="image_disjoint",
        severity="fail",
        passed=not count,
        count=count,
        keys=first_keys([*repeated, *keys_of(columns, "content", torn)]),
        summary=f"{count_of(count, 'image is', 'images are')} used twice{first}"
        if count
        else f"{count_of(len(columns['key']), 'image')}, none in two lists",
        detail={"lists": dict(list(torn.items())[:50]), "repeated_keys": extra},
        seed=seed,
    )
    return [exact.to_json(), *_captures(only(columns, role="id"), seed), *_two_classes(columns, seed)]


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


def _two_classes(columns: Columns, seed: int | None) -> list[dict[str, Any]]:
    clash = astride(columns["content"], columns["class_name"])
    if not clash:
        return []
    first = " and ".join(next(iter(clash.values()))[:2])
    return [
        Finding(
            id="image_classes",
            severity="warn",
            passed=False,
            count=len(clash),
            keys=first_keys(keys_of(columns, "content", clash)),
            summary=f"{count_of(len(clash), 'image is', 'images are')} of two classes, as {first}",
            detail={"classes": dict(list(clash.items())[:50])},
            seed=seed,
        ).to_json()
    ]
