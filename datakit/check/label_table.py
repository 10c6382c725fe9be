"""Labels are whole: 0 … K-1 without a gap, one class each, every ID class in train, val and test."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import pyarrow as pa

from datakit.check.finding import Finding, first_keys
from datakit.check.sides import Columns, keys_of, only, read_split
from datakit.stage import Ref, Rows, reduce


@reduce(version=1)
def check_label_table(
    rows: Rows,
    *,
    split: Ref[pa.Table],
    seed: int | None = None,
    label_base: int | None = None,
    label_count: int | None = None,
) -> list[dict[str, Any]]:
    """Labels of ID are 0 … K-1 in the order of the class names, all others -1; an ID class has train, val
    and test images; in a source a label means one class and a class has one label, which is kept; every image
    left out has a reason. With label_base and label_count, the labels of the main pool must be exactly those:
    a declared label without images is a class that the model can never learn.
    """
    columns = read_split(rows, split.value, "pool", "catalog", "orig_label")
    problems = {
        "wrong label": _wrong_labels(columns),
        "label outside ID": _labels_outside_id(columns),
        "ID class without train, val or test": _incomplete(columns),
        "left out without a reason": _silent(columns),
        "label and class not one to one": _ambiguous(columns),
        "original label lost or changed": _changed(columns, split.value["orig_label"].to_pylist()),
        "phantom or undeclared label": _undeclared(columns, label_base, label_count),
    }
    bad = {name: found for name, found in problems.items() if found}
    classes = len(set(only(columns, role="id")["class_name"]))
    summary = "; ".join(f"{name}: {found[0]}" for name, found in bad.items())
    return [
        Finding(
            id="label_table",
            severity="fail",
            passed=not bad,
            count=sum(map(len, bad.values())),
            keys=first_keys(keys_of(columns, "class_name", _incomplete(columns))),
            summary=summary or f"{classes} ID classes have the labels 0 to {classes - 1}",
            detail={
                "id_classes": classes,
                "left_out": dict(sorted(Counter(filter(None, columns["reason"])).items())),
                **{name: found[:50] for name, found in bad.items()},
            },
            seed=seed,
        ).to_json()
    ]


def _wrong_labels(columns: Columns) -> list[str]:
    known = only(columns, role="id")
    pairs = set(zip(known["label"], known["class_name"], strict=True))
    right = set(enumerate(sorted({name for _, name in pairs})))
    if not pairs:
        return ["there is no ID class"]
    return [f"{name} has {label}" for label, name in sorted(pairs - right)]


def _labels_outside_id(columns: Columns) -> list[str]:
    others = only(columns, role=("ood", "val_ood", "outlier", "unused"))
    pairs = set(zip(others["class_name"], others["label"], strict=True))
    return sorted(f"{name} has {label}" for name, label in pairs if label != -1)


def _incomplete(columns: Columns) -> list[str]:
    parts = defaultdict[str, set[str]](set)
    for name, role, part in zip(columns["class_name"], columns["role"], columns["split"], strict=True):
        if role == "id":
            parts[name].add(part)
    return sorted(name for name, found in parts.items() if found != {"train", "val", "test"})


def _silent(columns: Columns) -> list[str]:
    left = only(columns, role="unused")
    return sorted(key for key, reason in zip(left["key"], left["reason"], strict=True) if not reason)


def _ambiguous(columns: Columns) -> list[str]:
    """Classes with two labels and labels of two classes, catalog by catalog."""
    classes, labels = defaultdict[Any, set[Any]](set), defaultdict[Any, set[Any]](set)
    names = ("catalog", "class_name", "orig_label")
    for catalog, name, label in set(zip(*(columns[column] for column in names), strict=True)):
        if name is not None and label is not None:
            classes[catalog, label].add(name)
            labels[catalog, name].add(label)
    twice = [f"label {label} is {sorted(found)}" for (_, label), found in classes.items() if len(found) > 1]
    torn = [f"{name} is {sorted(found)}" for (_, name), found in labels.items() if len(found) > 1]
    return sorted(twice + torn)


def _changed(columns: Columns, stored: list[int | None]) -> list[str]:
    """Keys whose original label in the split is not the one in the rows."""
    pairs = zip(columns["key"], columns["orig_label"], stored, strict=True)
    return sorted(key for key, label, told in pairs if label != told)


def _undeclared(columns: Columns, base: int | None, count: int | None) -> list[str]:
    if base is None or count is None:
        return []
    main = only(columns, pool="main")
    present = {label for label in main["orig_label"] if label is not None}
    declared = set(range(base, base + count))
    return [f"{label} has no image" for label in sorted(declared - present)] + [
        f"{label} is not among {base} … {base + count - 1}" for label in sorted(present - declared)
    ]
