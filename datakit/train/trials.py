"""One trained and scored model a method: the baseline, then fine-tunes from its weights. Not run on a GPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from datakit.train.augment import Images, resize
from datakit.train.backbone import Classifier, build
from datakit.train.classifier import Outputs, Plan, TrainingSet, fit, predict
from datakit.train.data import LoopData
from datakit.train.detect import Context, fit_detector
from datakit.train.options import OUTLIER_METHODS, LoopOptions
from datakit.train.outlier_exposure import loss_for

BASELINE = "ce"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A method's model in figures.

    curve        epoch (from 1), loss, val_accuracy
    predictions  by split (train, val, test): label (N,)
    scores       by "DETECTOR/SPLIT" (val, test, ood/TIER): float64 (N,), higher = more in-distribution
    parameters   by detector, in words; `notes` by detector too
    """

    method: str
    curve: list[dict[str, float]]
    predictions: dict[str, npt.NDArray[np.int64]]
    scores: dict[str, npt.NDArray[np.float64]]
    parameters: dict[str, str]
    notes: dict[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """What all trials of a run share; `images` are the splits' at the size trained on, `labels` those of train."""

    data: LoopData
    images: dict[str, Images]
    labels: npt.NDArray[np.int64]
    options: LoopOptions
    device: torch.device
    seed: int


def run_trials(
    data: LoopData, options: LoopOptions, methods: tuple[str, ...], device: torch.device, *, seed: int
) -> Iterator[Trial]:
    """Trials in the order of `methods`; the baseline is trained in any case, since all others start from it.

    A trial depends on the seed, the data, its own options and the baseline: adding a method or a detector changes
    no other figure.
    """
    images = {name: resize(split.images_NHWC, options.size) for name, split in data.splits().items()}
    labels = data.train.labels.astype(np.int64)  # a copy: torch wants int64 in memory it may write
    bench = _Bench(data=data, images=images, labels=labels, options=options, device=device, seed=seed)
    plan = Plan(
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=options.lr,
        weight_decay=options.weight_decay,
        hflip=options.hflip,
        device=device,
    )
    baseline = build(options.backbone, data.n_classes, seed=seed, pretrained=options.pretrained).to(device)
    curve = _train(bench, baseline, BASELINE, plan)
    tune = replace(plan, epochs=options.finetune_epochs, lr=options.finetune_lr)
    for method in methods:
        if method == BASELINE:
            yield _scored(bench, baseline, method, curve)
            continue
        model = copy.deepcopy(baseline)
        yield _scored(bench, model, method, _train(bench, model, method, tune))


def _train(bench: _Bench, model: Classifier, method: str, plan: Plan) -> list[dict[str, float]]:
    """Train in place and give the curve."""
    # methods without outliers do not draw them: their figures are the same whether there are any
    outliers_NHWC = bench.images["outliers"] if method in OUTLIER_METHODS else None
    training = TrainingSet(
        images_NHWC=bench.images["train"], labels=bench.labels, outliers_NHWC=outliers_NHWC
    )
    loss = loss_for(method, bench.data.n_classes, seed=bench.seed)
    curve: list[dict[str, float]] = []
    for epoch, mean_loss in fit(model, training, loss, plan, seed=bench.seed, name=method):
        predicted = predict(model, bench.images["val"], bench.device).predictions()
        accuracy = float(np.mean(predicted == bench.data.val.labels))
        curve.append({"epoch": epoch + 1, "loss": mean_loss, "val_accuracy": accuracy})
    return curve


def _scored(bench: _Bench, model: Classifier, method: str, curve: list[dict[str, float]]) -> Trial:
    """Cache what the model says about every split, then run the detectors on that."""
    outputs = {
        name: predict(model, images, bench.device)
        for name, images in bench.images.items()
        if name != "outliers"
    }
    tuning = "val_ood" in outputs
    context = Context(
        model=model,
        device=bench.device,
        train=outputs["train"],
        train_labels=bench.labels,
        val=outputs["val"] if tuning else None,
        val_ood=outputs["val_ood"] if tuning else None,
    )
    detectors = {name: fit_detector(name, context) for name in bench.options.detectors}
    return Trial(
        method=method,
        curve=curve,
        predictions={name: outputs[name].predictions() for name in ("train", "val", "test")},
        scores={
            f"{name}/{split}": detector.score(outputs[split])
            for name, detector in detectors.items()
            for split in _judged(outputs)
        },
        parameters={name: detector.parameters for name, detector in detectors.items()},
        notes={name: detector.notes for name, detector in detectors.items()},
    )


def _judged(outputs: dict[str, Outputs]) -> list[str]:
    """The splits that are scored: not train, on which detectors were fitted, nor OOD val, on which they were chosen."""
    return [name for name in outputs if name not in ("train", "val_ood")]
