"""The reference loop on a split table: it trains on what is published, and says what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.check import validate
from datakit.check.validate import reference_loop
from datakit.errors import CatalogError
from datakit.rng import rng_for
from datakit.stage import Ref
from datakit.stages.columns import TableRows
from datakit.train.ood_loop import LoopResult

pytest.importorskip("torch")
SIDE = 16
LISTS = {
    "train": ["a", "b"] * 4,
    "val": ["a", "b"],
    "test": ["a", "b"] * 2,
    "near_ood": ["c", "c"],
    "outliers": ["d", "d"],
}
OPTIONS = {
    "size": SIDE, "epochs": 1, "finetune_epochs": 1, "batch_size": 4, "methods": ("ce", "oe"),
    "detectors": ("msp",), "bootstrap": 5, "device": "cpu",
}  # fmt: skip


def loop(lists: Mapping[str, list[str]]) -> dict[str, Any]:
    """The reference loop on random images: list → the class of each of its images."""
    published = [(name, label) for name, labels in lists.items() for label in labels]
    known = sorted(set(LISTS["train"]))
    inside = ("train", "val", "test")
    split = pa.table(
        {
            "key": [str(i) for i in range(len(published))],
            "class_name": [name for _, name in published],
            "label": [known.index(name) if where in inside else -1 for where, name in published],
            "publish": [where for where, _ in published],
        }
    )
    pixels_ND = rng_for(0, "pixels").integers(0, 256, (len(published), SIDE * SIDE * 3)).astype(np.uint8)
    column = pa.FixedSizeListArray.from_arrays(pa.array(pixels_ND.reshape(-1)), pixels_ND.shape[1])
    found: dict[str, Any] = reference_loop(split=Ref.of(split), seed=0, options=OPTIONS)(
        TableRows(pa.table({"pixels": column}))
    )
    return found


@pytest.mark.parametrize(
    "leak", [{"outliers": ["a", "d"]}, {"near_ood": ["a", "c"]}, {"outliers": ["c", "d"]}, {"val_ood": ["c"]}]
)
def test_a_class_on_two_sides_is_left_to_the_checks(leak: dict[str, list[str]]) -> None:
    """A refusal here would end the build before its report, and without the check's name."""
    assert {row["method"] for row in loop(LISTS | leak)["rows"]} == {"ce", "oe"}


def test_scores_are_stored_as_they_were_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Near 1 the scores of a sure model differ by less than a millionth, and a tie is another ROC curve."""
    scores_N = 1 - np.array([1e-9, 2e-9, 3e-9])
    empty: dict[str, Any] = {name: [] for name in LoopResult.__dataclass_fields__}
    result = LoopResult(**empty | {"seed": 0, "scores": {"ce/msp/test": scores_N}, "predictions": {}})
    monkeypatch.setattr(validate, "run_loop", lambda *_, **__: result)
    assert loop(LISTS)["scores"] == {"ce/msp/test": scores_N.tolist()}


@pytest.mark.parametrize("missing", ["train", "val", "test", "near_ood"])
def test_a_split_with_nothing_to_train_on_or_to_detect_is_a_fault_of_the_catalog(missing: str) -> None:
    lists = {name: labels for name, labels in LISTS.items() if name != missing}
    with pytest.raises(CatalogError, match="validate=none"):
        loop(lists)
