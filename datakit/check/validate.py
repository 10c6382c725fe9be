"""The validation of a split: the reference loop on its pixels, and probes on fixed features.

Both read the split table and the rows' columns; what they give is JSON, so that the report and the null-control
check read it like any other result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from datakit.check.probe import knn_probe, linear_probe, probe_rows
from datakit.errors import CatalogError
from datakit.stage import Ref, Rows, reduce
from datakit.train.ood_loop import LoopData, LoopOptions, Split, run_loop


@reduce(version=3)
def reference_loop(
    rows: Rows, *, split: Ref[pa.Table], seed: int, options: Mapping[str, Any], column: str = "pixels"
) -> dict[str, Any]:
    """`LoopResult` of one seed as JSON, its scores and predictions in `scores` and `predictions`.

    rows: with `column`, uint8 (side · side · 3). split: the split table of this seed, in the order of the rows.
    options: those of `LoopOptions` that are not at their default. Raises CatalogError where the split leaves
    nothing to train on or to detect.
    """
    table = split.value
    pixels_ND = fixed_lists(rows.table([column])[column])
    side = round((pixels_ND.shape[1] // 3) ** 0.5)
    splits = {name: _split(table, pixels_ND, name, side) for name in sorted(_published(table))}
    for needed in ("train", "val", "test"):
        if needed not in splits:
            raise CatalogError(
                f"the split {needed} is empty: there is nothing to validate; give validate=none"
            )
    if not tiers(table):
        raise CatalogError(
            "no list of held-out images has any: there is nothing to detect; hold out classes, or give validate=none"
        )
    data = LoopData(
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        ood={name.removesuffix("_ood"): splits[name] for name in tiers(table)},
        val_ood=splits.get("val_ood"),
        outliers=splits.get("outliers"),
    )
    result = run_loop(data, LoopOptions(**options), seed=seed)
    return {
        **result.as_json(),
        "scores": {name: values.tolist() for name, values in result.scores.items()},
        "predictions": {name: values.tolist() for name, values in result.predictions.items()},
    }


def tiers(table: pa.Table) -> list[str]:
    """Published OOD test splits of a split table, nearest first."""
    order = ("near_ood", "mid_ood", "far_ood", "coarse_ood")
    return [name for name in order if name in _published(table)]


def fixed_lists(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column of lists of one length as an array (rows, length)."""
    array = column.combine_chunks()
    length = array.type.list_size
    return np.asarray(array.flatten().to_numpy(zero_copy_only=False)).reshape(-1, length)


def _published(table: pa.Table) -> set[str]:
    return set(pc.unique(table["publish"]).to_pylist()) - {None, "reserve"}


def _split(table: pa.Table, pixels_ND: NDArray[np.uint8], name: str, side: int) -> Split:
    index = _rows(table, name)
    chosen = table.take(pa.array(index))
    return Split(
        images_NHWC=np.ascontiguousarray(pixels_ND[index].reshape(-1, side, side, 3)),
        labels=chosen["label"].to_numpy().astype(np.int64),
        classes=chosen["class_name"].to_pylist(),
        keys=chosen["key"].to_pylist(),
    )


@reduce(version=1)
def probes(
    rows: Rows, *, split: Ref[pa.Table], seed: int, column: str = "features", bootstrap: int = 1000
) -> dict[str, Any]:
    """Linear and k-NN probes on the encoder's features (CNN Features off-the-shelf, Razavian et al. 2014).

    `rows`: metric rows as the loop's, method probe_linear or probe_knn; `accuracy`: seed, method, parameter,
    val and test closed-set accuracy; `notes`. Raises CatalogError where the split has nothing to train on.
    """
    table = split.value
    features_ND = fixed_lists(rows.table([column])[column])
    known = {name: _labelled(table, features_ND, name) for name in ("train", "val", "test")}
    ood = {name: index for name in tiers(table) if len(index := _rows(table, name))}
    evaluate = {"test": known["test"][0], **{name: features_ND[index] for name, index in ood.items()}}
    classes = {name: table["class_name"].take(pa.array(index)).to_pylist() for name, index in ood.items()}
    found: dict[str, Any] = {"seed": seed, "rows": [], "accuracy": [], "notes": []}
    for probe in (linear_probe, knn_probe):
        result = probe(*known["train"], evaluate, val_ND=known["val"][0], val_labels=known["val"][1])
        metric_rows = probe_rows(
            result,
            seed=seed,
            id_set="test",
            id_labels=known["test"][1],
            ood_classes=classes,
            bootstrap=bootstrap,
        )
        found["rows"] += [row | {"tier": row["tier"].removesuffix("_ood")} for row in metric_rows]
        found["accuracy"].append(
            {
                "seed": seed,
                "method": f"probe_{result.probe}",
                "parameter": result.parameter,
                "val": result.val_accuracy,
                "test": result.accuracy("test", known["test"][1]),
                "n_test": len(known["test"][1]),
            }
        )
        found["notes"] += result.notes
    return found


def _labelled(
    table: pa.Table, features_ND: NDArray[Any], name: str
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    index = _rows(table, name)
    if not len(index):
        raise CatalogError(f"the split {name} is empty: there is nothing to validate; give validate=none")
    return features_ND[index], table["label"].take(pa.array(index)).to_numpy().astype(np.int64)


def _rows(table: pa.Table, name: str) -> NDArray[np.int64]:
    return np.flatnonzero(pc.fill_null(pc.equal(table["publish"], name), False).to_numpy())


@reduce(version=1)
def validation_table(
    rows: Rows, *, loops: Sequence[Ref[dict[str, Any]]], probed: Sequence[Ref[dict[str, Any]]]
) -> pa.Table:
    """Every metric row of the loops and probes, one table: what the report's figures come from."""
    return pa.Table.from_pylist([row for ref in (*loops, *probed) for row in ref.value["rows"]])
