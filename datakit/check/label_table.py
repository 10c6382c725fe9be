"""Labels are whole: 0 … K-1 without a gap, one class each, every ID class in train, val and test."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from datakit.check.finding import Finding, first_keys
from datakit.check.sides import LISTS, Columns, only, read_split
from datakit.stage import Ref, Rows, reduce
from datakit.stages.columns import read_columns

Problems = dict[str, list[str]]  # what is wrong, in words → the keys of the images that say so


@reduce(version=3)
def check_label_table(
    rows: Rows,
    *,
    split: Ref[pa.Table],
    seed: int | None = None,
    label_base: int | None = None,
    label_count: int | None = None,
) -> list[dict[str, Any]]:
    """Labels of ID are 0 … K-1 in the order of the class names, all others -1; an ID class has train, val
    and test images; the class of an image is the one it came with; role, part and tier are those of the list it
    is published in, on which all other checks rely; in a source a label means one class and a class has one
    label, which is kept; every image left out has a reason. With label_base and label_count, the labels of the
    main pool must be exactly those: a declared label without images is a class that the model can never learn.
    """
    columns = read_split(rows, split.value, "pool", "catalog", "orig_label")
    problems = {
        "wrong label": _wrong_labels(columns),
        "label outside ID": _labels_outside_id(columns),
        "ID class without train, val or test": _incomplete(columns),
        "published as what it is not": _misplaced(columns),
        "left out without a reason": _silent(columns),
        "label and class not one to one": _ambiguous(columns),
        "class of another": _renamed(columns, read_columns(rows, "class_name")["class_name"].to_pylist()),
        "original label lost or changed": _changed(columns, split.value["orig_label"].to_pylist()),
        "phantom or undeclared label": _undeclared(columns, label_base, label_count),
    }
    bad = {name: sorted(found) for name, found in problems.items() if found}
    classes = len(set(only(columns, role="id")["class_name"]))
    summary = "; ".join(f"{name}: {found[0]}" for name, found in bad.items())
    return [
        Finding(
            id="label_table",
            severity="fail",
            passed=not bad,
            count=sum(map(len, bad.values())),
            keys=first_keys(key for found in problems.values() for keys in found.values() for key in keys),
            summary=summary or f"{classes} ID classes have the labels 0 to {classes - 1}",
            detail={
                "id_classes": classes,
                "left_out": dict(sorted(Counter(filter(None, columns["reason"])).items())),
                **{name: found[:50] for name, found in bad.items()},
            },
            seed=seed,
        ).to_json()
    ]


def _gathered(texts: Iterable[str | None], keys: Iterable[str]) -> Problems:
    """The texts that are there, each with its keys."""
    found = defaultdict[str, list[str]](list)
    for text, key in zip(texts, keys, strict=True):
        if text is not None:
            found[text].append(key)
    return found


def _wrong_labels(columns: Columns) -> Problems:
    known = only(columns, role="id")
    right = {name: label for label, name in enumerate(sorted(set(known["class_name"])))}
    if not right:
        return {"there is no ID class": []}
    pairs = zip(known["class_name"], known["label"], strict=True)
    return _gathered(
        (f"{name} has {label}" if label != right[name] else None for name, label in pairs), known["key"]
    )


def _labels_outside_id(columns: Columns) -> Problems:
    others = only(columns, role=("ood", "val_ood", "outlier", "unused"))
    pairs = zip(others["class_name"], others["label"], strict=True)
    return _gathered((f"{name} has {label}" if label != -1 else None for name, label in pairs), others["key"])


def _incomplete(columns: Columns) -> Problems:
    known = only(columns, role="id")
    parts = defaultdict[str, set[str]](set)
    for name, part in zip(known["class_name"], known["split"], strict=True):
        parts[name].add(part)
    whole = {"train", "val", "test"}
    names = (None if parts[name] == whole else name for name in known["class_name"])
    return _gathered(names, known["key"])


def _misplaced(columns: Columns) -> Problems:
    """Images whose role, part or tier is not that of the published list."""
    names = ("class_name", "publish", "role", "split", "tier")

    def text(name: str | None, publish: str, role: str, part: str | None, tier: str | None) -> str | None:
        if publish in LISTS:
            wanted_role, wanted_part, tiers = LISTS[publish]
            if role == wanted_role and part == wanted_part and tier in tiers:
                return None
        told = " ".join(filter(None, (role, part, tier)))
        return f"{name or 'an image'} is {told}, but published in {publish}"

    return _gathered((text(*row) for row in zip(*(columns[n] for n in names), strict=True)), columns["key"])


def _silent(columns: Columns) -> Problems:
    left = only(columns, role="unused")
    pairs = zip(left["key"], left["reason"], strict=True)
    return _gathered((None if reason else key for key, reason in pairs), left["key"])


def _ambiguous(columns: Columns) -> Problems:
    """Classes with two labels and labels of two classes, catalog by catalog."""
    classes, labels = defaultdict[Any, set[Any]](set), defaultdict[Any, set[Any]](set)
    names = [columns[column] for column in ("catalog", "class_name", "orig_label")]
    for catalog, name, label in set(zip(*names, strict=True)):
        if name is not None and label is not None:
            classes[catalog, label].add(name)
            labels[catalog, name].add(label)
    found = defaultdict[str, list[str]](list)
    for catalog, name, label, key in zip(*names, columns["key"], strict=True):
        if len(classes[catalog, label]) > 1:
            found[f"label {label} is {sorted(classes[catalog, label])}"].append(key)
        if len(labels[catalog, name]) > 1:
            found[f"{name} is {sorted(labels[catalog, name])}"].append(key)
    return found


def _renamed(columns: Columns, own: list[str | None]) -> Problems:
    """Images whose class in the split is not the one in the rows; a split gives no class another spelling."""
    pairs = zip(columns["class_name"], own, strict=True)
    return _gathered(
        (f"{name} is told to be {told}" if told != name else None for told, name in pairs), columns["key"]
    )


def _changed(columns: Columns, stored: list[int | None]) -> Problems:
    """Images whose original label in the split is not the one in the rows."""
    pairs = zip(columns["key"], columns["orig_label"], stored, strict=True)
    return _gathered((key if label != told else None for key, label, told in pairs), columns["key"])


def _undeclared(columns: Columns, base: int | None, count: int | None) -> Problems:
    if base is None or count is None:
        return {}
    main = only(columns, pool="main")
    declared = range(base, base + count)
    missing = {
        f"{label} has no image": list[str]() for label in sorted(set(declared).difference(main["orig_label"]))
    }
    texts = (
        None if label is None or label in declared else f"{label} is not among {base} … {base + count - 1}"
        for label in main["orig_label"]
    )
    return missing | _gathered(texts, main["key"])
