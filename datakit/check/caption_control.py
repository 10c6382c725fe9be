"""The control of a dual encoder: the same training on captions dealt out anew does worse, and no better than chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datakit.check.finding import Finding, Severity, at_most
from datakit.check.retrieval import SIGMAS
from datakit.stage import Ref, Rows, reduce
from datakit.train.dual_encoder import DIRECTIONS
from datakit.train.pair_metrics import KS, chance_error, recall_of_ranks, telling_k

APART = 2.0  # standard errors by which a model beats its control: three ask too much of 16 held-out classes


@reduce(version=2)
def check_caption_control(
    rows: Rows,
    *,
    trained: Ref[Mapping[str, Any]],
    control: Ref[Mapping[str, Any]],
    k: int = 0,
    severity: Severity = "fail",
) -> list[dict[str, Any]]:
    """See `caption_control`; trained, control: of `train.retrieval_stages.dual_encoder`, with and without shuffled."""
    if not trained.value and not control.value:
        summary = "no dual encoder was trained: fewer than four things have a caption"
        return [Finding(id="caption_control", severity="info", passed=True, summary=summary).to_json()]
    return at_most(severity, caption_control(trained.value, control.value, k=k))


def caption_control(
    trained: Mapping[str, Any], control: Mapping[str, Any], *, k: int = 0
) -> list[dict[str, Any]]:
    """Two findings a direction, over the same held-out queries; k of 0 is what `telling_k` takes.

    caption_control    R@k is more than chance by three standard errors, and more than the control's by two
    control_at_chance  (a warning) the control's R@k is not above chance by three: else something but the captions
                       tells held-out pairs, as copies on both sides of the split
    Errors count whole groups: a thing's images and captions are found together or not at all.
    Results without ranks, having held nothing out, do not pass: a control that did not run controls nothing.
    """
    return [finding for name in DIRECTIONS for finding in _direction(name, trained, control, k)]


def _direction(
    name: str, trained: Mapping[str, Any], control: Mapping[str, Any], k: int
) -> list[dict[str, Any]]:
    ours, theirs = (np.array(result["ranks"].get(name, []), np.int64) for result in (trained, control))
    words = name.replace("_", " ")
    if not len(ours) or len(ours) != len(theirs):
        why = f"{words}: {len(ours)} held-out queries of the model, {len(theirs)} of its control"
        return [_finding("caption_control", "fail", False, why, None, None, {"direction": name})]
    by_k = {at: float(trained["chance"][name][f"r{at}"]) for at in KS}
    k = k or telling_k(by_k)
    chance, groups = by_k[k], np.array(trained["groups"][name])
    value, other = recall_of_ranks(ours, k), recall_of_ranks(theirs, k)
    noise = SIGMAS * chance_error(chance, groups)
    # the same queries under both models: what counts is where they differ
    apart = APART * _error((ours <= k).astype(float) - (theirs <= k), groups)
    limit = max(chance + noise, other + apart)
    detail = {"direction": name, "k": k, "queries": len(ours), "groups": len(set(groups.tolist())),
              "chance": chance, "control": other}  # fmt: skip
    said = f"{words}: R@{k} is {value:.3f}, {other:.3f} trained on captions dealt out anew, {chance:.3f} by chance"
    return [
        _finding("caption_control", "fail", value > limit, said, value, limit, detail),
        _finding(
            "control_at_chance", "warn", other <= chance + noise,
            f"{words}: trained on captions dealt out anew R@{k} is {other:.3f}, by chance {chance:.3f}",
            other, chance + noise, detail,
        ),
    ]  # fmt: skip


def _error(values: NDArray[np.float64], groups: NDArray[np.int64]) -> float:
    """Standard error of the mean of values whose groups, not themselves, are independent."""
    _, at, counts = np.unique(groups, return_inverse=True, return_counts=True)
    sums = np.bincount(at.reshape(-1), values - values.mean())
    return float(np.sqrt(np.square(sums).sum() * len(counts) / max(1, len(counts) - 1)) / len(values))


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
