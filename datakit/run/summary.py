"""What a build or a plan says of itself, on one screen."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datakit import catalog as catalogs
from datakit.recipe import CatalogUse, Recipe, Step
from datakit.run.build import Build, finished, job_template, scan_catalogs
from datakit.run.job import Job, open_steps
from datakit.run.progress import QuietSink
from datakit.run.request import Request, catalogs_of, request
from datakit.run.stale import refuse_stale
from datakit.store.listing import Listing
from datakit.store.owned import earlier
from datakit.store.rows import read_table
from datakit.store.steps import Steps
from datakit.store.urls import is_url


def build_summary(made: Build) -> str:
    """Splits, checks, where to look next."""
    if not made.fresh:
        return f"up to date: {made.out} ({sum(made.splits.values())} images); nothing to do"
    width = max(len(name) for name in made.splits)
    lines = [f"  {name:<{width}}  {count:>8}" for name, count in made.splits.items()]
    passed = sum(1 for finding in made.findings if finding["passed"])
    warned = [f for f in made.findings if not f["passed"]]
    lines.append(f"checks: {passed} of {len(made.findings)} findings passed")
    lines += [
        f"  {finding['severity']}: {finding['id']}: {finding['summary']}" for finding in _distinct(warned)
    ]
    if made.report.exists():
        lines.append(f"report: {made.report}")
    lines.append(f"next:   datakit verify {made.out}")
    return "\n".join(lines)


def _distinct(findings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One finding a check: the first of its seeds."""
    return list({finding["id"]: finding for finding in reversed(findings)}.values())[::-1]


def plan_build(words: Sequence[str]) -> tuple[dict[str, Any], str]:
    """What `build` with these words would do. The catalogs are really read; nothing is written under `out`."""
    asked = request(words)
    with tempfile.TemporaryDirectory(prefix="datakit-plan-") as scratch:
        listings = scan_catalogs(catalogs_of(asked), Path(scratch), QuietSink())
        moved = [_at(listing, asked.root / "listings") for listing in listings]
        template = job_template(asked, moved)
        steps = open_steps(template.recipe, template.words, template.listings, template.root)
        found = _found(asked, template, steps, listings)
    return found, _text(found)


def _at(listing: Listing, folder: Path) -> Listing:
    return replace(listing, folder=folder)


def _found(asked: Request, template: Job, steps: Steps, listings: Sequence[Listing]) -> dict[str, Any]:
    sizes = [_bytes(listing) for listing in listings]
    target = next(path for path in (asked.out, *asked.out.parents) if path.exists())
    stale = [str(folder) for folder in refuse_stale(steps, asked.run)]
    up_to_date = not stale and finished(steps, template) is not None
    return {
        "recipe": asked.recipe,
        "out": str(asked.out),
        "words": list(asked.words),
        "catalogs": [
            {
                "name": listing.catalog.name,
                "images": listing.samples,
                "bytes": size,
                "left_out": listing.inputs() - listing.samples,
                "licence": str(listing.catalog.licence.get("spdx", "unstated")),
            }
            for listing, size in zip(listings, sizes, strict=True)
        ],
        "steps": [_state(steps, step) for step in steps.plan.steps.values()],
        # Published once, and once more where a stage changes the pixels; Arrow would be a third. An image that is
        # encoded anew may be larger than it was.
        "peak_disk_bytes": 2 * sum(sizes),
        "free_disk_bytes": shutil.disk_usage(target).free,
        "network": network([listing.use for listing in listings], steps.plan.recipe),
        "deletes": stale,
        # What of them the new tree does not hold is deleted; only its data can say which.
        "replaces": [] if up_to_date else sorted(earlier(asked.out)),
        "up_to_date": up_to_date,
    }


def network(uses: Sequence[CatalogUse], recipe: Recipe) -> list[str]:
    """What readers and the recipe fetch. A reader that can says so by `fetches`, a function of what `scan` takes."""
    found = list(recipe.fetches)
    found += [f"the source {use.source}" for use in uses if is_url(use.source)]
    for use in uses:
        catalog = catalogs.load(use.name)
        reader = importlib.import_module(f"datakit.sources.{catalog.reader}")
        if hasattr(reader, "fetches") and not is_url(use.source):
            found += reader.fetches(catalogs.root_of(use, catalog), **catalogs.options(use, catalog))
    return found


def _bytes(listing: Listing) -> int:
    import pyarrow.compute as pc

    return int(pc.sum(pc.struct_field(read_table(listing.path)["image"], "size")).as_py() or 0)


def _state(steps: Steps, step: Step) -> dict[str, Any]:
    made = len(list(steps.folder(step).glob("[0-9]*.json"))) if step.verb != "catalogs" else None
    return {"step": step.name, "fingerprint": steps.plan.fingerprint(step), "shards_made": made}


def _text(found: dict[str, Any]) -> str:
    lines = [f"recipe {found['recipe']} → {found['out']}"]
    for row in found["catalogs"]:
        left = f", {row['left_out']} left out" if row["left_out"] else ""
        lines.append(
            f"  {row['name']}: {row['images']} images, {row['bytes'] / 1e6:.1f} MB{left}; licence {row['licence']}"
        )
    for row in found["steps"]:
        if row["shards_made"] is not None:
            state = f"{row['shards_made']} shards there" if row["shards_made"] else "to make"
            lines.append(f"  {row['fingerprint'][:8]}  {row['step']}: {state}")
    free, peak = found["free_disk_bytes"] / 1e9, found["peak_disk_bytes"] / 1e9
    lines.append(f"disk: about {peak:.2f} GB, more where images are encoded anew; {free:.1f} GB free")
    lines.append(f"network: {', '.join(found['network']) or 'none'}")
    stale, old = len(found["deletes"]), len(found["replaces"])
    doomed = [f"{stale} stale steps"] if stale else []
    doomed += [f"those of the {old} files of the tree there that the new one does not hold"] if old else []
    lines.append(f"deletes: {'; '.join(doomed) or 'nothing'}")
    if found["up_to_date"]:
        lines.append("up to date: nothing to do")
    return "\n".join(lines)
