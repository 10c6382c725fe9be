"""Which classes the model learns and which it must never see: the hold-out, drawn for one seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.errors import ConfigError, did_you_mean
from datakit.rng import rng_for
from datakit.stage import Ref, Rows, reduce
from datakit.stages.mixoe import mixoe_draw
from datakit.stages.subtrees import SHARES, draw_by_taxonomy, needed_known

MODES = ("random", "taxonomy", "attributes", "explicit")
VAL_OOD = 0.1  # share of the held-out classes
MIN_FOR_VAL_OOD = 4  # held-out classes; with fewer, the test needs every one

Unit = list[str]  # classes that are held out together, sorted


@reduce(version=2)
def hold_out(
    rows: Rows,
    *,
    seed: int,
    classes: Ref[pa.Table],
    mode: str = "random",
    fraction: float = 0.25,
    n_id: int | None = None,
    n_ood: int | None = None,
    held_out: Sequence[str] = (),
    shares: Mapping[str, float] = SHARES,
    keep_per_parent: int = 2,
    min_images_per_class: int = 10,
    val_ood_fraction: float | None = None,
    mixoe_compat: bool = False,
    label_base: int = 0,
    label_count: int | None = None,
) -> pa.Table:
    """The class table with role (id, ood, val_ood, outlier, unused) and reason (why unused).

    Only main classes are drawn, whole units at a time. `random` and `attributes` draw evenly (attributes
    decide the tiers, in `split`); `taxonomy` draws leaves and subtrees by `shares`; `explicit` takes the
    classes named in `held_out`. n_ood defaults to `fraction` of the eligible classes, n_id to the rest; with
    `taxonomy` what the tiers rest on is among the n_id first: see `needed_known`.
    val_ood_fraction of the held-out classes (0.1; with mixoe_compat 0, as MixOE tests them all) serve to choose
    thresholds and are never tested.
    Unused: too_few_images, not_drawn, kin (of a far or coarse class to one of a nearer pool).

    mixoe_compat: MixOE's draw, see `mixoe_draw`; units and min_images_per_class are not heeded.
    Raises ConfigError on options that exclude each other or that nothing reads.
    """
    _check_numbers(n_id=(n_id, 2), n_ood=(n_ood, 1), keep_per_parent=(keep_per_parent, 0))
    _check_choices(mode, held_out, n_ood, mixoe_compat, label_base if label_count is None else 0)
    if val_ood_fraction is None:
        val_ood_fraction = 0.0 if mixoe_compat else VAL_OOD
    table = classes.value
    rng = rng_for(seed, "hold_out", mode)
    if mixoe_compat:
        labels = main_classes(table, "orig_label")
        units = [[name] for name in sorted(labels)]
        known, ood = mixoe_draw(
            labels,
            seed=seed,
            n_id=n_id,
            n_ood=n_ood,
            label_base=label_base,
            label_count=label_count,
        )
    else:
        units, kept = units_of(table, min_images_per_class), set[str]()
        named = len(set(held_out)) if mode == "explicit" else n_ood
        wanted = _wanted(sum(map(len, units)), fraction, n_id, named)
        if mode == "explicit":
            ood = _named(held_out, units, main_classes(table, "images"))
        elif mode == "taxonomy":
            paths = main_classes(table, "taxonomy")
            ood = draw_by_taxonomy(units, paths, wanted, rng, shares, keep_per_parent)
            kept = needed_known(units, paths, ood, rng, keep_per_parent) if n_id else kept
        else:
            ood = draw_units(units, wanted, rng)
        known = _known(units, ood, n_id, rng, kept)
    val_ood = _val_ood([unit for unit in units if set(unit) <= ood], val_ood_fraction, seed)
    roles = dict.fromkeys(known, "id") | dict.fromkeys(ood, "ood") | dict.fromkeys(val_ood, "val_ood")
    return _with_roles(table, roles, {name for unit in units for name in unit})


def units_of(table: pa.Table, min_images: int) -> list[Unit]:
    """The main classes with at least `min_images` images, grouped by unit; all sorted."""
    found = defaultdict[str, Unit](list)
    images = main_classes(table, "images")
    for name, unit in main_classes(table, "unit").items():
        if images[name] >= min_images:
            found[unit].append(name)
    return [sorted(found[unit]) for unit in sorted(found)]


def draw_units(units: Sequence[Unit], wanted: int, rng: np.random.Generator) -> set[str]:
    """At most `wanted` classes: units in random order, one that does not fit passed over."""
    taken: set[str] = set()
    for index in rng.permutation(len(units)):
        if len(taken) + len(units[index]) <= wanted:
            taken.update(units[index])
    return taken


def main_classes(table: pa.Table, column: str) -> dict[str, Any]:
    """Main class → its value in `column`, sorted by class."""
    main = table.filter(pc.equal(table["pool"], "main"))
    return dict(zip(main["class_name"].to_pylist(), main[column].to_pylist(), strict=True))


def _check_numbers(**chosen: tuple[int | None, int]) -> None:
    for option, (value, least) in chosen.items():
        if value is not None and value < least:
            raise ConfigError(f"{option} is {value}; it must be {least} or more")


def _check_choices(
    mode: str, held_out: Sequence[str], n_ood: int | None, mixoe_compat: bool, lone_base: int
) -> None:
    """Refuses an option that the others leave without effect. lone_base: a label_base without label_count."""
    if mode not in MODES:
        raise ConfigError(f"unknown hold-out mode {mode}{did_you_mean(mode, MODES)}")
    if mixoe_compat and mode != "random":
        raise ConfigError(f"mixoe_compat draws by MixOE's rule, not by mode={mode}; give one of the two")
    if held_out and mode != "explicit":
        raise ConfigError(f"held_out names classes, but mode={mode} draws them; set mode=explicit")
    if mode == "explicit" and n_ood is not None:
        raise ConfigError("mode=explicit holds out the classes of held_out; leave n_ood out")
    if lone_base and not mixoe_compat:
        raise ConfigError(f"label_base={lone_base} is read with label_count only; give both or neither")


def _wanted(eligible: int, fraction: float, n_id: int | None, n_ood: int | None) -> int:
    if not 0 < fraction < 1:
        raise ConfigError(f"fraction is {fraction:g}; it must lie between 0 and 1")
    wanted = max(1, round(fraction * eligible)) if n_ood is None else n_ood
    if wanted + max(2, n_id or 0) > eligible:
        raise ConfigError(
            f"{wanted} held-out and {max(2, n_id or 0)} ID classes were asked for, but only {eligible} main "
            "classes have enough images; lower n_id, n_ood, fraction or min_images_per_class"
        )
    return wanted


def _named(held_out: Sequence[str], units: Sequence[Unit], images: Mapping[str, int]) -> set[str]:
    """The classes named in `held_out`, checked: known, large enough, and with all their kin."""
    unit_of = {name: unit for unit in units for name in unit}
    chosen = set(held_out)
    if not chosen:
        raise ConfigError("mode explicit needs held_out: the names of the classes to hold out")
    for name in sorted(chosen):
        if name not in images:
            raise ConfigError(f"held_out: no class {name}{did_you_mean(name, images)}")
        if name not in unit_of:
            raise ConfigError(f"held_out: class {name} has only {images[name]} images")
        for other in unit_of[name]:
            if other not in chosen:
                raise ConfigError(f"held_out: {name} and {other} are kin; name both or neither")
    return chosen


def _known(
    units: Sequence[Unit], ood: set[str], n_id: int | None, rng: np.random.Generator, kept: set[str]
) -> set[str]:
    """The ID classes, at most n_id: `kept`, and others that are not held out."""
    if not ood:
        raise ConfigError("no class could be held out: each is kin to more classes than n_ood allows")
    rest = [unit for unit in units if not set(unit) & (ood | kept)]
    left = sum(map(len, rest)) if n_id is None else n_id - len(kept)
    if left < 0:
        raise ConfigError(
            f"n_id is {n_id}, but {len(kept)} ID classes are needed to keep the held-out ones in their tiers; "
            "raise n_id, or lower n_ood or keep_per_parent"
        )
    return kept | draw_units(rest, left, rng)


def _val_ood(units: Sequence[Unit], fraction: float, seed: int) -> set[str]:
    """The held-out classes for validation: `fraction` of them, at least one of four, never all."""
    count = sum(map(len, units))
    if count < MIN_FOR_VAL_OOD or len(units) < 2 or fraction <= 0:
        return set()
    wanted = min(max(1, round(fraction * count)), count - 1)
    drawn = draw_units(units, wanted, rng_for(seed, "val_ood"))
    smallest = min(units, key=lambda unit: (len(unit), unit))
    return drawn or set(smallest)


def _with_roles(table: pa.Table, roles: Mapping[str, str], eligible: set[str]) -> pa.Table:
    """`table` with role and reason."""
    rows = list(zip(*(table[name].to_pylist() for name in ("pool", "class_name", "unit")), strict=True))
    used = {unit: "main" for pool, name, unit in rows if pool == "main" and name in roles}
    # A unit belongs to the nearest pool that uses it.
    for nearer in ("far", "coarse"):
        used |= {unit: nearer for pool, _, unit in rows if pool == nearer and unit not in used}
    found: list[tuple[str, str | None]] = []
    for pool, name, unit in rows:
        if pool == "outliers":
            found.append(("outlier", None))
        elif pool != "main":
            found.append(("ood", None) if used[unit] == pool else ("unused", "kin"))
        elif name in roles:
            found.append((roles[name], None))
        else:
            found.append(("unused", "not_drawn" if name in eligible else "too_few_images"))
    role, reason = zip(*found, strict=True) if found else ((), ())
    table = table.append_column("role", pa.array(role, pa.string()))
    return table.append_column("reason", pa.array(reason, pa.string()))
