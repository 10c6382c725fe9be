"""Probes on features made by hand: they learn what is there, and score what is not below it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped,unused-ignore]

from datakit.check.probe import ProbeResult, knn_probe, linear_probe, probe_rows
from datakit.rng import rng_for

CLASSES, DIM = 5, 12
Features = npt.NDArray[np.float32]


def blobs(name: str, each: int, *, spread: float = 0.6) -> tuple[Features, npt.NDArray[np.int64]]:
    """Gaussian classes around axes 4 units out, on features of unequal scale."""
    labels = np.repeat(np.arange(CLASSES), each)
    rng = rng_for(0, "probe blobs", name)
    feature_ND = 4 * np.eye(CLASSES, DIM)[labels] + spread * rng.normal(size=(len(labels), DIM))
    return (feature_ND * np.linspace(0.7, 1.4, DIM)).astype(np.float32), labels


def outside(n: int = 60) -> Features:
    """Around the origin, where no class is."""
    return (rng_for(0, "probe outside").normal(size=(n, DIM)) * np.linspace(0.7, 1.4, DIM)).astype(np.float32)


def probe(kind: str, **words: Any) -> ProbeResult:
    (train_ND, labels), (val_ND, val_labels), (test_ND, _) = (
        blobs("train", 30),
        blobs("val", 10),
        blobs("test", 20),
    )
    run: Any = {"linear": linear_probe, "knn": knn_probe}[kind]
    found = run(
        train_ND, labels, {"test": test_ND, "near": outside()}, val_ND=val_ND, val_labels=val_labels, **words
    )
    assert isinstance(found, ProbeResult)
    return found


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_probes_learn_the_classes_and_score_outside_below(kind: str) -> None:
    found = probe(kind)
    labels = blobs("test", 20)[1]
    assert found.accuracy("test", labels) > 0.85
    assert found.val_accuracy > 0.8
    rows = probe_rows(
        found,
        seed=0,
        id_set="test",
        id_labels=labels,
        ood_classes={"near": ["a"] * 30 + ["b"] * 30},
        bootstrap=50,
    )
    assert {row["detector"] for row in rows} == {"linear": {"msp", "mls", "energy"}, "knn": {"knn"}}[kind]
    assert all(row["auroc"] > 0.8 and row["method"] == f"probe_{kind}" for row in rows)
    assert all(np.isfinite(s).all() for by_set in found.scores.values() for s in by_set.values())


def test_the_scores_are_those_of_the_logits() -> None:
    found = probe("linear")
    logit_NK = found.logits["near"]
    softmax_NK = np.exp(logit_NK) / np.exp(logit_NK).sum(axis=1, keepdims=True)
    assert np.allclose(found.scores["msp"]["near"], softmax_NK.max(axis=1))
    assert np.allclose(found.scores["mls"]["near"], logit_NK.max(axis=1))
    assert np.allclose(found.scores["energy"]["near"], np.log(np.exp(logit_NK).sum(axis=1)))
    assert logit_NK.shape == (60, CLASSES)


def test_probes_repeat_bit_for_bit_on_any_number_of_threads() -> None:
    for kind in ("linear", "knn"):
        one = probe(kind)
        with threadpool_limits(2):
            other = probe(kind)
        for score, by_set in one.scores.items():
            assert all(np.array_equal(scores, other.scores[score][name]) for name, scores in by_set.items())


def test_the_penalty_is_chosen_by_validation_accuracy_and_ties_take_the_stronger() -> None:
    assert probe("linear", strengths=(1.0,)).parameter == "C=1"
    assert probe("linear", strengths=(10.0, 5.0, 1000.0, 5.0)).parameter == "C=5"


def test_a_probe_that_did_not_converge_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datakit.check.probe.MAX_STEPS", 2)
    assert "not converged" in probe("linear", strengths=(1.0,)).notes[0]


def test_two_classes_get_two_logits() -> None:
    train_ND, labels = blobs("train", 30)
    kept = labels < 2
    found = linear_probe(
        train_ND[kept], labels[kept], {"test": train_ND[kept]}, val_ND=train_ND[kept], val_labels=labels[kept]
    )
    assert found.logits["test"].shape == (60, 2)
    assert found.accuracy("test", labels[kept]) > 0.95


def test_the_neighbor_score_is_the_kth_cosine() -> None:
    train_ND, labels = blobs("train", 30)
    found = knn_probe(train_ND, labels, {"self": train_ND}, val_ND=train_ND, val_labels=labels, k=1)
    assert np.allclose(found.scores["knn"]["self"], 1)
    assert found.accuracy("self", labels) == 1
    unit_ND = train_ND / np.linalg.norm(train_ND, axis=1, keepdims=True)
    third = knn_probe(train_ND, labels, {"self": train_ND}, val_ND=train_ND, val_labels=labels, k=3)
    assert np.allclose(third.scores["knn"]["self"], np.sort(unit_ND @ unit_ND.T, axis=1)[:, -3], atol=1e-6)


def test_k_follows_the_size_of_the_classes() -> None:
    assert probe("knn").parameter == "k=7"  # a quarter of 30
    assert probe("knn", k=4).parameter == "k=4"


@pytest.mark.parametrize("run", [linear_probe, knn_probe])
def test_broken_inputs_are_refused(run: Any) -> None:
    train_ND, labels = blobs("train", 6)
    val = {"val_ND": train_ND, "val_labels": labels}
    with pytest.raises(ValueError, match="do not fit"):
        run(train_ND, labels[1:], {}, **val)
    with pytest.raises(ValueError, match="without a gap"):
        run(train_ND, labels + 1, {}, **val)
    with pytest.raises(ValueError, match="near features must be"):
        run(train_ND, labels, {"near": train_ND[:, :3]}, **val)
    with pytest.raises(ValueError, match="NaN"):
        run(train_ND, labels, {"near": np.full_like(train_ND, np.nan)}, **val)
    with pytest.raises(ValueError, match="near features must be"):
        run(train_ND, labels, {"near": train_ND[:0]}, **val)


def test_k_must_be_among_the_training_images() -> None:
    train_ND, labels = blobs("train", 6)
    for k in (0, 31):
        with pytest.raises(ValueError, match="1 to 30"):
            knn_probe(train_ND, labels, {}, val_ND=train_ND, val_labels=labels, k=k)


def test_no_strength_to_choose_from_is_refused() -> None:
    with pytest.raises(ValueError, match="strengths"):
        probe("linear", strengths=())
