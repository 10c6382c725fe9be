"""Which OOD classes has the pre-trained backbone seen?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from datakit.check.finding import Finding, first_keys
from datakit.check.sides import OOD_LISTS, count_of, keys_of, only, read_split
from datakit.stage import Ref, Rows, reduce
from datakit.stages.names import canonical


@reduce(version=1)
def check_pretrain_overlap(
    rows: Rows,
    *,
    split: Ref[pa.Table],
    pretrained: Sequence[str],
    seed: int | None = None,
    synonyms: Sequence[Sequence[str]] = (),
) -> list[dict[str, Any]]:
    """OOD test classes that are among the labels a backbone was trained on, by normalised name.

    pretrained: its label names; `great grey owl, Strix nebulosa` counts as two. A class may be known to a
    backbone under a wider name too: this finds the same name only.
    """
    same = canonical(synonyms)
    seen = {same(part) for label in pretrained for part in label.split(",")}
    held = only(read_split(rows, split.value), publish=OOD_LISTS)
    classes = sorted(set(held["class_name"]))
    known = [name for name in classes if same(name) in seen]
    return [
        Finding(
            id="pretrain_overlap",
            severity="info",
            passed=not known,
            count=len(known),
            keys=first_keys(keys_of(held, "class_name", known)),
            value=len(known) / len(classes) if classes else None,
            summary=f"{count_of(len(known), 'OOD class is', 'OOD classes are')} among the "
            f"{len(pretrained)} labels of the pre-training, of {len(classes)}",
            detail={"classes": known},
            seed=seed,
        ).to_json()
    ]
