"""From a finished plan to the published tree: one job a shard, then everything that is not a shard.

What a shard came to is noted under `<out>/.datakit/published/<fingerprint>/`, so that a killed publication goes
on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from datakit.config import as_dict, changed, parse, to_words
from datakit.errors import ConfigError, StoreError
from datakit.find import recipe_module
from datakit.image import EXTENSIONS
from datakit.manifest import Manifest, versions, write_json
from datakit.recipe import Recipe, Step, Store
from datakit.run.pool import Pool, drain
from datakit.run.progress import Sink
from datakit.run.worker import Job, open_steps
from datakit.stage import Ref
from datakit.store.layout import Layout, Licence, ShardEntry, ShardPlan, StoreInfo
from datakit.store.rows import StepRows
from datakit.store.steps import Steps, outcome_counts
from datakit.store.tree import finish_tree, still_there, write_shard

RELEASED = "2026-11-22"  # of this datakit: the date in cards where SOURCE_DATE_EPOCH gives no other
METRICS = (
    "Every figure names its positive class: `tnr_at_95tpr_id` is the share of OOD images refused where 95 % of "
    "ID images are accepted, `fpr_at_95tpr_ood` the share of ID images refused where 95 % of OOD images are "
    "caught; `auroc` is the same either way; `aupr_in` counts ID as positive, `aupr_out` OOD."
)


def publication(steps: Steps) -> str:
    """The fingerprint of a tree: its store's step, how columns are laid out, and every result in it."""
    recipe = steps.plan.recipe
    refs = {**recipe.files, **{f"lists/{name}": ref for name, ref in recipe.lists.items()}}
    described = {
        "store": steps.plan.fingerprint(recipe.store.step),
        "layout": _described(recipe),
        "results": {path: steps.plan.fingerprint(ref.step) for path, ref in sorted(refs.items()) if ref.step},
        "checks": [steps.plan.fingerprint(ref.step) for ref in recipe.checks if ref.step],
        "known": [steps.plan.fingerprint(ref.step) for ref in _known(recipe) if ref.step],
        "catalogs": steps.catalogs(recipe.store.step),
        "code": [steps.plan.lineage(step) for step in recipe.targets()],
    }
    text = json.dumps(described, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _known(recipe: Recipe) -> list[Ref[Any]]:
    """What only the data knows of the layout."""
    return [recipe.store.image_format, *([recipe.store.class_names] if recipe.store.class_names else [])]


def _described(recipe: Recipe) -> dict[str, Any]:
    store = recipe.store
    plain = {name: getattr(store, name) for name in ("label", "caption", "json", "metadata", "arrow")}
    words = {name: getattr(store, name) for name in ("title", "description", "keywords", "task_categories")}
    return {**plain, **words, "notes": dict(store.split_notes)}


def layout_of(steps: Steps) -> Layout:
    """The store's layout, with what only the data knows: the image format and the names of the classes."""
    store = steps.plan.recipe.store
    names = steps.load(store.class_names.step) if store.class_names and store.class_names.step else []
    image = steps.load(store.image_format.step) if store.image_format.step else store.image_format.value
    schema = steps.rows(store.step).schema
    # Catalogs differ in what they know of an image; a column that none has is not published.
    there = [column.name for column in schema if column.type != pa.null()]
    return Layout(
        image_extension=EXTENSIONS[image],
        label=store.label,
        caption=store.caption if store.caption in there else None,
        json_fields=tuple(name for name in store.json if name in there),
        metadata=tuple(name for name in there if _is_metadata(name, store)),
        class_names=tuple(names),
        arrow=store.arrow,
    )


def _is_metadata(name: str, store: Store) -> bool:
    if store.metadata is not None:
        return name in store.metadata
    # The name of the split is a column of every metadata table already.
    return name not in ("__key__", "image", store.label, store.caption, store.step.options["by"], *store.json)


def run_publish(job: Job) -> Manifest:
    """In a worker: write one shard of the tree; its entry is noted last."""
    steps = open_steps(job.recipe, job.words, job.listings, job.root)
    split, index, of, samples = steps.groups(steps.plan.recipe.store.step)[job.shard]
    rows, layout = _published_rows(steps)
    table = rows.shard(job.shard)
    images = [rows.roots.blob(place) for place in table.column("image").to_pylist()]
    entry = write_shard(
        Path(job.out),
        ShardPlan(split=split, index=index, of=of),
        table.select([name for name in table.column_names if name != "image"]),
        images,
        layout=layout,
        schema=rows.schema,
    )
    write_json(_note(Path(job.out), job.step, job.shard), entry.to_json())
    return Manifest(
        fingerprint=job.step, step="publish", shard=job.shard, inputs=samples, samples=entry.samples
    )


@cache
def _published_rows(steps: Steps) -> tuple[StepRows, Layout]:
    """The rows of the store's step and its layout, read once a process and not once a shard."""
    return steps.rows(steps.plan.recipe.store.step), layout_of(steps)


def _note(out: Path, fingerprint: str, shard: int) -> Path:
    return out / ".datakit" / "published" / fingerprint / f"{shard:05d}.json"


def _entry(out: Path, fingerprint: str, shard: int) -> ShardEntry | None:
    """The entry of a shard that is in the tree as this publication wrote it, or None."""
    try:
        entry = ShardEntry.from_json(json.loads(_note(out, fingerprint, shard).read_bytes()))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return entry if still_there(out, entry) else None


def publish(
    steps: Steps, template: Job, pool: Pool, sink: Sink, findings: list[dict[str, Any]]
) -> dict[str, Any]:
    """Write the tree and return its manifest."""
    out, fingerprint = Path(template.out), publication(steps)
    groups = steps.groups(steps.plan.recipe.store.step)
    missing = [shard for shard in range(len(groups)) if _entry(out, fingerprint, shard) is None]
    sink.event("start", step=fingerprint, name="publish", total=sum(groups[shard][3] for shard in missing))
    jobs = [replace(template, step=fingerprint, shard=shard, kind="publish") for shard in missing]

    def done(job: Job, manifest: Manifest) -> Iterable[Job]:
        sink.event("advance", step=fingerprint, kept=manifest.samples, dropped=0, failed=0)
        return ()

    started = time.monotonic()
    drain(pool, jobs, done)
    made = sum(groups[shard][3] for shard in missing)
    told = {"samples": made, "dropped": {}, "failed": {}, "seconds": time.monotonic() - started}
    sink.event("done", step=fingerprint, name="publish", reused=not missing, **told)
    entries = [_entry(out, fingerprint, shard) for shard in range(len(groups))]
    if not all(entries):
        raise StoreError("a shard vanished while it was published; run the command again")
    order = {split: at for at, split in enumerate(steps.plan.recipe.store.split_notes)}
    found = sorted(
        (entry for entry in entries if entry), key=lambda e: (order.get(e.split, 99), e.split, e.index)
    )
    return _finish(steps, template, out, fingerprint, found, findings)


def _finish(
    steps: Steps,
    template: Job,
    out: Path,
    fingerprint: str,
    entries: list[ShardEntry],
    findings: list[dict[str, Any]],
) -> dict[str, Any]:
    recipe, rows = steps.plan.recipe, steps.rows(steps.plan.recipe.store.step)
    outcomes = rows.outcomes
    lists = {name: steps.load(ref.step) for name, ref in recipe.lists.items() if ref.step}
    return finish_tree(
        out,
        entries=entries,
        layout=layout_of(steps),
        info=_info(steps, template, fingerprint, findings),
        recipe=_recipe_yaml(template),
        provenance=_provenance(steps, template, fingerprint, findings),
        selections=lists,
        extra_files={**result_files(steps), "metadata/outcomes.parquet": _parquet(outcomes)},
    )


def result_files(steps: Steps) -> dict[str, bytes]:
    found = {path: steps.load(ref.step) for path, ref in steps.plan.recipe.files.items() if ref.step}
    return {path: as_bytes(value) for path, value in found.items()}


def as_bytes(value: Any) -> bytes:
    """A result as a file: text and bytes as they are, a table as parquet, the rest as JSON."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, pa.Table):
        return _parquet(value)
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"


def _parquet(table: pa.Table) -> bytes:
    from datakit.store.metadata import to_parquet

    return to_parquet(table.combine_chunks())


def _recipe_yaml(template: Job) -> str:
    """The resolved recipe: every key with its value, as `@recipe.yaml` takes it back."""
    values = as_dict(parse(recipe_module(template.recipe).Config, template.words))
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return f"# datakit build recipe={template.recipe} @recipe.yaml\n" + yaml.safe_dump(
        plain, allow_unicode=True
    )


def _provenance(
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


def _info(steps: Steps, template: Job, fingerprint: str, findings: list[dict[str, Any]]) -> StoreInfo:
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
