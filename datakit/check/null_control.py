"""The null control: no detector may tell ID validation from ID test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datakit.check.finding import Finding
from datakit.stage import Ref, Rows, reduce

LIMIT = 0.05  # allowed distance of the AUROC from 0.5
SIGMAS = 3.0  # of the AUROC's own noise, allowed where the two sets are small


@reduce(version=1)
def check_null_control(
    rows: Rows,
    *,
    results: Ref[Mapping[str, Any] | Sequence[Mapping[str, Any]]],
    seed: int | None = None,
    limit: float = LIMIT,
) -> list[dict[str, Any]]:
    """Every detector's AUROC of ID val against ID test is within 0.5 ± `limit`.

    results: of the reference loop, which has them as null_control; or a list of rows with method, detector,
    auroc and, where known, n_val and n_test. The bound is never under three standard errors, each
    √((1/n_val + 1/n_test) / 12) if the two sets are alike. No result at all does not pass: a control that did
    not run controls nothing.
    """
    found = results.value["null_control"] if isinstance(results.value, Mapping) else results.value
    bounds = [null_bound(row, limit) for row in found]
    off = [abs(float(row["auroc"]) - 0.5) for row in found]
    bad = [
        {name: row[name] for name in ("method", "detector", "auroc")}
        for row, distance, bound in zip(found, off, bounds, strict=True)
        if not distance <= bound
    ]
    worst = max(off, default=None)
    words = f"largest distance from 0.5 is {worst:.3f}" if worst is not None else "there is no result"
    return [
        Finding(
            id="null_control",
            severity="fail",
            passed=bool(off) and not bad,
            count=len(bad),
            value=worst,
            limit=max(bounds, default=limit),
            summary=f"{len(bad)} of {len(off)} detectors tell ID val from ID test; {words}",
            detail={"detectors": bad[:50]},
            seed=seed,
        ).to_json()
    ]


def null_bound(row: Mapping[str, Any], limit: float = LIMIT) -> float:
    """How far this row's AUROC may be from 0.5."""
    return max(limit, SIGMAS * _standard_error(row))


def _standard_error(row: Mapping[str, Any]) -> float:
    """Of an AUROC of two samples from one distribution (Hanley and McNeil 1982); 0 where sizes are not given."""
    if not row.get("n_val") or not row.get("n_test"):
        return 0.0
    return float(((1 / row["n_val"] + 1 / row["n_test"]) / 12) ** 0.5)
