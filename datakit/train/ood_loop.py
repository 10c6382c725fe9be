"""The reference loop of `fg_ood`: how hard a split is, for ordinary training and for training with outliers.

A baseline trained with cross-entropy, then a few epochs from its weights with every method; every trained model is
scored by every detector on ID test and each OOD tier. Importing this file costs no torch; running the loop does.
It measures and promises nothing: which method wins depends on seed and outliers (see `LoopResult.rows`' intervals).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from datakit.errors import ConfigError, MissingExtra
from datakit.train.data import LoopData, Split
from datakit.train.options import OUTLIER_METHODS, LoopOptions
from datakit.train.results import LoopResult, Row, Scored, aggregate, metric_row, null_row

if TYPE_CHECKING:
    from datakit.train.trials import Trial

__all__ = ["LoopData", "LoopOptions", "LoopResult", "Split", "aggregate", "run_loop"]


def run_loop(data: LoopData, options: LoopOptions, *, seed: int) -> LoopResult:
    """Train, score and measure for one seed. Equal arguments give equal results, bit for bit on one machine's CPU:
    one thread, whatever the machine has (run seeds in processes beside each other). Not run on a GPU.

    Raises MissingExtra without torch, ConfigError for a device or backbone that is not there or methods that all
    need outliers where there are none, EnvironmentProblem for weights that cannot be fetched.
    """
    trials, settings, notes = _train_and_score(data, options, seed=seed)
    return LoopResult(
        seed=seed,
        rows=[row for trial in trials for row in _metric_rows(trial, data, options, seed)],
        null_control=[row for trial in trials for row in _null_rows(trial, options, seed)],
        accuracy=[_accuracy_row(trial, data, seed) for trial in trials],
        curves=[{"seed": seed, "method": trial.method, **point} for trial in trials for point in trial.curve],
        parameters=[
            {"seed": seed, "method": trial.method, "detector": name, "parameters": words}
            for trial in trials
            for name, words in trial.parameters.items()
        ],
        notes=notes + _fit_notes(trials),
        settings=settings,
        keys={name: list(split.keys) for name, split in _scored_splits(data).items()},
        scores={f"{t.method}/{name}": scores for t in trials for name, scores in t.scores.items()},
        predictions={f"{t.method}/{name}": t.predictions[name] for t in trials for name in ("val", "test")},
    )


def runnable(data: LoopData, options: LoopOptions) -> tuple[tuple[str, ...], list[str]]:
    """The methods that the data allow, and a note where some are left out.  Raises ConfigError if none is left."""
    left_out = tuple(m for m in options.methods if m in OUTLIER_METHODS and data.outliers is None)
    if not left_out:
        return options.methods, []
    kept = tuple(m for m in options.methods if m not in left_out)
    if not kept:
        raise ConfigError(f"{', '.join(left_out)} need outliers and there are none: add ce, or give outliers")
    return kept, [f"no outliers given: {', '.join(left_out)} not run"]


def _train_and_score(
    data: LoopData, options: LoopOptions, *, seed: int
) -> tuple[list[Trial], dict[str, Any], list[str]]:
    try:
        from datakit.train import runtime, trials
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("datakit"):
            raise
        raise MissingExtra(f"the reference loop (no {error.name})", "torch") from error
    methods, notes = runnable(data, options)
    device = runtime.pick_device(options.device)
    with runtime.reproducible():
        done = list(trials.run_trials(data, options, methods, device, seed=seed))
    settings = {
        "options": options.as_json(),
        "device": str(device),
        "n_classes": data.n_classes,
        "sizes": {name: len(split) for name, split in data.splits().items()},
        "checkpoint": "last epoch",
        "torch": runtime.version(),
    }
    if options.device == "auto":
        notes.append(f"device=auto took {device}")
    return done, settings, notes


def _scored_splits(data: LoopData) -> dict[str, Split]:
    return {"val": data.val, "test": data.test, **{f"ood/{tier}": split for tier, split in data.ood.items()}}


def _metric_rows(trial: Trial, data: LoopData, options: LoopOptions, seed: int) -> Iterator[Row]:
    correct = trial.predictions["test"] == data.test.labels
    for detector in options.detectors:
        for tier, split in data.ood.items():
            yield metric_row(
                Scored(seed=seed, method=trial.method, detector=detector),
                tier,
                trial.scores[f"{detector}/test"],
                trial.scores[f"{detector}/ood/{tier}"],
                id_correct=correct,
                ood_classes=split.classes,
                bootstrap=options.bootstrap,
            )


def _null_rows(trial: Trial, options: LoopOptions, seed: int) -> Iterator[Row]:
    for detector in options.detectors:
        who = Scored(seed=seed, method=trial.method, detector=detector)
        val, test = trial.scores[f"{detector}/val"], trial.scores[f"{detector}/test"]
        yield null_row(who, val, test, bootstrap=options.bootstrap)


def _fit_notes(trials: list[Trial]) -> list[str]:
    """Each note of a detector's fit once, with all it holds for."""
    concerned: dict[str, list[str]] = {}
    for trial in trials:
        for detector, notes in trial.notes.items():
            for note in notes:
                concerned.setdefault(note, []).append(f"{trial.method}/{detector}")
    return [f"{note} ({', '.join(names)})" for note, names in concerned.items()]


def _accuracy_row(trial: Trial, data: LoopData, seed: int) -> Row:
    row: Row = {"seed": seed, "method": trial.method}
    for name, split in (("train", data.train), ("val", data.val), ("test", data.test)):
        row[name] = float(np.mean(trial.predictions[name] == split.labels))
        row[f"n_{name}"] = len(split)
    return row
