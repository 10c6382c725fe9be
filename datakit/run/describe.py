"""What a tree says of itself: its card's facts, its resolved recipe, what it was made from."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from datakit.config import as_dict, changed, parse, to_words
from datakit.errors import ConfigError, StoreError
from datakit.find import recipe_module
from datakit.manifest import versions
from datakit.recipe import Step
from datakit.run.job import Job
from datakit.store.layout import Licence, StoreInfo
from datakit.store.steps import Steps, outcome_counts

RELEASED = "2026-11-22"  # of this datakit: the date in cards where SOURCE_DATE_EPOCH gives no other
METRICS = (
    "Every figure names its positive class: `tnr_at_95tpr_id` is the share of OOD images refused where 95 % of "
    "ID images are accepted, `fpr_at_95tpr_ood` the share of ID images refused where 95 % of OOD images are "
    "caught; `auroc` is the same either way; `aupr_in` counts ID as positive, `aupr_out` OOD."
)


def recipe_yaml(template: Job) -> str:
    """The resolved recipe: every key with its value, as `@recipe.yaml` takes it back."""
    values = as_dict(parse(recipe_module(template.recipe).Config, template.words))
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return f"# datakit build recipe={template.recipe} @recipe.yaml\n" + yaml.safe_dump(
        plain, allow_unicode=True
    )


def provenance_of(
    steps: Steps, template: Job, fingerprint: str, findings: list[dict[str, Any]]
) -> dict[str, Any]:
    rows = steps.rows(steps.plan.recipe.store.step)
    return {
        "build": fingerprint,
        "recipe": template.recipe,
        "words": list(template.words),
        "catalogs": list(rows.catalogs),
        "versions": versions(),
        "steps": {name: [step.name, _stages(step)] for name, step in steps.plan.steps.items()},
        "outcomes": _counts(steps),
        "checks": [
            {name: finding[name] for name in ("id", "severity", "passed", "count")} for finding in findings
        ],
    }


def _stages(step: Step) -> list[list[Any]]:
    return [[stage.name, stage.version, stage.code] for stage in step.stages]


def _counts(steps: Steps) -> dict[str, Any]:
    """What became of every sample that came in; the sum is checked."""
    step = steps.plan.recipe.store.step
    outcomes = steps.rows(step).outcomes
    counts, came = outcome_counts(outcomes), steps.input_samples(step)
    kept = sum(rows for _, _, _, rows in steps.groups(step))
    if kept + outcomes.num_rows != came:
        raise StoreError(
            f"{came} samples came in, {kept} are published and {outcomes.num_rows} left with a reason"
        )
    return {"inputs": came, "kept": kept, **counts}


def info_of(steps: Steps, template: Job, fingerprint: str, findings: list[dict[str, Any]]) -> StoreInfo:
    store, rows = steps.plan.recipe.store, steps.rows(steps.plan.recipe.store.step)
    counts = _counts(steps)
    first = rows.catalogs[0] if rows.catalogs else {}
    flat = {"kept": counts["kept"], **counts["dropped"], **counts["failed"]}
    return StoreInfo(
        name=f"{Path(template.recipe).stem}-{first.get('name', 'made')}".replace("_", "-"),
        title=store.title or template.recipe,
        description=store.description,
        homepage=str(first.get("homepage") or f"urn:datakit:{fingerprint}"),
        creator="datakit",
        licences=_licences(steps),
        date_published=_date(),
        citation="\n\n".join(str(catalog["citation"]) for catalog in rows.catalogs if catalog["citation"]),
        command=_command(template),
        keywords=store.keywords,
        task_categories=store.task_categories,
        sources=tuple(catalog["title"] for catalog in rows.catalogs),
        classes_how=str(first.get("classes", {}).get("how", "")),
        split_notes=store.split_notes,
        checks=_checks_text(findings),
        metrics=METRICS,
        outcomes=flat,
    )


def _date() -> str:
    """The day of publication. Readers of Croissant want one, and a clock would make two equal builds differ: it is
    that of SOURCE_DATE_EPOCH (seconds since 1970, as reproducible builds have it), else that of datakit's release.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        return RELEASED
    try:
        return datetime.fromtimestamp(int(given), UTC).date().isoformat()
    except (ValueError, OverflowError, OSError) as problem:
        raise ConfigError(f"SOURCE_DATE_EPOCH={given} is no number of seconds since 1970") from problem


def _command(template: Job) -> str:
    """The command as a shell takes it: every key that is not at its default, wherever it was set."""
    config = parse(recipe_module(template.recipe).Config, template.words)
    given = [f"recipe={template.recipe}", *to_words(changed(config))]
    return " ".join(["datakit build", *map(shlex.quote, given)])


def _checks_text(findings: list[dict[str, Any]]) -> str:
    lines = [f"- `{f['id']}`: {'passed' if f['passed'] else f['severity']}. {f['summary']}" for f in findings]
    return "\n".join(dict.fromkeys(lines))


def _licences(steps: Steps) -> tuple[Licence, ...]:
    """Terms and how many published images stand under each: by image where the catalog says, else by catalog."""
    rows = steps.rows(steps.plan.recipe.store.step)
    terms: Mapping[str, Any] = {catalog["name"]: catalog["licence"] for catalog in rows.catalogs}
    if not terms:
        return (Licence(name="unstated", samples=len(rows)),)
    columns = [name for name in ("catalog", "licence", "attribution") if name in rows.columns]
    table = rows.table(columns)
    grouped = (
        table.group_by(columns)
        .aggregate([([], "count_all")])
        .sort_by([(name, "ascending") for name in columns])
    )
    return tuple(_licence(row, terms[row["catalog"]]) for row in grouped.to_pylist())


def _licence(row: Mapping[str, Any], terms: Mapping[str, Any]) -> Licence:
    own = row.get("licence")
    return Licence(
        spdx=str(own or terms.get("spdx", "")),
        name=str(terms.get("name", "")) or f"terms of {row['catalog']}",
        link=str(terms.get("link", "")),
        attribution=str(row.get("attribution") or terms.get("attribution", "")),
        samples=row["count_all"],
    )
