"""Detectors on features made by hand: orientation, degenerate fits, and the choice of parameters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from datakit.errors import ConfigError
from datakit.rng import rng_for
from datakit.train.backbone import Classifier, build
from datakit.train.classifier import Outputs, predict
from datakit.train.detect import Context, fit_detector
from datakit.train.metrics import auroc
from datakit.train.options import DETECTORS
from datakit.train.whiten import whitening

CLASSES, DIM, EACH = 6, 16, 30


class Blobs:
    """Gaussian classes on axes of feature space, a head that reads them, and OOD around the origin."""

    def __init__(self, *, each: int = EACH) -> None:
        rng = rng_for(0, "blobs")
        self.labels = np.repeat(np.arange(CLASSES), each)
        self.model = build("cnn", CLASSES, seed=0)
        self.model.trunk = torch.nn.Flatten()
        self.model.head = torch.nn.Linear(DIM, CLASSES)
        with torch.no_grad():
            self.model.head.weight.copy_(torch.eye(CLASSES, DIM))
            self.model.head.bias.zero_()
        self.train = self.outputs(
            8 * np.eye(CLASSES, DIM)[self.labels] + rng.normal(size=(len(self.labels), DIM))
        )
        self.test = self.outputs(
            8 * np.eye(CLASSES, DIM)[self.labels] + rng.normal(size=(len(self.labels), DIM))
        )
        self.ood = self.outputs(rng.normal(size=(50, DIM)) * 2)

    def outputs(self, feature_ND: np.ndarray) -> Outputs:
        feature = torch.from_numpy(feature_ND.astype(np.float32))
        images_NHWC = np.zeros((len(feature), 2, 2, 3), dtype=np.uint8)
        return Outputs(
            images_NHWC=images_NHWC, feature_ND=feature, logit_NK=self.model.head(feature).detach()
        )

    def context(self) -> Context:
        return Context(
            model=self.model, device=torch.device("cpu"), train=self.train, train_labels=self.labels
        )


@pytest.mark.parametrize("name", [name for name in DETECTORS if name != "odin"])
def test_higher_is_more_in_distribution(name: str) -> None:
    blobs = Blobs()
    detector = fit_detector(name, blobs.context())
    id_scores, ood_scores = detector.score(blobs.test), detector.score(blobs.ood)
    assert id_scores.dtype == np.float64
    assert np.isfinite(id_scores).all() and np.isfinite(ood_scores).all()
    assert auroc(id_scores, ood_scores) > 0.9


def test_odin_scores_sure_images_higher() -> None:
    model = Classifier(torch.nn.Flatten(), 12, 2)
    with torch.no_grad():
        model.head.weight.copy_(torch.stack([torch.ones(12), -torch.ones(12)]))
        model.head.bias.zero_()
    bright, grey = (np.full((3, 2, 2, 3), value, dtype=np.uint8) for value in (250, 128))
    cpu = torch.device("cpu")
    sure, unsure = predict(model, bright, cpu), predict(model, grey, cpu)
    context = Context(model=model, device=cpu, train=sure, train_labels=np.array([0, 0, 1]))
    detector = fit_detector("odin", context)
    assert detector.score(sure).min() > detector.score(unsure).max()
    assert "T=1000" in detector.parameters and "0.0014" in detector.parameters


@pytest.mark.parametrize("name", ["mahalanobis", "rmd"])
def test_a_dead_feature_is_dropped_with_a_note(name: str) -> None:
    blobs = Blobs()
    for outputs in (blobs.train, blobs.test, blobs.ood):
        outputs.feature_ND[:, -1] = 0
    detector = fit_detector(name, blobs.context())
    assert np.isfinite(detector.score(blobs.test)).all()
    assert any(f"{DIM - 1} of {DIM} directions" in note for note in detector.notes)


@pytest.mark.parametrize("name", ["mahalanobis", "rmd"])
@pytest.mark.parametrize("each", [1, 2])
def test_few_images_a_class_give_a_note_and_no_nan(name: str, each: int) -> None:
    blobs = Blobs(each=each)
    detector = fit_detector(name, blobs.context())
    assert np.isfinite(detector.score(blobs.test)).all()
    assert detector.notes


def test_whitened_distances_are_mahalanobis_distances() -> None:
    blobs = Blobs()
    x_ND = blobs.train.feature_ND.numpy().astype(np.float64)
    mean_KD = np.stack([x_ND[blobs.labels == label].mean(axis=0) for label in range(CLASSES)])
    within_ND = x_ND - mean_KD[blobs.labels]
    precision_DD = np.linalg.inv(within_ND.T @ within_ND / (len(x_ND) - CLASSES))
    step_D = x_ND[0] - mean_KD[2]
    found = whitening(x_ND, blobs.labels)
    whitened_R = (found.apply(x_ND[:1]) - found.apply(mean_KD[2:3]))[0]
    assert float(whitened_R @ whitened_R) == pytest.approx(float(step_D @ precision_DD @ step_D), rel=1e-4)


def test_ood_validation_chooses_the_number_of_neighbors() -> None:
    blobs = Blobs()
    context = blobs.context()
    assert fit_detector("knn", context).parameters == "k=7"  # a quarter of 30
    tuned = replace(context, val=blobs.test, val_ood=blobs.ood)
    assert fit_detector("knn", tuned).parameters in {f"k={k}" for k in (1, 2, 3, 5, 10, 20, 50)}


def test_more_neighbors_than_images_are_not_tried() -> None:
    blobs = Blobs(each=2)
    context = replace(blobs.context(), val=blobs.test, val_ood=blobs.ood)
    assert np.isfinite(fit_detector("knn", context).score(blobs.ood)).all()


def test_an_unknown_detector_is_a_wrong_word() -> None:
    with pytest.raises(ConfigError, match="unknown detector"):
        fit_detector("magic", Blobs().context())
