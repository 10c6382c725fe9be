"""The folder of steps: `steps/<fingerprint>/00000.arrow` and beside it what the step's verb adds.

`.arrow` rows, `.tar` images that a stage changed, `.outcomes.arrow` samples that left and why, `.json` the
manifest, last. A reduce has `value.json`, `value.arrow`, `value.txt`, `value.bin` or the folder
`value.files` instead of rows. A step of
several phases (run/phases.py) has a folder for each but the last, with manifests of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from datakit.errors import StageError, StoreError
from datakit.manifest import Manifest, read_manifest, write_bytes
from datakit.recipe import Plan, Step
from datakit.stage import Files
from datakit.store.listing import Listing
from datakit.store.rows import LISTINGS, STEPS, Roots, StepRows, read_schema, read_table, write_table

T = TypeVar("T")
FILES = "value.files"  # the folder of a result that is several files
OUTCOMES = pa.schema(
    [
        ("__key__", pa.string()),
        ("name", pa.string()),
        ("outcome", pa.string()),  # dropped | failed
        ("step", pa.string()),
        ("reason", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("detail", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Steps:
    """A plan's steps on disk under `root`, with the listings of its catalogs."""

    root: Path
    plan: Plan
    listings: Mapping[str, Listing]
    _known: dict[str, Any] = field(
        default_factory=dict, repr=False
    )  # of complete steps, which change no more

    @cached_property
    def roots(self) -> Roots:
        catalogs = {listing.token: listing.root for listing in self.listings.values()}
        ours = {STEPS: str(self.root / "steps"), LISTINGS: str(self.root / "listings")}
        return Roots(ours | catalogs)

    def folder(self, step: Step) -> Path:
        return self.root / "steps" / self.plan.fingerprint(step)

    def shards(self, step: Step) -> int:
        """How many shards a step has: from the data, never from the number of workers."""
        if step.verb == "catalogs":
            return sum(self.listings[use.id].shards() for use in step.uses)
        if step.verb == "source":
            return int(step.options["shards"])
        if step.verb in ("reduce", "repartition"):
            return 1
        assert step.input is not None
        if step.input.verb == "repartition":
            return len(self.groups(step.input))
        return self.shards(step.input)

    def manifest(self, step: Step, shard: int, phase: str = "") -> Manifest | None:
        return read_manifest(self.folder(step) / phase, shard)

    def phase_manifests(self, step: Step, phase: str, parts: Iterable[int]) -> list[Manifest]:
        """The manifests of parts of a phase that has ended. Raises StoreError where one is missing."""
        found = [self.manifest(step, part, phase) for part in parts]
        whole = [manifest for manifest in found if manifest is not None]
        if len(whole) < len(found):
            raise StoreError(f"{step.name}: a part of {phase} vanished; run the command again")
        return whole

    def made(self, step: Step) -> list[tuple[Path, Manifest]]:
        """The manifests of all shards, and parts of phases, that are there, each with its folder, to which its files
        are relative: after a kill the first may be missing.
        """
        found = []
        for folder in [self.folder(step), *sorted(self.folder(step).glob("*/"))]:
            shards = sorted(int(path.stem) for path in folder.glob("*.json") if path.stem.isdigit())
            found += [(folder, read_manifest(folder, shard)) for shard in shards]
        return [(folder, manifest) for folder, manifest in found if manifest is not None]

    def sizes(self, step: Step) -> list[tuple[int, int]]:
        """(rows, bytes of its tables) of each shard of a complete step."""
        if step.verb == "catalogs":
            slices, paths = self._slices(step) or [], self._paths(step)
            return [_cut_of(path, *cut) for (path,), cut in zip(paths, slices, strict=True)]
        manifests = self.manifests(step)
        if step.verb == "repartition":
            files = manifests[0].files
            return [(rows, files[f"{at:05d}.arrow"]) for at, (*_, rows) in enumerate(self.groups(step))]
        own = [(found.samples, found.files[f"{found.shard:05d}.arrow"]) for found in manifests]
        if step.verb != "annotate" or step.input is None:
            return own
        below = self.sizes(step.input)
        return [(rows, size + under) for (rows, size), (_, under) in zip(own, below, strict=True)]

    def made_by(self, step: Step) -> str:
        """The code that made a step's shards: the plan's lineage, but for what `run.stale=keep` kept."""
        codes = {manifest.code for _, manifest in self.made(step)} or {self.plan.lineage(step)}
        return " ".join(sorted(codes))

    def manifests(self, step: Step) -> list[Manifest]:
        """All manifests of a complete step. Raises StageError where one is missing."""
        whole, shards = self._written(step), self.shards(step)
        if len(whole) < shards:
            raise StageError(f"{step.name} is not complete: {len(whole)} of {shards} shards")
        return whole

    def _written(self, step: Step) -> list[Manifest]:
        found = [self.manifest(step, shard) for shard in range(self.shards(step))]
        return [manifest for manifest in found if manifest is not None]

    def missing(self, step: Step) -> list[int]:
        """The shards still to make."""
        if step.verb == "catalogs":
            return []
        return [shard for shard in range(self.shards(step)) if self.manifest(step, shard) is None]

    def groups(self, step: Step) -> list[tuple[str, int, int, int]]:
        """A repartition's shards: (group, index, of, rows)."""
        return self._once(
            f"groups {self.plan.fingerprint(step)}",
            lambda: [(g, i, n, rows) for g, i, n, rows in self.manifests(step)[0].groups],
        )

    def _once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives, made once. Asked for each shard, so that it would cost shards² otherwise."""
        if name not in self._known:
            self._known[name] = make()
        found: T = self._known[name]
        return found

    def shard_rows(self, step: Step) -> StepRows:
        """As `rows`, one for all who ask: for the rows of single shards, since all of them would be kept."""
        return self._once(f"rows {self.plan.fingerprint(step)}", lambda: self.rows(step))

    def rows(self, step: Step) -> StepRows:
        """A step's rows: its own tables and, for an annotation, those it stands beside."""
        paths = self._paths(step)
        # A repartition gives all its shards the same types.
        types = read_schema(paths[0][0]) if step.verb == "repartition" and paths else None
        return StepRows(
            paths=paths,
            slices=self._slices(step),
            roots=self.roots,
            left=partial(self.outcomes, step),
            catalogs=self.catalogs(step),
            types=types,
        )

    def catalogs(self, step: Step) -> list[dict[str, Any]]:
        """What is known of the catalogs at the start of this step's chain."""
        uses = [use for origin in self._chain(step) for use in origin.uses]
        return [_described(self.listings[use.id]) for use in uses]

    def _paths(self, step: Step) -> list[list[Path]]:
        if step.verb == "catalogs":
            listings = [self.listings[use.id] for use in step.uses]
            return [[listing.path] for listing in listings for _ in range(listing.shards())]
        if step.verb == "repartition":
            return [[self.folder(step) / f"{at:05d}.arrow"] for at in range(len(self.groups(step)))]
        own = [self.folder(step) / f"{shard:05d}.arrow" for shard in range(self.shards(step))]
        if step.verb != "annotate":
            return [[path] for path in own]
        assert step.input is not None
        return [[*below, path] for below, path in zip(self._paths(step.input), own, strict=True)]

    def _slices(self, step: Step) -> list[tuple[int, int]] | None:
        """For catalogs: which rows of its listing a shard is; an annotation of catalogs reads the same."""
        if step.verb == "annotate" and step.input is not None:
            return self._slices(step.input)
        if step.verb != "catalogs":
            return None
        listings = [self.listings[use.id] for use in step.uses]
        sizes = [(listing.catalog.per_shard, listing.shards()) for listing in listings]
        return [(shard * size, size) for size, shards in sizes for shard in range(shards)]

    def _chain(self, step: Step) -> list[Step]:
        chain = [step]
        while chain[-1].input is not None:
            chain.append(chain[-1].input)
        return chain[::-1]

    def outcomes(self, step: Step) -> pa.Table:
        """Every sample that left between the catalogs and this step, with its reason."""
        tables = [OUTCOMES.empty_table()]
        for origin in self._chain(step):
            tables += [_as_outcomes(self.listings[use.id]) for use in origin.uses]
            if origin.verb == "catalogs":
                continue
            # By the manifests: a killed attempt may have left a file for a shard of which nothing leaves now.
            names = [name for manifest in self._written(origin) for name in manifest.files]
            left = [self.folder(origin) / name for name in names if name.endswith(".outcomes.arrow")]
            tables += [read_table(path) for path in left]
        return pa.concat_tables(tables)

    def input_samples(self, step: Step) -> int:
        """How many samples came out of the catalogs or the source at the start of this step's chain."""
        first = self._chain(step)[0]
        if first.verb == "catalogs":
            return sum(self.listings[use.id].inputs() for use in first.uses)
        return sum(manifest.inputs for manifest in self.manifests(first))

    def load(self, step: Step) -> Any:
        """What a Ref of this step stands for: the value of a reduce, or rows."""
        return read_value(self.folder(step)) if step.verb == "reduce" else self.rows(step)


def _described(listing: Listing) -> dict[str, Any]:
    catalog = listing.catalog
    return {
        "name": catalog.name,
        "title": catalog.title,
        "homepage": catalog.homepage,
        "citation": catalog.citation,
        "licence": dict(catalog.licence),
        "taxonomy": dict(catalog.taxonomy),
        "classes": dict(catalog.classes),
        "test": dict(catalog.test),
        "checksum": listing.checksum,
        "samples": listing.samples,
    }


def _as_outcomes(listing: Listing) -> pa.Table:
    problems = read_table(listing.problems)
    rows = [
        {
            "__key__": "",
            "name": problem["name"],
            "outcome": "dropped" if problem["dropped"] else "failed",
            "step": f"catalog:{listing.catalog.name}",
            "reason": problem["reason"],
            "detail": problem["detail"],
        }
        for problem in problems.to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=OUTCOMES)


def write_value(folder: Path, value: Any, name: str = "value") -> dict[str, int]:
    """The result of a reduce, by its type: Arrow table, text, bytes, files, else JSON. Returns name → bytes."""
    if isinstance(value, Files):
        for inner, data in value.items():
            write_bytes(folder / FILES / _plain(inner), data)
        return {f"{FILES}/{inner}": len(data) for inner, data in value.items()}
    if isinstance(value, pa.Table):
        return {f"{name}.arrow": write_table(folder / f"{name}.arrow", value)}
    if isinstance(value, bytes):
        name, data = f"{name}.bin", value
    elif isinstance(value, str):
        name, data = f"{name}.txt", value.encode()
    else:
        name, data = f"{name}.json", _json(value)
    write_bytes(folder / name, data)
    return {name: len(data)}


def _json(value: Any) -> bytes:
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as problem:
        raise StageError(f"a reduce must give a table, text, bytes or JSON: {problem}") from problem


def _plain(name: str) -> str:
    if name != os.path.basename(name) or name.startswith(".") or ".part-" in name:  # noqa: PTH119 (as text)
        raise StageError(f"a reduce gave a file called {name}: a plain name is wanted")
    return name


def read_value(folder: Path, name: str = "value") -> Any:
    """What `write_value` wrote."""
    if (folder / f"{name}.arrow").exists():
        return read_table(folder / f"{name}.arrow")
    if (folder / f"{name}.json").exists():
        return json.loads((folder / f"{name}.json").read_bytes())
    if (folder / f"{name}.txt").exists():
        return (folder / f"{name}.txt").read_text(encoding="utf-8")
    if (folder / f"{name}.bin").exists():
        return (folder / f"{name}.bin").read_bytes()
    if (folder / FILES).is_dir():
        found = sorted((folder / FILES).iterdir())
        return Files({path.name: path for path in found if ".part-" not in path.name})
    raise StoreError(f"{folder} holds no value")


def _cut_of(path: Path, offset: int, length: int) -> tuple[int, int]:
    """Rows of a slice of a table, and its share of the file's bytes."""
    rows = read_table(path).num_rows
    there = max(0, min(length, rows - offset))
    return there, path.stat().st_size * there // max(1, rows)


def outcome_counts(outcomes: pa.Table) -> dict[str, dict[str, int]]:
    """{"dropped": {reason: n}, "failed": {reason: n}}."""
    counts: dict[str, dict[str, int]] = {"dropped": {}, "failed": {}}
    grouped = outcomes.group_by(["outcome", "reason"]).aggregate([("reason", "count")])
    for row in grouped.sort_by([("outcome", "ascending"), ("reason", "ascending")]).to_pylist():
        counts[row["outcome"]][row["reason"]] = row["reason_count"]
    return counts
