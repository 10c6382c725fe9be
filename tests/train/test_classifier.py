"""The training loop's own parts: its schedule, its batches, its evaluation mode."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datakit.rng import rng_for
from datakit.train.backbone import build
from datakit.train.classifier import Plan, TrainingSet, cosine, fit, predict
from datakit.train.outlier_exposure import loss_for

PLAN = Plan(epochs=2, batch_size=8, lr=0.05, weight_decay=0.0, hflip=False, device=torch.device("cpu"))


def training_set(n: int = 20) -> TrainingSet:
    """Two classes that a glance tells apart: dark and bright."""
    labels = np.arange(n) % 2
    noise = rng_for(0, "dark and bright").integers(0, 60, size=(n, 16, 16, 3))
    return TrainingSet(
        images_NHWC=(noise + 180 * labels[:, None, None, None]).astype(np.uint8), labels=labels
    )


def test_the_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    rates = [cosine(step / 100) for step in range(101)]
    assert max(rates) == rates[10] == 1.0
    assert 0 < rates[0] < 0.2 and rates[-1] == pytest.approx(0, abs=1e-12)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_training_lowers_the_loss() -> None:
    data, model = training_set(), build("cnn", 2, seed=0)
    plan = Plan(epochs=6, batch_size=8, lr=0.05, weight_decay=0.0, hflip=False, device=torch.device("cpu"))
    losses = [loss for _, loss in fit(model, data, loss_for("ce", 2, seed=0), plan, seed=0, name="ce")]
    assert losses[-1] < losses[0] / 2
    assert np.mean(predict(model, data.images_NHWC, plan.device).predictions() == data.labels) == 1.0


def test_a_batch_larger_than_the_data_is_cut_to_it() -> None:
    model = build("cnn", 2, seed=0)
    steps = list(fit(model, training_set(n=5), loss_for("ce", 2, seed=0), PLAN, seed=0, name="ce"))
    assert [epoch for epoch, _ in steps] == [0, 1]


def test_fewer_outliers_than_images_are_used_again() -> None:
    data = training_set()
    few = TrainingSet(images_NHWC=data.images_NHWC, labels=data.labels, outliers_NHWC=data.images_NHWC[:3])
    losses = [
        x for _, x in fit(build("cnn", 2, seed=0), few, loss_for("oe", 2, seed=0), PLAN, seed=0, name="oe")
    ]
    assert np.isfinite(losses).all()


def test_predictions_do_not_depend_on_the_neighbours_in_a_batch() -> None:
    model, data = build("cnn", 2, seed=0), training_set()
    whole = predict(model, data.images_NHWC, PLAN.device)
    alone = predict(model, data.images_NHWC[4:5], PLAN.device)
    assert torch.allclose(whole.logit_NK[4:5], alone.logit_NK, atol=1e-5)
    assert not model.training
