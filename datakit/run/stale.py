"""Steps whose code changed while their version did not: never silently reused."""

from __future__ import annotations

from pathlib import Path

from datakit.config import RunOptions
from datakit.errors import ConfigError
from datakit.manifest import Manifest
from datakit.recipe import Step
from datakit.store.steps import Steps


def refuse_stale(steps: Steps, options: RunOptions) -> list[Path]:
    """Stop where code, a step's own or of one before it, is not what made its shards; `run.stale=redo` gives the
    folders to delete, `keep` takes them as they are. Raises ConfigError.
    """
    doomed: list[Path] = []
    if options.stale == "keep":
        return doomed
    for fingerprint, step in steps.plan.steps.items():
        folder = steps.root / "steps" / fingerprint
        old = [made for _, made in steps.made(step) if made.code != steps.plan.lineage(step)]
        if old and options.stale == "redo":
            doomed.append(folder)
        elif old:
            raise ConfigError(
                f"the code of {_changed(old[0], step)} changed since step {step.name} was made, and its version did "
                "not: raise the version in its decorator, or give run.stale=redo (make again) or run.stale=keep (the "
                "change is harmless)"
            )
    return doomed


def _changed(made: Manifest, step: Step) -> str:
    now = [[stage.name, stage.version, stage.code] for stage in step.stages]
    names = [str(after[0]) for before, after in zip(made.stages, now, strict=False) if before != after]
    return ", ".join(names) or "a stage before it"
