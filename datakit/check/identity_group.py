"""No identity is on two sides: not a species, a car model, nor one drawing in two skin tones."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from datakit.check.finding import Finding, first_keys
from datakit.check.sides import astride, count_of, keys_of, read_split, used
from datakit.stage import Ref, Rows, reduce

FIELDS = ("identity_group", "variant_group")


@reduce(version=1)
def check_identity_group(
    rows: Rows, *, split: Ref[pa.Table], seed: int | None = None
) -> list[dict[str, Any]]:
    """Each identity_group and each variant_group has images on one side only: ID, OOD, validation OOD or
    outliers. Within ID a variant may be in train and another in test: the source declares them.
    """
    columns = used(read_split(rows, split.value, *FIELDS))
    torn = {field: astride(columns[field], columns["role"]) for field in FIELDS}
    count = sum(map(len, torn.values()))
    groups = sum(len({value for value in columns[field] if value is not None}) for field in FIELDS)
    first = next((f"{field} {value}" for field in FIELDS for value in torn[field]), "")
    return [
        Finding(
            id="identity_group",
            severity="fail",
            passed=not count,
            count=count,
            keys=first_keys(key for field in FIELDS for key in keys_of(columns, field, torn[field])),
            summary=f"{count_of(count, 'group is', 'groups are')} on two sides, as {first}"
            if count
            else f"{count_of(groups, 'group')}, none on two sides",
            detail={field: dict(list(found.items())[:50]) for field, found in torn.items()},
            seed=seed,
        ).to_json()
    ]
