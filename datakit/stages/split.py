"""One seed's split: which image is trained on, which is tested, at what distance, and which stays out and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.errors import ConfigError, did_you_mean
from datakit.rng import rng_for
from datakit.stage import Ref, Rows, reduce
from datakit.stages.columns import Bools, Ints, codes, same_order
from datakit.stages.draft import Draft
from datakit.stages.leaks import pair_rows, too_similar
from datakit.stages.partition import balanced_sample, draw_by_class, official_parts, rule_matches
from datakit.stages.taxonomy import Place, class_vectors, place_by_attributes, place_by_taxonomy

CHOICES = {
    "tiers": ("taxonomy", "attributes"),
    "ood_images": ("auto", "test", "all"),
    "on_leak": ("drop", "fail"),
    "coarse_balance": ("source", "class", "none"),
}
ID_SETS = ("train", "val", "test")
OOD_SETS = ("near_ood", "mid_ood", "far_ood", "coarse_ood")


@reduce(version=2)
def split(
    rows: Rows,
    *,
    seed: int,
    classes: Ref[pa.Table],
    duplicates: Ref[pa.Table] | None = None,
    leaky: Ref[pa.Table] | None = None,
    features: Ref[Rows] | None = None,
    attributes: Ref[pa.Table] | None = None,
    tiers: str = "taxonomy",
    test_where: Mapping[str, Sequence[str]] | None = None,
    test_fraction: float = 0.2,
    val_fraction: float = 0.1,
    ood_images: str = "auto",
    on_leak: str = "drop",
    max_sim_to_test: float | None = None,
    coarse_size: int | None = None,
    coarse_balance: str = "source",
    n_outliers: int | None = None,
) -> pa.Table:
    """The split table of one seed: one row a sample, in the order of the rows.

    key, class_name, role, tier, split, publish (the published list), label (0 … K-1 by class name for ID, else
    -1), orig_label, nearest_id_class, tax_distance, tax_ratio, attr_distance, dup_group, reason (why reserve).

    classes: of `hold_out`. duplicates: of `near_duplicates`. leaky: of `leaky_outliers`. Test images are the
    source's official ones; without any, those that match `test_where`; without that, test_fraction of each
    class. Of held-out classes the same images are tested (ood_images "test"), or all; "auto": all where the
    test images are drawn at random, since then any image of a class is like any other, and the same where the
    source or a rule chose them. Train gives val_fraction to val unless the source has its own. Groups are never
    torn by a draw. A far or coarse class of which no image is marked for test gives all. Coarse is cut to
    coarse_size, by default as many as ID test.

    on_leak "drop": of two alike images in different sets the one in the lesser set goes (train and outliers
    first, then OOD, never ID test), and outliers of cosine above max_sim_to_test to a test image go; "fail":
    all stay, for the checks to find. An ID class left without train, val or test images is taken out whole.
    """
    _check_fractions(test_fraction=test_fraction, val_fraction=val_fraction)
    _check_choices(tiers=tiers, ood_images=ood_images, on_leak=on_leak, coarse_balance=coarse_balance)
    draft = Draft.start(rows, classes.value)
    _refuse_unnamed(draft)
    pairs = pair_rows(draft.table["__key__"], duplicates and duplicates.value, draft.class_of)
    mend = pairs if on_leak == "drop" else (pairs[0][:0], pairs[1][:0])
    atoms = draft.atoms(*pairs)
    test, val = _test_images(rows, draft, atoms, test_where, test_fraction, seed)
    _assign(draft, test, val, _wholly_tested(draft, test_where, ood_images))
    _leave_leaky(draft, leaky.value if leaky else None)
    draft.drop_leaks(*mend)
    _draw_val(draft, atoms, val_fraction, seed)
    draft.drop_leaks(*mend)
    _leave_incomplete(draft)
    places = _place(draft, tiers, attributes.value if attributes else None)
    _set_tiers(draft, places)
    draft.drop_leaks(*mend)  # two OOD tiers may still share a picture
    _sample_coarse(draft, coarse_size, coarse_balance, seed)
    if max_sim_to_test is not None and on_leak == "drop":
        _leave_similar(rows, draft, features, max_sim_to_test)
    _sample_outliers(draft, n_outliers, seed)
    return draft.to_table(places, *pairs)


def _check_choices(**chosen: str) -> None:
    for option, value in chosen.items():
        if value not in CHOICES[option]:
            raise ConfigError(f"{option}: no {value}{did_you_mean(value, CHOICES[option])}")


def _check_fractions(**chosen: float) -> None:
    for option, value in chosen.items():
        if not 0 < value < 1:
            raise ConfigError(f"{option} is {value:g}; it must lie between 0 and 1")


def _test_images(
    rows: Rows,
    draft: Draft,
    atoms: Ints,
    where: Mapping[str, Sequence[str]] | None,
    fraction: float,
    seed: int,
) -> tuple[Bools, Bools]:
    """(test, official val) among the images of all used classes."""
    ruled, test, val = official_parts(draft.table)
    if where:
        test |= ~ruled & ~val & rule_matches(rows, where)
    else:
        # An ID class keeps two groups, for train and val; of a held-out class all may be drawn.
        for images, leave in ((draft.role == "id", 2), (np.isin(draft.role, ["ood", "val_ood"]), 0)):
            drawable = ~ruled & ~val & images & (draft.pool != "coarse")
            test |= _draw(draft, drawable, atoms, fraction, leave, seed, "test")
    beside = np.isin(draft.pool, ["far", "coarse"])
    spoken_of = np.isin(draft.class_of, draft.class_of[test])
    return test | (beside & ~spoken_of), val


def _refuse_unnamed(draft: Draft) -> None:
    """A tier is tested by class, so coarse images without one would be in none, without a word."""
    coarse = draft.pool == "coarse"
    if coarse.any() and (draft.class_of[coarse] < 0).all():
        raise ConfigError(
            "no image of the coarse catalog has a class: give a folder a class, or name the column that holds it "
            "(coarse.options=class_name=COLUMN)"
        )


def _draw(
    draft: Draft, images: Bools, atoms: Ints, fraction: float, leave: int, seed: int, part: str
) -> Bools:
    names = draft.classes["class_name"].to_pylist()
    return draw_by_class(
        draft.class_of, names, images, atoms, fraction=fraction, leave=leave, seed=seed, part=part
    )


def _wholly_tested(draft: Draft, where: Mapping[str, Sequence[str]] | None, choice: str) -> Bools:
    """The images whose class, if it is held out, is tested with all its images."""
    if choice == "auto":
        ruled, _, _ = official_parts(draft.table)
        return ~ruled & (not where)
    return np.full(len(draft.set_of), choice == "all")


def _assign(draft: Draft, test: Bools, val: Bools, whole: Bools) -> None:
    """Each image of a used class into its set; what of a held-out class matches no set, with its reason."""
    role, pool = draft.role, draft.pool
    known = role == "id"
    draft.put(known & ~test, "train")
    draft.put(known & val, "val")
    draft.put(known & test, "test")
    # Validation OOD matches ID val: both are images that the test rule leaves.
    val_ood = role == "val_ood"
    only_test = ~np.isin(draft.class_of, draft.class_of[~test])
    spared = val_ood & test & ~only_test & ~whole
    draft.put(val_ood & ~spared, "val_ood")
    draft.reason[spared] = "heldout_test"
    held = role == "ood"
    for name, home in {"near_ood": "main", "far_ood": "far", "coarse_ood": "coarse"}.items():
        draft.put(held & (pool == home) & (test | whole), name)
    draft.reason[held & ~test & ~whole] = "heldout_train"
    draft.put(role == "outlier", "outliers")


def _leave_leaky(draft: Draft, leaky: pa.Table | None) -> None:
    if leaky is None:
        return
    at = pc.index_in(draft.table["__key__"], value_set=leaky["key"].combine_chunks())
    for reason in pc.unique(leaky["reason"]).to_pylist():
        of_reason = pc.equal(leaky["reason"], reason).combine_chunks()
        hit = pc.fill_null(of_reason.take(at), False)
        draft.leave(np.asarray(hit.to_numpy()), reason)


def _draw_val(draft: Draft, atoms: Ints, fraction: float, seed: int) -> None:
    """Validation images out of train, for every ID class that the source gave none."""
    has_val = np.isin(draft.class_of, draft.classes_in("val"))
    images = draft.is_in("train") & ~has_val
    draft.put(_draw(draft, images, atoms, fraction, 1, seed, "val"), "val")


def _leave_incomplete(draft: Draft) -> None:
    """An ID class without train, val or test images is no class to learn and test: it goes whole."""
    whole = set.intersection(*(set(draft.classes_in(name).tolist()) for name in ID_SETS))
    known = draft.is_in(*ID_SETS)
    draft.leave(known & ~np.isin(draft.class_of, sorted(whole)), "too_few_images")
    if not whole:
        raise ConfigError(
            "no ID class has images in train, val and test; look at the test rule, or lower min_images_per_class"
        )


def _place(draft: Draft, tiers: str, attributes: pa.Table | None) -> dict[str, Place]:
    """Held-out class → its place; in the pools far and coarse the pool is the tier, whatever the distance."""
    columns = (draft.classes[name].to_pylist() for name in ("class_name", "taxonomy", "pool"))
    names, paths, pools = columns
    known = draft.class_names(draft.classes_in(*ID_SETS))
    main = draft.class_names(draft.classes_in("near_ood", "val_ood"))
    beside = {names[n]: pools[n] for n in draft.classes_in("far_ood", "coarse_ood")}
    # Names are unique among used classes: kin of a nearer pool are never used.
    used = draft.classes_in(*ID_SETS, "val_ood", *OOD_SETS)
    path_of = {names[n]: tuple(paths[n]) for n in used}
    vectors = class_vectors(attributes, {names[n]: pools[n] for n in used})
    rule = place_by_attributes if tiers == "attributes" else place_by_taxonomy
    found = rule(path_of, known, main, vectors)
    distant = place_by_taxonomy(path_of, known, list(beside), vectors)
    return found | {name: replace(distant[name], tier=pool) for name, pool in beside.items()}


def _set_tiers(draft: Draft, places: Mapping[str, Place]) -> None:
    numbers, images = draft.classes_in("near_ood"), draft.is_in("near_ood")
    tiers = [f"{places[name].tier}_ood" for name in draft.class_names(numbers)]
    for tier in set(tiers):
        of_tier = numbers[np.array(tiers) == tier]
        draft.put(images & np.isin(draft.class_of, of_tier), tier)


def _sample_coarse(draft: Draft, size: int | None, balance: str, seed: int) -> None:
    coarse = np.flatnonzero(draft.is_in("coarse_ood"))
    size = int(draft.is_in("test").sum()) if size is None else size
    groups = {
        "source": codes(draft.table["catalog"])[0],
        "class": draft.class_of,
        "none": np.zeros_like(draft.class_of),
    }[balance][coarse]
    chosen = balanced_sample(groups, size, rng_for(seed, "coarse"))
    draft.leave(np.isin(np.arange(len(draft.set_of)), coarse[~chosen]), "not_sampled")


def _leave_similar(rows: Rows, draft: Draft, features: Ref[Rows] | None, limit: float) -> None:
    if features is None:
        raise ConfigError("max_sim_to_test needs features; give a step that has them")
    same_order(rows, features.value, "features")
    outliers = np.flatnonzero(draft.is_in("outliers"))
    tests = np.flatnonzero(draft.is_in("test", *OOD_SETS))
    close = np.zeros(len(rows), dtype=bool)
    close[outliers] = too_similar(features.value, outliers, tests, limit)
    draft.leave(close, "similar_to_test")


def _sample_outliers(draft: Draft, size: int | None, seed: int) -> None:
    outliers = np.flatnonzero(draft.is_in("outliers"))
    if size is not None and size < len(outliers):
        left_over = rng_for(seed, "outliers").permutation(outliers)[size:]
        draft.leave(np.isin(np.arange(len(draft.set_of)), left_over), "not_sampled")
