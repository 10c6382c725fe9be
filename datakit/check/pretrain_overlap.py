"""Which OOD classes have the pre-trained models seen?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from datakit.check.finding import Finding, first_keys
from datakit.check.sides import OOD_LISTS, count_of, keys_of, only, read_split
from datakit.stage import Ref, Rows, reduce
from datakit.stages.names import canonical


@reduce(version=2)
def check_pretrain_overlap(
    rows: Rows,
    *,
    split: Ref[pa.Table],
    pretrained: Mapping[str, Sequence[str]],
    seed: int | None = None,
    synonyms: Sequence[Sequence[str]] = (),
) -> list[dict[str, Any]]:
    """OOD test classes that are among the labels a model was trained on, by normalised name.

    pretrained: model → its label names, none if they are not known: then nothing is claimed of it, and the
    check does not pass. `great grey owl, Strix nebulosa` counts as two names. A class may be known to a model
    under a wider name too: this finds the same name only.
    """
    same = canonical(synonyms)
    seen = {same(part) for labels in pretrained.values() for label in labels for part in label.split(",")}
    told = [model for model, labels in pretrained.items() if labels]
    untold = [model for model, labels in pretrained.items() if not labels]
    held = only(read_split(rows, split.value), publish=OOD_LISTS)
    classes = sorted(set(held["class_name"]))
    known = [name for name in classes if same(name) in seen]
    return [
        Finding(
            id="pretrain_overlap",
            severity="info",
            passed=not known and not untold,
            count=len(known),
            keys=first_keys(keys_of(held, "class_name", known)),
            value=len(known) / len(classes) if classes and told else None,
            summary=_summary(len(known), len(classes), told, untold),
            detail={"classes": known, "not_known": untold},
            seed=seed,
        ).to_json()
    ]


def _summary(known: int, classes: int, told: Sequence[str], untold: Sequence[str]) -> str:
    found = f"{count_of(known, 'OOD class is', 'OOD classes are')} among the labels of {', '.join(told)}, of {classes}"
    missing = f"the labels of the pre-training of {', '.join(untold)} are not known"
    return "; ".join([found] * bool(told) + [missing] * bool(untold)) or "no model was trained before"
