"""Detectors on features made by hand: orientation, degenerate fits, and the choice of parameters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.special import logsumexp, softmax

from datakit.errors import ConfigError
from datakit.rng import rng_for
from datakit.train.backbone import Classifier, build
from datakit.train.classifier import Outputs, predict
from datakit.train.detect import Context, fit_detector
from datakit.train.metrics import auroc
from datakit.train.options import DETECTORS
from datakit.train.whiten import whitening

CLASSES, DIM, EACH = 6, 16, 30
Floats = npt.NDArray[np.float64]


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


def vague_blobs() -> Blobs:
    """Classes that overlap, read by a head of any weights: no two detectors say the same."""
    blobs, rng = Blobs(), rng_for(0, "vague blobs")
    with torch.no_grad():
        blobs.model.head.weight.copy_(torch.from_numpy(rng.normal(size=(CLASSES, DIM))))
        blobs.model.head.bias.copy_(torch.from_numpy(rng.normal(size=CLASSES)))
    mix_DD, means_ND = rng.normal(size=(DIM, DIM)), 3 * np.eye(CLASSES, DIM)[blobs.labels]
    blobs.train, blobs.test = (
        blobs.outputs((means_ND + rng.normal(size=(len(blobs.labels), DIM))) @ mix_DD) for _ in range(2)
    )
    blobs.ood = blobs.outputs(rng.normal(size=(50, DIM)) @ mix_DD)
    return blobs


def distances(x_ND: Floats, train_MD: Floats) -> Floats:
    """To every training image, of features of length 1, nearest first."""
    x_ND, train_MD = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x_ND, train_MD))
    return np.sort(np.linalg.norm(x_ND[:, None] - train_MD[None], axis=2), axis=1)


def by_formula(name: str, blobs: Blobs) -> Floats:
    """The papers' scores of the test images, computed without care for speed."""
    logit_NK = blobs.test.logit_NK.double().numpy()
    x_ND, train_MD = (outputs.feature_ND.double().numpy() for outputs in (blobs.test, blobs.train))
    p_NK = softmax(logit_NK, axis=1)

    def squared(mean_D: Floats, spread_MD: Floats) -> Floats:
        precision_DD = np.linalg.inv(spread_MD.T @ spread_MD / len(spread_MD))
        return np.einsum("nd,de,ne->n", x_ND - mean_D, precision_DD, x_ND - mean_D)

    means_KD = np.stack([train_MD[blobs.labels == label].mean(axis=0) for label in range(CLASSES)])
    to_class_N = np.min([squared(mean, train_MD - means_KD[blobs.labels]) for mean in means_KD], axis=0)
    mean_D = train_MD.mean(axis=0)
    weight_KD, bias_K = (a.detach().double().numpy() for a in blobs.model.head.parameters())
    origin_D = -np.linalg.pinv(weight_KD) @ bias_K
    _, axes_DD = np.linalg.eigh((train_MD - origin_D).T @ (train_MD - origin_D))
    residual_DR = axes_DD[:, : DIM // 2]  # the other half is principal
    virtual_N, virtual_M = (np.linalg.norm((a - origin_D) @ residual_DR, axis=1) for a in (x_ND, train_MD))
    alpha = (train_MD @ weight_KD.T + bias_K).max(axis=1).mean() / virtual_M.mean()
    scores = {
        "msp": p_NK.max(axis=1),
        "mls": logit_NK.max(axis=1),
        "energy": logsumexp(logit_NK, axis=1),
        "gen": -(p_NK**0.1 * (1 - p_NK) ** 0.1).sum(axis=1),
        "knn": -distances(x_ND, train_MD)[:, 6],  # k = 7
        "mahalanobis": -to_class_N,
        "rmd": squared(mean_D, train_MD - mean_D) - to_class_N,
        "vim": logsumexp(logit_NK, axis=1) - alpha * virtual_N,
    }
    return np.asarray(scores[name], dtype=np.float64)


@pytest.mark.parametrize("name", [name for name in DETECTORS if name != "odin"])
def test_scores_are_the_papers_but_for_scale_and_origin(name: str) -> None:
    blobs = vague_blobs()
    found, wanted = (
        (scores - scores.mean()) / scores.std()
        for scores in (fit_detector(name, blobs.context()).score(blobs.test), by_formula(name, blobs))
    )
    assert found == pytest.approx(wanted, abs=1e-4)


def test_sure_images_get_different_gen_scores() -> None:
    """Clamped probabilities would tie them, and a tie counts against the detector."""
    blobs = Blobs()
    sure = replace(blobs.test, logit_NK=torch.eye(CLASSES) * torch.arange(20.0, 26.0)[:, None])
    assert (np.diff(fit_detector("gen", blobs.context()).score(sure)) > 0).all()


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
    vague = vague_blobs()
    test_NM, ood_NM = (
        distances(outputs.feature_ND.double().numpy(), vague.train.feature_ND.double().numpy())
        for outputs in (vague.test, vague.ood)
    )
    quality = {k: auroc(-test_NM[:, k - 1], -ood_NM[:, k - 1]) for k in (1, 2, 3, 5, 10, 20, 50)}
    assert max(quality.values()) > min(quality.values()) + 0.01
    tuned = replace(vague.context(), val=vague.test, val_ood=vague.ood)
    assert fit_detector("knn", tuned).parameters == f"k={max(quality, key=lambda k: quality[k])}"


def test_more_neighbors_than_images_are_not_tried() -> None:
    blobs = Blobs(each=2)
    context = replace(blobs.context(), val=blobs.test, val_ood=blobs.ood)
    assert np.isfinite(fit_detector("knn", context).score(blobs.ood)).all()


def test_an_unknown_detector_is_a_wrong_word() -> None:
    with pytest.raises(ConfigError, match="unknown detector"):
        fit_detector("magic", Blobs().context())
