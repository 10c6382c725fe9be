"""The reference loop on procedural pictures: what must hold whichever method wins."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from datakit.errors import ConfigError, MissingExtra
from datakit.train import ood_loop
from datakit.train.data import LoopData
from datakit.train.ood_loop import LoopOptions, LoopResult, aggregate, run_loop
from datakit.train.options import DETECTORS, METHODS
from datakit.train.runtime import pick_device

QUICK = LoopOptions(size=32, epochs=1, finetune_epochs=1, bootstrap=20, device="cpu")


def test_the_baseline_learns_the_toy_classes(toy_run: Any) -> None:
    assert toy_run.accuracy("ce") > 0.95


@pytest.mark.parametrize(
    ("method", "points"), [("ce_control", 0.02), ("oe", 0.02), ("mixoe_mixup", 0.04), ("mixoe_cutmix", 0.04)]
)
def test_a_finetune_keeps_the_accuracy(toy_run: Any, method: str, points: float) -> None:
    assert toy_run.accuracy(method) >= toy_run.accuracy("ce") - points - 1e-9


def test_outlier_exposure_moves_far_ood_away_in_energy(toy_run: Any) -> None:
    assert toy_run.row("oe", "energy", "far")["auroc"] > toy_run.row("ce_control", "energy", "far")["auroc"]


@pytest.mark.parametrize("detector", DETECTORS)
def test_every_detector_is_oriented_and_finite(toy_run: Any, detector: str) -> None:
    for method in METHODS:
        for tier in ("near", "far"):
            assert toy_run.row(method, detector, tier)["auroc"] > 0.5, (method, tier)
    assert all(np.isfinite(scores).all() for scores in toy_run.result.scores.values())


def test_id_against_id_is_a_coin_toss(toy_run: Any) -> None:
    rows = toy_run.result.null_control
    assert len(rows) == len(METHODS) * len(DETECTORS)
    assert (
        max(abs(row["auroc"] - 0.5) for row in rows) < 0.08
    )  # 240 images a side: 0.026 is one standard error


def test_rows_cover_every_method_detector_and_tier_and_are_json(toy_run: Any) -> None:
    result = toy_run.result
    names = {(row["method"], row["detector"], row["tier"]) for row in result.rows}
    assert names == {(m, d, t) for m in METHODS for d in DETECTORS for t in ("near", "far")}
    assert json.loads(json.dumps(result.as_json())) == result.as_json()
    for row in result.rows:
        assert row["auroc_low"] <= row["auroc"] <= row["auroc_high"]
        assert row["fpr_at_95tpr_id"] == pytest.approx(1 - row["tnr_at_95tpr_id"])
        assert row["oscr"] <= toy_run.accuracy(row["method"]) + 1e-9
    assert len(result.curves) == toy_run.options.epochs + (len(METHODS) - 1) * toy_run.options.finetune_epochs


def test_scores_lie_beside_the_keys_they_belong_to(toy_run: Any) -> None:
    result = toy_run.result
    for name, scores in result.scores.items():
        split = name.split("/", 2)[2]
        assert len(scores) == len(result.keys[split])
    assert result.keys["ood/near"] == toy_run.data.ood["near"].keys


def same(one: LoopResult, other: LoopResult) -> bool:
    def arrays(result: LoopResult) -> dict[str, list[float]]:
        return {name: values.tolist() for name, values in {**result.scores, **result.predictions}.items()}

    return arrays(one) == arrays(other) and one.as_json() == other.as_json()


def test_two_runs_are_equal_bit_for_bit_whatever_the_threads(small_data: LoopData) -> None:
    before = torch.get_num_threads()
    first = run_loop(small_data, QUICK, seed=3)
    torch.manual_seed(123)  # whatever the caller did to the global generators
    np.random.seed(5)
    torch.set_num_threads(2)
    try:
        again = run_loop(small_data, QUICK, seed=3)
        assert torch.get_num_threads() == 2, "the caller's setting comes back"
    finally:
        torch.set_num_threads(before)
    assert same(first, again)
    assert not torch.are_deterministic_algorithms_enabled()


def test_seeds_differ_and_methods_do_not_touch_each_other(small_data: LoopData) -> None:
    options = replace(QUICK, detectors=("energy",))
    whole = run_loop(small_data, options, seed=0)
    alone = run_loop(small_data, replace(options, methods=("oe",)), seed=0)
    other = run_loop(small_data, replace(options, methods=("oe",)), seed=1)
    assert np.array_equal(whole.scores["oe/energy/test"], alone.scores["oe/energy/test"])
    assert not np.array_equal(alone.scores["oe/energy/test"], other.scores["oe/energy/test"])


def test_without_outliers_their_methods_are_left_out_with_a_note(small_data: LoopData) -> None:
    data = replace(small_data, outliers=None)
    result = run_loop(data, replace(QUICK, detectors=("msp",)), seed=0)
    assert {row["method"] for row in result.rows} == {"ce", "ce_control"}
    assert any("oe, mixoe_mixup, mixoe_cutmix not run" in note for note in result.notes)
    with_them = run_loop(small_data, replace(QUICK, detectors=("msp",)), seed=0)
    for name in ("ce/msp/test", "ce_control/msp/ood/near"):
        assert np.array_equal(result.scores[name], with_them.scores[name]), (
            "outliers touch only their methods"
        )


def test_only_outlier_methods_and_no_outliers_is_a_wrong_word(small_data: LoopData) -> None:
    with pytest.raises(ConfigError, match="oe need outliers"):
        run_loop(replace(small_data, outliers=None), replace(QUICK, methods=("oe",)), seed=0)


def test_a_noisy_covariance_is_noted_once(small_data: LoopData) -> None:
    options = replace(QUICK, methods=("ce", "ce_control"), detectors=("mahalanobis", "rmd"))
    notes = [note for note in run_loop(small_data, options, seed=0).notes if "noisy" in note]
    assert len(notes) == 1
    assert "(ce/mahalanobis, ce/rmd, ce_control/mahalanobis, ce_control/rmd)" in notes[0]


def test_ood_validation_chooses_parameters_and_is_not_scored(small_data: LoopData) -> None:
    far = small_data.ood["far"]
    data = replace(small_data, ood={"near": small_data.ood["near"]}, val_ood=far)
    options = replace(QUICK, methods=("ce",), detectors=("knn", "odin"))
    result = run_loop(data, options, seed=0)
    assert {row["tier"] for row in result.rows} == {"near"}
    assert set(result.keys) == {"val", "test", "ood/near"}
    assert [row["parameters"].split("=")[0] for row in result.parameters] == ["k", "T"]


def test_images_of_another_size_are_resized(small_data: LoopData) -> None:
    result = run_loop(small_data, replace(QUICK, size=24, methods=("ce",), detectors=("msp",)), seed=0)
    assert len(result.rows) == 2


def test_arrays_may_be_read_only_and_labels_of_any_integer_type(small_data: LoopData) -> None:
    options = replace(QUICK, methods=("ce",), detectors=("knn",))
    train = small_data.train
    images_NHWC = train.images_NHWC.copy()
    images_NHWC.setflags(write=False)
    labels: Any = train.labels.astype(np.int32)
    labels.setflags(write=False)
    frozen = replace(small_data, train=replace(train, images_NHWC=images_NHWC, labels=labels))
    assert same(run_loop(frozen, options, seed=0), run_loop(small_data, options, seed=0))


def test_a_missing_torch_is_said_in_one_line(small_data: LoopData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_ood.detector", None)
    for name in [name for name in sys.modules if name in ("datakit.train.detect", "datakit.train.trials")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("datakit.train.trials", raising=False)
    with pytest.raises(MissingExtra, match=r"datakit\[torch\]"):
        run_loop(small_data, QUICK, seed=0)


def test_a_device_that_is_not_there_is_a_wrong_word(small_data: LoopData) -> None:
    with pytest.raises(ConfigError, match="device=toaster"):
        run_loop(small_data, replace(QUICK, device="toaster"), seed=0)


@pytest.mark.parametrize("name", ["meta", "vulkan", f"cuda:{torch.cuda.device_count()}"])
def test_a_device_that_torch_names_but_cannot_use_is_a_wrong_word(name: str) -> None:
    with pytest.raises(ConfigError, match=f"device={name} cannot be used"):
        pick_device(name)


def test_importing_the_loop_costs_no_torch() -> None:
    modules = "datakit.train.ood_loop, datakit.train.metrics, datakit.check.probe"
    script = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def run_of(seed: int, auroc: float) -> dict[str, Any]:
    from datakit.train.results import AVERAGED

    row = {"method": "ce", "detector": "msp", "tier": "near", "n_id": 10, "n_ood": 20}
    return {"seed": seed, "rows": [row | dict.fromkeys(AVERAGED, auroc)]}


def test_aggregate_gives_mean_and_sample_deviation() -> None:
    (row,) = aggregate([run_of(0, 0.7), run_of(1, 0.8), run_of(2, 0.9)])
    assert row["auroc_mean"] == pytest.approx(0.8)
    assert row["auroc_std"] == pytest.approx(0.1)
    assert (row["seeds"], row["n_ood"]) == (3, 20)


def test_aggregate_knows_no_deviation_from_one_seed_and_refuses_a_seed_twice() -> None:
    assert aggregate([run_of(0, 0.7)])[0]["auroc_std"] is None
    with pytest.raises(ValueError, match="twice"):
        aggregate([run_of(0, 0.7), run_of(0, 0.8)])


def test_public_names_are_there() -> None:
    assert all(hasattr(ood_loop, name) for name in ood_loop.__all__)
