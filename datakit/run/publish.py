"""From a finished plan to the published tree: one job a shard, then everything that is not a shard.

What a shard came to is noted under `<out>/.datakit/published/<fingerprint>/`, so that a killed publication goes
on where it was.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from datakit.blob import Blob
from datakit.errors import StoreError
from datakit.image import EXTENSIONS
from datakit.manifest import Manifest, read_record, write_record
from datakit.recipe import Recipe, Store
from datakit.run.describe import info_of, provenance_of, recipe_yaml
from datakit.run.job import Job, open_steps, other_code
from datakit.run.pool import Pool, drain
from datakit.run.progress import Sink
from datakit.sources.scan import forget
from datakit.stage import Files, Ref
from datakit.store.layout import Layout, ShardEntry, ShardPlan
from datakit.store.rows import StepRows
from datakit.store.steps import Steps, outcome_counts
from datakit.store.tree import finish_tree, still_there, write_shard


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
        "code": [steps.made_by(step) for step in recipe.targets()],
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
    if _publication(steps) != job.step:
        raise other_code("publishes another tree")
    split, index, of, samples = steps.groups(steps.plan.recipe.store.step)[job.shard]
    rows, layout = _published_rows(steps)
    table = rows.shard(job.shard)
    entry = write_shard(
        Path(job.out),
        ShardPlan(split=split, index=index, of=of),
        table.select([name for name in table.column_names if name != "image"]),
        _images(table, steps, rows),
        layout=layout,
        schema=rows.schema,
    )
    write_record(_note(Path(job.out), job.step, job.shard), entry.to_json())
    return Manifest(
        fingerprint=job.step, step="publish", shard=job.shard, inputs=samples, samples=entry.samples
    )


def _images(table: pa.Table, steps: Steps, rows: StepRows) -> Iterator[Blob | bytes]:
    """The images of a shard; those that still lie in the source, as it was scanned. StoreError for another."""
    sources = {listing.token for listing in steps.listings.values()}
    names = ["__key__", "image", *(["content"] if "content" in table.column_names else [])]
    for row in table.select(names).to_pylist():
        blob = rows.roots.blob(row["image"])
        if not row.get("content") or row["image"]["path"].partition("/")[0] not in sources:
            yield blob
            continue
        try:
            data = blob.read()
        except (OSError, EOFError) as problem:
            raise StoreError(f"sample {row['__key__']} cannot be published: {problem}") from problem
        if xxhash.xxh3_128_hexdigest(data) != row["content"]:
            forget(steps.root / "listings")
            raise StoreError(
                f"sample {row['__key__']}: {blob.path} changed since this build read it; run the same command again"
            )
        yield data


@cache
def _publication(steps: Steps) -> str:
    """Once a process; the steps are complete."""
    return publication(steps)


@cache
def _published_rows(steps: Steps) -> tuple[StepRows, Layout]:
    """The rows of the store's step and its layout, read once a process and not once a shard."""
    return steps.rows(steps.plan.recipe.store.step), layout_of(steps)


def _note(out: Path, fingerprint: str, shard: int) -> Path:
    return out / ".datakit" / "published" / fingerprint / f"{shard:05d}.json"


def _entry(out: Path, fingerprint: str, shard: int) -> ShardEntry | None:
    """The entry of a shard that is in the tree as this publication wrote it, or None."""
    noted = read_record(_note(out, fingerprint, shard))
    try:
        entry = ShardEntry.from_json(noted) if noted else None
    except (ValueError, KeyError, TypeError):
        return None  # written by another version
    if entry is None:
        return None
    return entry if still_there(out, entry) else None


def publish(
    steps: Steps, template: Job, pool: Pool, sink: Sink, findings: list[dict[str, Any]]
) -> dict[str, Any]:
    """Write the tree and return its manifest."""
    groups = steps.groups(steps.plan.recipe.store.step)
    if not groups:
        counts = outcome_counts(steps.outcomes(steps.plan.recipe.store.step))
        why = "; ".join(
            f"{outcome}: {', '.join(f'{count} {reason}' for reason, count in reasons.items())}"
            for outcome, reasons in counts.items()
            if reasons
        )
        raise StoreError(f"there is no sample to publish ({why or 'none came in'})")
    out, fingerprint = Path(template.out), publication(steps)
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
        info=info_of(steps, template, fingerprint, findings),
        recipe=recipe_yaml(template),
        provenance=provenance_of(steps, template, fingerprint, findings),
        selections=lists,
        extra_files={**result_files(steps), "metadata/outcomes.parquet": _parquet(outcomes)},
    )


def result_files(steps: Steps) -> dict[str, bytes | Path]:
    """Path in the tree → what lies there. Files come under the path that they are given, as in a folder."""
    made: dict[str, bytes | Path] = {}
    for path, ref in steps.plan.recipe.files.items():
        value = steps.load(ref.step) if ref.step else ref.value
        if isinstance(value, Files):
            made |= {f"{path.rstrip('/')}/{name}": file for name, file in value.items()}
        else:
            made[path] = as_bytes(value)
    return made


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
