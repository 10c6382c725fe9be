"""MixOE's class draw by its rule, on a label table that is checked first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from datakit.errors import ConfigError


def mixoe_draw(
    orig_labels: Mapping[str, int | None],
    *,
    seed: int,
    n_id: int | None,
    n_ood: int | None,
    label_base: int,
    label_count: int | None,
) -> tuple[set[str], set[str]]:
    """(ID classes, held-out classes) of `orig_labels` (class → label) as MixOE draws them for this seed.

    Its rule (Zhang et al., WACV 2023): numpy's legacy RandomState(seed) chooses n_id of n_id + n_ood label
    indices without replacement; the rest is held out; further indices are not used. An index is the original
    label less `label_base`, or the rank of the class name where no class has a label.
    Raises ConfigError unless the labels are exactly label_base … label_base + label_count - 1: an unchecked
    1-based table gave MixOE's butterflies an ID class without images.
    """
    if n_id is None or n_ood is None:
        raise ConfigError("mixoe_compat needs n_id and n_ood, as 90 and 10 for aircraft")
    if not 0 <= seed < 2**32:
        raise ConfigError(
            f"mixoe_compat: seed {seed} is none of MixOE's generator; it takes 0 to {2**32 - 1}"
        )
    table = _label_table(orig_labels, label_base, label_count)
    if n_id + n_ood > len(table):
        raise ConfigError(f"n_id + n_ood is {n_id + n_ood}, but there are {len(table)} labels")
    chosen = np.random.RandomState(seed).choice(range(n_id + n_ood), n_id, replace=False)
    known = {table[int(index)] for index in chosen}
    return known, {table[index] for index in range(n_id + n_ood)} - known


def _label_table(
    orig_labels: Mapping[str, int | None], label_base: int, label_count: int | None
) -> Sequence[str]:
    """Class names by index from 0."""
    labels = dict(orig_labels)
    if all(label is None for label in labels.values()):
        labels = {name: label_base + rank for rank, name in enumerate(sorted(labels))}
    for name, label in labels.items():
        if label is None:
            raise ConfigError(f"mixoe_compat: class {name} has no single original label")
    count = len(labels) if label_count is None else label_count
    declared, present = set(range(label_base, label_base + count)), set(labels.values())
    if declared != present or len(present) < len(labels):
        raise ConfigError(
            f"mixoe_compat: {len(labels)} classes are not the {count} labels from {label_base} on: "
            f"no class has {sorted(declared - present)[:5]}, not declared are "
            f"{sorted(present - declared, key=str)[:5]}; set label_base and label_count as in the source"
        )
    return sorted(labels, key=lambda name: labels[name] or 0)
