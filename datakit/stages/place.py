"""Where a sample is published that no split was made for: in the split that its source has it in, with its class."""

from __future__ import annotations

import pyarrow.compute as pc

from datakit.stage import Ref, Rows, Sample, batch_stage, reduce, stage
from datakit.stages.columns import read_columns

ONE = "train"  # the split that readers look for where there is one


@reduce(version=1)
def all_classes(rows: Rows) -> list[str]:
    """The names of all classes, sorted: `names[label]`. Empty where no sample has one."""
    found = pc.unique(read_columns(rows, "class_name")["class_name"].combine_chunks()).drop_null()
    return sorted(found.to_pylist())


@stage(version=1)
def describe_class(sample: Sample, *, caption: str) -> Sample:
    """Adds `said`: the text of the column `caption`; where there is none, the name of the class in plain words."""
    text = sample.get(caption)
    named = (sample.get("class_name") or "").replace("_", " ").replace("-", " ").strip()
    return sample | {"said": text if isinstance(text, str) and text.strip() else named or None}


@batch_stage(version=1, size=10_000)
def place(samples: list[Sample], *, classes: Ref[list[str]]) -> list[Sample]:
    """Adds `publish`, the split of the source or `train`, `reason` (always null), and `label`: -1 without a class."""
    label = {name: number for number, name in enumerate(classes.value)}
    return [
        sample
        | {
            "publish": sample.get("source_split") or sample.get("official_split") or ONE,
            "reason": None,
            "label": label.get(sample.get("class_name") or "", -1),
        }
        for sample in samples
    ]
