"""Can one tell ID from near OOD by the file alone: its size, its format, its mean colour?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datakit.check.finding import Finding
from datakit.check.sides import Columns, only, read_split
from datakit.stage import Ref, Rows, reduce

LIMIT = 0.65  # AUROC
FOLDS = 5
FIELDS = ("width", "height", "format", "bytes", "mean_rgb")


@reduce(version=1)
def check_shortcut(
    rows: Rows, *, split: Ref[pa.Table], seed: int | None = None, limit: float = LIMIT
) -> list[dict[str, Any]]:
    """A logistic probe on width, height, bytes (as logarithms), format and mean colour, cross-validated, does
    not tell ID test from near OOD: AUROC at most `limit`. detail: the AUROC of each field alone.
    """
    columns = only(read_split(rows, split.value, *FIELDS), publish=("test", "near_ood"))
    is_ood = np.array([name == "near_ood" for name in columns["publish"]])
    found = _fields(columns)
    rare = min(int(is_ood.sum()), int((~is_ood).sum()))
    if rare < FOLDS or not found:
        why = f"{rare} images on one side" if found else "the rows have none of its fields"
        return [_finding(None, limit, f"the probe was not run: {why}", {}, seed)]
    value = _probe(np.concatenate(list(found.values()), axis=1), is_ood)
    alone = {name: round(_probe(matrix, is_ood), 4) for name, matrix in found.items()}
    strongest = max(alone, key=lambda name: alone[name])
    summary = (
        f"width, height, format, bytes and colour tell ID test from near OOD with AUROC {value:.2f}; "
        f"most does {strongest} ({alone[strongest]:.2f})"
    )
    return [_finding(value, limit, summary, {"alone": alone, "images": len(is_ood)}, seed)]


def _finding(
    value: float | None, limit: float, summary: str, detail: dict[str, Any], seed: int | None
) -> dict[str, Any]:
    passed = value is not None and value <= limit
    return Finding(
        id="shortcut",
        severity="warn",
        passed=passed,
        count=0 if passed else 1,
        value=value,
        limit=limit,
        summary=summary,
        detail=detail,
        seed=seed,
    ).to_json()


def _fields(columns: Columns) -> dict[str, NDArray[np.float64]]:
    """Field → (N, d) numbers; fields that some image lacks are left out."""
    found: dict[str, NDArray[np.float64]] = {}
    for name in ("width", "height", "bytes"):
        if None not in columns[name]:
            found[name] = np.log(np.maximum(np.array(columns[name], dtype=float), 1))[:, None]
    if None not in columns["format"]:
        kinds = sorted(set(columns["format"]))
        found["format"] = np.array([[value == kind for kind in kinds] for value in columns["format"]], float)
    if None not in columns["mean_rgb"]:
        found["mean_rgb"] = np.array(columns["mean_rgb"], dtype=float)
    return found if len(columns["key"]) else {}


def _probe(features_ND: NDArray[np.float64], is_ood: NDArray[np.bool_]) -> float:
    """Cross-validated AUROC of telling OOD (positive), from 0.5: below is no better than guessing."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    scores = cross_val_predict(model, features_ND, is_ood, cv=folds, method="decision_function")
    return float(roc_auc_score(is_ood, scores))
