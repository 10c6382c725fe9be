"""Do images and captions find each other, and would they if the captions were other images'?

A figure that survives captions dealt out anew was not about the captions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datakit.check.finding import Finding, Severity, at_most
from datakit.check.retrieval import SHUFFLES, SIGMAS, above_chance
from datakit.models.projection import prefix
from datakit.rng import rng_for
from datakit.stage import Rows, reduce
from datakit.train.dual_encoder import Captioned
from datakit.train.pair_metrics import (
    CELLS,
    KS,
    chance_error,
    chance_recall,
    first_ranks,
    once_a_group,
    rank_row,
    recall_of_ranks,
    telling_k,
)
from datakit.train.retrieval_stages import captioned, column_captions

QUERIES = 2000  # that ask in each direction, at most; drawn by the seed

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@reduce(version=2)
def check_image_text(
    rows: Rows,
    *,
    image: str,
    text: str,
    group: str = "",
    centered: bool = True,
    at_least: float = 0.0,
    seed: int = 0,
    severity: Severity = "fail",
) -> list[dict[str, Any]]:
    """Image and caption vectors of one space find each other better than captions dealt out anew; see `image_text`.

    Columns as in `train.retrieval_stages.captioned`.
    """
    if (there := len(column_captions(rows, text)[0])) < 2:
        summary = f"{there} images have a caption, so there is nothing to find by one"
        return [Finding(id="image_text", severity="info", passed=True, summary=summary).to_json()]
    data = captioned(rows, image=image, text=text, group=group)
    return at_most(severity, image_text(data, centered=centered, at_least=at_least, seed=seed))


def image_text(
    data: Captioned, *, centered: bool = True, at_least: float = 0.0, seed: int = 0
) -> list[dict[str, Any]]:
    """R@k by cosine, one finding a direction: above chance, above 20 deals of the captions, above `at_least`.

    A deal gives each group the captions of another: captions of one thing stay together, as a space with few hubs
    finds them. value: R@k of the k that `telling_k` takes; limit: the most of `at_least`, the deals' mean and three
    standard deviations, and a random order's and three standard errors. A caption that a group has twice counts
    once; ties count against us. centered: each side's mean is taken away.
    """
    rows = once_a_group(data.texts_MT, data.group_of_M)
    texts_MD, text_group_M = data.texts_MT[rows], data.group_of_M[rows]
    images_ND = np.asarray(data.images_ND)
    if images_ND.shape[1] != texts_MD.shape[1]:
        raise ValueError(
            f"image vectors {images_ND.shape} and caption vectors {texts_MD.shape} share no space"
        )
    if centered:
        images_ND, texts_MD = images_ND - images_ND.mean(axis=0), texts_MD - texts_MD.mean(axis=0)
    asked_N = np.isin(data.group_N, text_group_M)
    captioned_N = data.group_N[asked_N]
    sides = {
        "image_to_text": _Side(images_ND[asked_N], captioned_N, texts_MD, text_group_M),
        "text_to_image": _Side(texts_MD, text_group_M, images_ND, data.group_N),
    }
    return [_direction(name, side, at_least=at_least, seed=seed) for name, side in sides.items()]


@dataclass(frozen=True)
class _Side:
    """Who asks and who is asked; every group that asks has someone to find."""

    query_QD: Floats
    query_group_Q: Ints
    candidate_MD: Floats
    candidate_group_M: Ints


def _direction(name: str, side: _Side, *, at_least: float, seed: int) -> dict[str, Any]:
    chosen = np.sort(rng_for(seed, "image text", name).permutation(len(side.query_QD))[:QUERIES])
    groups, at_Q = np.unique(side.query_group_Q, return_inverse=True)
    at_Q, rng = at_Q.reshape(-1)[chosen], rng_for(seed, "image text", name, "shuffled")
    deals = [groups, *(groups[rng.permutation(len(groups))] for _ in range(SHUFFLES))]
    ranks, *dealt = _ranks(side, chosen, [deal[at_Q] for deal in deals])
    candidates = len(side.candidate_group_M)
    relevant_Q = (side.candidate_group_M[None, :] == groups[:, None]).sum(axis=1)[at_Q]
    chance = {k: chance_recall(relevant_Q, candidates, k) for k in KS}
    k = telling_k(chance)
    value, control = recall_of_ranks(ranks, k), [recall_of_ranks(found, k) for found in dealt]
    shuffled = {f"r{k}": float(np.mean([recall_of_ranks(found, k) for found in dealt])) for k in KS}
    noise = SIGMAS * chance_error(chance[k], at_Q)
    limit = max(at_least, above_chance(control), chance[k] + noise)
    return Finding(
        id="image_text",
        severity="fail",
        passed=value > limit,
        count=0 if value > limit else 1,
        value=value,
        limit=limit,
        summary=f"{name.replace('_', ' ')}: R@{k} of {len(chosen):,} queries among {candidates:,} is {value:.3f}, "
        f"{shuffled[f'r{k}']:.3f} with captions dealt out anew",
        detail={"direction": name, "k": k, **rank_row(ranks, name), "shuffled": shuffled,
                "chance": {f"r{k}": share for k, share in chance.items()}},
    ).to_json()  # fmt: skip


def _ranks(side: _Side, chosen: Ints, wanted: list[Ints]) -> list[Ints]:
    """Ranks (Q,) of the chosen queries for each choice of the groups they want, from one pass over similarities."""
    unit_MD = prefix(side.candidate_MD, side.candidate_MD.shape[1])
    found: list[list[Ints]] = [[] for _ in wanted]
    for start in range(0, len(chosen), size := max(1, CELLS // max(1, len(unit_MD)))):
        part = slice(start, start + size)
        score_BM = prefix(side.query_QD[chosen[part]], unit_MD.shape[1]) @ unit_MD.T
        for ranks, group_Q in zip(found, wanted, strict=True):
            ranks.append(first_ranks(score_BM, group_Q[part, None] == side.candidate_group_M[None, :]))
    return [np.concatenate(ranks) for ranks in found]
