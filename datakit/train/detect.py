"""OOD scores on cached features and logits, most by pytorch-ood's detectors; higher = more in-distribution.

pytorch-ood scores the other way round (higher = outlier), so every score is negated here and nowhere else.
Detectors that learn anything learn it from ID training images only. Not run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import sklearn.neighbors  # noqa: F401  # before threads are limited: only libraries already loaded are
import torch
from pytorch_ood.detector import KNN, ODIN, RMD, EnergyBased, Mahalanobis, MaxLogit, MaxSoftmax, ViM
from torch import Tensor, nn

from datakit.errors import ConfigError
from datakit.train.augment import to_tensor
from datakit.train.backbone import Classifier
from datakit.train.classifier import EVAL_BATCH, Outputs
from datakit.train.data import default_k
from datakit.train.metrics import auroc
from datakit.train.whiten import whitening

GEN_GAMMA, GEN_TOP = 0.1, 100  # exponent and number of classes summed over (Liu et al. 2023, on ImageNet)
# Liang et al. 2018 take T = 1000 and a step of about 0.0014 of the pixel range [0, 1]
ODIN_TEMPERATURE, ODIN_STEP, ODIN_STEPS = 1000.0, 0.0014, (0.0, 0.0014, 0.005)
KNN_KS = (1, 2, 3, 5, 10, 20, 50)  # tried where there is OOD validation

Scores = npt.NDArray[np.float64]
Scorer = Callable[[Outputs], Scores]
Parameter = TypeVar("Parameter", int, float)


@dataclass(frozen=True, kw_only=True)
class Context:
    """A trained model, what it says about its ID training images, and what choosing parameters may look at."""

    model: Classifier
    device: torch.device
    train: Outputs
    train_labels: npt.NDArray[np.int64]
    val: Outputs | None = None  # ID validation and OOD validation: both or neither
    val_ood: Outputs | None = None


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A fitted detector: its scorer, its parameters in words, and what a reader must know about the fit."""

    score: Scorer
    parameters: str = ""
    notes: list[str] = field(default_factory=list)


def fit_detector(name: str, context: Context) -> Detector:
    """Fit one detector; scores are (N,) float64, finite, higher = more in-distribution.

    msp      Hendrycks & Gimpel 2017          mls   largest logit, Hendrycks et al. 2022
    energy   Liu et al. 2020, T = 1           gen   Liu et al. 2023, gamma 0.1, 100 largest probabilities
    odin     Liang et al. 2018, with its input step    knn   Sun et al. 2022, cosine, distance to the k-th neighbour
    mahalanobis   Lee et al. 2018, last features       rmd   relative Mahalanobis, Ren et al. 2021
    vim      Wang et al. 2022, half of the dimensions principal

    ODIN's step is the paper's and KNN's k is `default_k`, or both are chosen by AUROC of ID val against OOD val
    where the context has them.  Raises ConfigError for an unknown name.
    """
    if name not in _BUILDERS:
        raise ConfigError(f"unknown detector {name}: choose from {', '.join(_BUILDERS)}")
    return _BUILDERS[name](context)


def _msp(_: Context) -> Detector:
    return Detector(score=_of_logits(MaxSoftmax.score))


def _mls(_: Context) -> Detector:
    return Detector(score=_of_logits(MaxLogit.score))


def _energy(_: Context) -> Detector:
    return Detector(score=_of_logits(EnergyBased.score), parameters="T=1")


def _gen(context: Context) -> Detector:
    top = min(GEN_TOP, context.model.head.out_features)

    def entropy(logit_NK: Tensor) -> Tensor:
        # Not pytorch-ood's: it clamps p to [1e-7, 1 - 1e-7], and sure images tie, on the side that counts against us
        p_NM = logit_NK.softmax(dim=1).topk(top, dim=1).values
        return (p_NM**GEN_GAMMA * (1 - p_NM) ** GEN_GAMMA).sum(dim=1)

    return Detector(score=_of_logits(entropy), parameters=f"gamma={GEN_GAMMA}, M={top}")


def _odin(context: Context) -> Detector:
    logits_of = _LogitsOnly(context.model)

    def build(step: float) -> Scorer:
        odin = ODIN(logits_of, eps=step, temperature=ODIN_TEMPERATURE)
        return lambda outputs: _negated(_by_batch(odin.predict, outputs, context.device))

    step = _choose(ODIN_STEPS, ODIN_STEP, build, context)
    return Detector(score=build(step), parameters=f"T={ODIN_TEMPERATURE:g}, step={step:g} of [0, 1]")


def _knn(context: Context) -> Detector:
    n_train = len(context.train_labels)

    def build(k: int) -> Scorer:
        knn = KNN(None, k=k).fit_features(context.train.feature_ND, torch.from_numpy(context.train_labels))
        knn.knn.set_params(n_jobs=1)  # pytorch-ood takes every core
        return lambda outputs: _negated(knn.predict_features(outputs.feature_ND))

    k = _choose([k for k in KNN_KS if k <= n_train], default_k(context.train_labels), build, context)
    return Detector(score=build(k), parameters=f"k={k}")


def _gaussian(kind: type[Mahalanobis], context: Context) -> Detector:
    """Mahalanobis and its relative form, on whitened features: the distances are the same, the inverse is safe."""
    whiten = whitening(context.train.feature_ND.numpy(), context.train_labels)
    detector = kind(None).fit_features(
        torch.from_numpy(whiten.apply(context.train.feature_ND.numpy())),
        torch.from_numpy(context.train_labels),
    )

    def score(outputs: Outputs) -> Scores:
        return _negated(detector.predict_features(torch.from_numpy(whiten.apply(outputs.feature_ND.numpy()))))

    return Detector(score=score, parameters=f"{whiten.rank} of {whiten.dim} dimensions", notes=whiten.notes())


def _vim(context: Context) -> Detector:
    head = context.model.head
    principal = head.in_features // 2
    vim = ViM(None, d=principal, w=head.weight.cpu(), b=head.bias.cpu())
    vim.fit_features(context.train.feature_ND, torch.from_numpy(context.train_labels))
    return Detector(
        score=lambda outputs: _negated(vim.predict_features(outputs.feature_ND)), parameters=f"d={principal}"
    )


_BUILDERS: dict[str, Callable[[Context], Detector]] = {
    "msp": _msp,
    "mls": _mls,
    "energy": _energy,
    "gen": _gen,
    "odin": _odin,
    "knn": _knn,
    "mahalanobis": lambda context: _gaussian(Mahalanobis, context),
    "rmd": lambda context: _gaussian(RMD, context),
    "vim": _vim,
}


class _LogitsOnly(nn.Module):
    """The classifier as ODIN wants it. float64: at T = 1000 all probabilities lie near 1/K, and float32 ties them."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, image_NCHW: Tensor) -> Tensor:
        logit_NK: Tensor = self.model(image_NCHW)[1]
        return logit_NK.double()


def _of_logits(outlier_score: Callable[[Tensor], Tensor]) -> Scorer:
    # float64: a float32 softmax is 1.0 for every sure image, and ties count against the detector
    return lambda outputs: _negated(outlier_score(outputs.logit_NK.double()))


def _by_batch(outlier_score: Callable[[Tensor], Tensor], outputs: Outputs, device: torch.device) -> Tensor:
    starts = range(0, len(outputs.images_NHWC), EVAL_BATCH)
    images = (to_tensor(outputs.images_NHWC[start : start + EVAL_BATCH], device) for start in starts)
    return torch.cat([outlier_score(image_NCHW).cpu() for image_NCHW in images])


def _negated(outlier_score_N: Tensor) -> Scores:
    return -np.asarray(outlier_score_N.detach().cpu().numpy(), dtype=np.float64)


def _choose(
    candidates: Sequence[Parameter],
    default: Parameter,
    build: Callable[[Parameter], Scorer],
    context: Context,
) -> Parameter:
    """The candidate with the best AUROC of ID val against OOD val, the first of equals; the default without them."""
    if context.val is None or context.val_ood is None:
        return default
    val, val_ood = context.val, context.val_ood

    def quality(candidate: Parameter) -> float:
        scorer = build(candidate)
        return auroc(scorer(val), scorer(val_ood))

    return max(candidates, key=quality)
