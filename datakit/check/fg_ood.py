"""The fourteen checks of `fg_ood`, gathered: what is claimed of each seed's split, and of all seeds together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datakit.check.class_disjoint import check_class_disjoint
from datakit.check.identity_group import check_identity_group
from datakit.check.image_disjoint import check_image_disjoint
from datakit.check.label_table import check_label_table
from datakit.check.near_dup import check_near_dup
from datakit.check.null_control import check_null_control
from datakit.check.outlier_similarity import check_outlier_similarity
from datakit.check.outlier_taxonomy import check_outlier_taxonomy
from datakit.check.power import check_power
from datakit.check.pretrain_overlap import check_pretrain_overlap
from datakit.check.seed_diversity import check_seed_diversity
from datakit.check.shortcut import check_shortcut
from datakit.check.tax_distance import check_tax_distance
from datakit.check.tier_sanity import check_tier_sanity
from datakit.recipe import Step
from datakit.stage import Ref


def split_checks(
    images: Step,
    features: Step,
    table: Ref[Any],
    *,
    seed: int,
    alike: Mapping[str, Any],
    tiers: str,
    attributes: Ref[Any],
    max_sim_to_test: float | None,
    shunned: Mapping[str, Any],
    synonyms: Sequence[Sequence[str]],
    labels: Mapping[str, int],
    pretrained: Mapping[str, Sequence[str]],
) -> list[Ref[list[dict[str, Any]]]]:
    """The checks of one seed's split table, each measured anew from the rows.

    alike: the keywords that the duplicates were searched with; shunned: those that leaky outliers were found
    with; labels: label_base and label_count, where the source declares them; pretrained: model → the labels it
    was trained on, none if they are not known; max_sim_to_test None: outliers are not compared with the test.
    """
    rows = features.rows
    stages = [
        check_class_disjoint(split=table, seed=seed, synonyms=synonyms),
        check_label_table(split=table, seed=seed, **labels),
        check_identity_group(split=table, seed=seed),
        check_image_disjoint(split=table, seed=seed),
        check_near_dup(split=table, seed=seed, **alike),
        check_outlier_taxonomy(split=table, seed=seed, synonyms=synonyms, **shunned),
        check_tax_distance(split=table, seed=seed, tiers=tiers, attributes=attributes),
        check_tier_sanity(split=table, seed=seed, features=rows),
        check_shortcut(split=table, seed=seed),
        check_power(split=table, seed=seed),
        check_pretrain_overlap(split=table, seed=seed, synonyms=synonyms, pretrained=pretrained),
    ]
    if max_sim_to_test is not None:
        stages.append(
            check_outlier_similarity(split=table, seed=seed, features=rows, max_sim_to_test=max_sim_to_test)
        )
    return [images.reduce(stage) for stage in stages]


def seed_checks(
    images: Step, *, seeds: Sequence[int], splits: Sequence[Ref[Any]], loops: Sequence[Ref[dict[str, Any]]]
) -> list[Ref[list[dict[str, Any]]]]:
    """What is claimed of the seeds together, and of each seed's reference loop."""
    controls = [
        images.reduce(check_null_control(results=loop, seed=seed))
        for seed, loop in zip(seeds, loops, strict=False)  # no loops: validate=none or probe
    ]
    return [*controls, images.reduce(check_seed_diversity(splits=splits, seeds=seeds))]
