"""The control of a dual encoder: the same training on captions dealt out anew does worse, and no better than chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from datakit.check.finding import Finding, Severity, at_most
from datakit.stage import Ref, Rows, reduce
from datakit.train.dual_encoder import DIRECTIONS
from datakit.train.pair_metrics import recall_of_ranks

SIGMAS = 3.0  # standard errors by which a difference is more than noise


@reduce(version=1)
def check_caption_control(
    rows: Rows,
    *,
    trained: Ref[Mapping[str, Any]],
    control: Ref[Mapping[str, Any]],
    k: int = 10,
    severity: Severity = "fail",
) -> list[dict[str, Any]]:
    """See `caption_control`; trained, control: of `train.retrieval_stages.dual_encoder`, with and without shuffled."""
    if not trained.value and not control.value:
        summary = "no dual encoder was trained: fewer than two images have a caption"
        return [Finding(id="caption_control", severity="info", passed=True, summary=summary).to_json()]
    return at_most(severity, caption_control(trained.value, control.value, k=k))


def caption_control(
    trained: Mapping[str, Any], control: Mapping[str, Any], *, k: int = 10
) -> list[dict[str, Any]]:
    """Two findings a direction, over the same held-out queries.

    caption_control   R@k is more than chance and more than the control's, each by three standard errors
    control_at_chance (a warning) the control's R@k is not above chance by as much: else something but the captions
                      tells held-out pairs, as copies on both sides of the split
    Results without ranks, having held nothing out, do not pass: a control that did not run controls nothing.
    """
    return [
        finding for name in DIRECTIONS for finding in _direction(name, trained, control, k)
    ]  # the same order as the report's


def _direction(
    name: str, trained: Mapping[str, Any], control: Mapping[str, Any], k: int
) -> list[dict[str, Any]]:
    ours = np.array(trained["ranks"].get(name, []), dtype=np.int64)
    theirs = np.array(control["ranks"].get(name, []), dtype=np.int64)
    words = name.replace("_", " ")
    if not len(ours) or len(ours) != len(theirs):
        why = f"{words}: {len(ours)} held-out queries of the model, {len(theirs)} of its control"
        return [_finding("caption_control", "fail", False, why, None, None, {"direction": name})]
    chance = float(trained["chance"][name][f"r{k}"])
    value, other = recall_of_ranks(ours, k), recall_of_ranks(theirs, k)
    noise = SIGMAS * (chance * (1 - chance) / len(ours)) ** 0.5
    # the same queries under both models: what counts is where they differ
    apart = (ours <= k).astype(float) - (theirs <= k)
    limit = max(chance + noise, other + SIGMAS * float(apart.std()) / len(ours) ** 0.5)
    detail = {"direction": name, "k": k, "queries": len(ours), "chance": chance, "control": other}
    said = f"{words}: R@{k} is {value:.3f}, {other:.3f} trained on captions dealt out anew, {chance:.3f} by chance"
    return [
        _finding("caption_control", "fail", value > limit, said, value, limit, detail),
        _finding(
            "control_at_chance", "warn", other <= chance + noise,
            f"{words}: trained on captions dealt out anew R@{k} is {other:.3f}, by chance {chance:.3f}",
            other, chance + noise, detail,
        ),
    ]  # fmt: skip


def _finding(
    id: str,
    severity: Any,
    passed: bool,
    summary: str,
    value: float | None,
    limit: float | None,
    detail: Mapping[str, Any],
) -> dict[str, Any]:
    return Finding(
        id=id, severity=severity, passed=passed, count=0 if passed else 1, summary=summary, value=value,
        limit=limit, detail=detail,
    ).to_json()  # fmt: skip
