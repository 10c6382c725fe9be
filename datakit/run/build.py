"""`datakit.build`: words in, a checked and published tree out; run again, it goes on or does nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datakit.config import to_words
from datakit.disk import disk_problem
from datakit.errors import CatalogError, GateError
from datakit.manifest import remove_orphans, write_bytes
from datakit.recipe import CatalogUse, Step
from datakit.run.job import Job, open_steps
from datakit.run.local import run_steps
from datakit.run.locks import Sharing, locked, sharing
from datakit.run.pool import open_pool
from datakit.run.progress import Log, Mode, Sink, make_sink
from datakit.run.publish import publication, publish, result_files
from datakit.run.recheck import drop_damaged
from datakit.run.request import Request, catalogs_of, request
from datakit.run.stale import refuse_stale
from datakit.sources.scan import changed_since, scan
from datakit.store.listing import Listing
from datakit.store.owned import claim, refuse_foreign
from datakit.store.rows import read_table
from datakit.store.steps import Steps
from datakit.store.upload import upload


@dataclass(frozen=True, kw_only=True)
class Build:
    """A finished build. `manifest` as in manifest.json; `fresh` False where there was nothing to do."""

    out: Path
    manifest: Mapping[str, Any]
    findings: list[dict[str, Any]]
    fresh: bool

    @property
    def report(self) -> Path:
        return self.out / "report" / "index.html"

    @property
    def splits(self) -> dict[str, int]:
        """Samples of each split."""
        return {name: self.manifest["splits"][name]["samples"] for name in self.manifest["split_order"]}


def build(recipe: str, *, out: str | os.PathLike[str] = "", progress: Mode = "auto", **words: Any) -> Build:
    """Build `recipe` into `out` (default builds/<recipe>) with the words of the command line as keywords.

    `fraction=0.3`, `holdout={"mode": "taxonomy"}`, `run={"workers": 2}`. Raises a DatakitError: ConfigError,
    CatalogError, FailureLimit, GateError (a check failed), EnvironmentProblem.
    """
    given = [f"out={os.fspath(out)}"] if out else []
    sink = make_sink(progress)
    try:
        return run_build(request([f"recipe={recipe}", *given, *to_words(words)]), sink)
    finally:
        sink.close()


def run_build(asked: Request, sink: Sink) -> Build:
    """Scan, plan, run, check, publish. Words that are wrong leave no folder behind."""
    open_steps.cache_clear()  # a catalog's text may have changed since this process built last
    uses = catalogs_of(asked)
    with contextlib.ExitStack() as held:
        try:
            refuse_foreign(asked.out)
            held.enter_context(locked(asked.out))
            # Under the lock: who has it sweeps away what another is writing there.
            claim(asked.out)
            cache = held.enter_context(sharing(asked.root)) if asked.run.cache else None
            log = Log(sink, asked.out / ".datakit" / "logs" / "build.jsonl")
            held.callback(log.file.close)
            made = _build(asked, uses, log, cache)
            if asked.url:
                done = upload(asked.out, asked.url, tell=lambda text: log.event("note", text=text))
                log.event("note", text=done.text())
            return made
        except BrokenPipeError:  # the reader of our words has gone: the shell's affair, not the disk's
            raise
        except OSError as problem:  # of the log, a listing, a fork: what knows no better name
            raise disk_problem(problem.filename or asked.out, problem, "use") from problem


def _build(asked: Request, uses: Iterable[CatalogUse], sink: Sink, cache: Sharing | None) -> Build:
    remove_orphans(asked.out / ".datakit", ours=True)
    for name in ("steps", "listings"):  # a shared cache may hold other things, and other builds write to it
        remove_orphans(asked.root / name, ours=not asked.run.cache)
    listings = scan_catalogs(uses, asked.root / "listings", sink)
    template = job_template(asked, listings)
    steps = open_steps(template.recipe, template.words, template.listings, template.root)
    if stale := refuse_stale(steps, asked.run):
        with cache.alone() if cache else contextlib.nullcontext():
            for folder in stale:
                shutil.rmtree(folder)
    sink.event("plan", recipe=asked.recipe, steps=len(steps.plan.steps), out=str(asked.out))
    found = finished(steps, template)
    if found is not None:
        return Build(out=asked.out, manifest=found, findings=load_findings(steps), fresh=False)
    if asked.run.recheck:
        drop_damaged(steps, sink)
    with open_pool(asked.run, sink) as pool:
        run_steps(steps, template, asked.run, sink, pool)
        refuse_changed(listings, steps, cache)
        findings = load_findings(steps)
        gate(steps, findings, asked.out)
        manifest = publish(steps, template, pool, sink, findings)
    return Build(out=asked.out, manifest=manifest, findings=findings, fresh=True)


def scan_catalogs(uses: Iterable[CatalogUse], folder: Path, sink: Sink) -> list[Listing]:
    """The listings of these catalogs, written to `folder`."""
    listings = []
    for use in uses:
        listing = scan(use, folder)
        sink.event("note", text=f"catalog {use.name}: {listing.samples} images")
        listings.append(listing)
    refuse_shared_keys(listings)
    return listings


def refuse_changed(listings: Iterable[Listing], steps: Steps, cache: Sharing | None) -> None:
    """Raise CatalogError where images were replaced while steps read them, and delete what stands on these: it says
    that it is of what was scanned. Images that no step changed are compared once more when they are published.
    """
    for listing in listings:
        if path := changed_since(listing):
            with cache.alone() if cache else contextlib.nullcontext():
                for step in steps.plan.steps.values():
                    if listing.use.id in _read_by(step):
                        shutil.rmtree(steps.folder(step), ignore_errors=True)
            raise CatalogError(
                f"{path} changed while this build read it, and perhaps others; what was made of it is deleted. "
                "Run the same command again"
            )


def _read_by(step: Step) -> set[str]:
    """The catalogs that a step stands on, by id."""
    return {use.id for use in step.uses}.union(*(_read_by(need) for need in step.needs()))


def refuse_shared_keys(listings: list[Listing]) -> None:
    """Splits go by key, so a key is one sample's, over all catalogs. Raises CatalogError."""
    owner: dict[str, CatalogUse] = {}
    for listing in listings if len(listings) > 1 else ():
        for key in read_table(listing.path)["__key__"].to_pylist():
            first = owner.setdefault(key, listing.use)
            if first is not listing.use:
                raise CatalogError(
                    f"{key} is in the catalogs {first.name} ({first.source}) and {listing.use.name} "
                    f"({listing.use.source}): give each but one a pool of its own"
                )


def job_template(asked: Request, listings: list[Listing]) -> Job:
    """The job that every job of this build is but for its step and shard."""
    return Job(
        recipe=asked.recipe,
        words=asked.words,
        listings=tuple((item.use.id, item.checksum, item.root, item.samples) for item in listings),
        root=str(asked.root),
        out=str(asked.out),
        step="",
        shard=0,
    )


def finished(steps: Steps, template: Job) -> dict[str, Any] | None:
    """The manifest of `out`, if it is of this very plan and words and every file is there at its size."""
    out = Path(template.out)
    try:
        manifest: dict[str, Any] = json.loads((out / "manifest.json").read_bytes())
        provenance = json.loads((out / "provenance.json").read_bytes())
        whole = all((out / path).stat().st_size == file["bytes"] for path, file in manifest["files"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    complete = not any(steps.missing(step) for step in _check_steps(steps))
    asked = [provenance.get("recipe"), provenance.get("words")] == [template.recipe, list(template.words)]
    return manifest if whole and complete and asked and provenance["build"] == publication(steps) else None


def _check_steps(steps: Steps) -> list[Step]:
    return [ref.step for ref in steps.plan.recipe.checks if ref.step]


def load_findings(steps: Steps) -> list[dict[str, Any]]:
    """The findings of all checks."""
    return [finding for step in _check_steps(steps) for finding in steps.load(step)]


def gate(steps: Steps, findings: list[dict[str, Any]], out: Path) -> None:
    """Raise GateError if a finding of severity `fail` did not pass; the report is kept beside, not published."""
    failed = [finding for finding in findings if finding["severity"] == "fail" and not finding["passed"]]
    if not failed:
        return
    folder = out / ".datakit" / "failed"
    for path, data in result_files(steps).items():
        write_bytes(folder / path, data if isinstance(data, bytes) else data.read_bytes())
    lines = [f"{finding['id']}: {finding['summary']}{_keys(finding)}" for finding in failed]
    raise GateError(
        f"{len(failed)} check{'s' if len(failed) > 1 else ''} failed; nothing is published.\n  "
        + "\n  ".join(lines)
        + f"\nReport: {folder / 'report' / 'index.html'}"
    )


def _keys(finding: Mapping[str, Any]) -> str:
    keys = list(finding.get("keys", ()))[:3]
    return f" ({', '.join(keys)})" if keys else ""
