"""Plans: steps, what they need, the fingerprint of each, and the recipe that names what is wanted.

A step is a node of a plan and one folder on disk. Its fingerprint says *what* it makes, never *how*: no
workers, device, batch size or path.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal, TypeVar

from datakit.errors import ConfigError
from datakit.stage import Ref, Rows, Stage

T = TypeVar("T")

Verb = Literal["catalogs", "source", "map", "annotate", "reduce", "repartition"]
PLAN_VERSION = 2  # of the layout of steps on disk; raised when old steps must not be read


@dataclass(frozen=True, kw_only=True)
class CatalogUse:
    """A catalog as a recipe uses it: by name, with its source and options, perhaps all in one pool."""

    name: str
    source: str = ""
    options: tuple[tuple[str, str], ...] = ()
    pool: str = ""

    @property
    def id(self) -> str:
        """The words of this use, in one line."""
        text = [
            self.name,
            self.source,
            self.pool,
            *(f"{key}={value}" for key, value in self.options),
        ]
        return "|".join(text)


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One materialised node of a plan. Made by `catalogs()` and the verbs, never by hand."""

    verb: Verb
    stages: tuple[Stage[Any], ...] = ()
    input: Step | None = None
    uses: tuple[CatalogUse, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def map(self, *stages: Stage[Any]) -> Step:
        """Every sample through these stages, in one pass; a Drop or a broken sample leaves with its reason."""
        return Step(verb="map", stages=stages, input=self)

    def annotate(self, *stages: Stage[Any]) -> Step:
        """New columns only, same keys, same order: no image is copied."""
        return Step(verb="annotate", stages=stages, input=self)

    def reduce(self, stage: Stage[T]) -> Ref[T]:
        """One small result over all rows; as a tree, if the stage has parts."""
        return Ref[T](step=Step(verb="reduce", stages=(stage,), input=self))

    def repartition(self, *, by: str, per_shard: int, shard_bytes: int = 1 << 29, seed: int = 0) -> Step:
        """Rows grouped by the column `by` (null: left out, with the column `reason` as the reason), each group
        shuffled as a whole by `seed` and cut into shards of at most `per_shard` rows and `shard_bytes` bytes,
        equal to within one row. Any number of rows: no job holds more than a block of them (run/repartition.py).
        """
        options = {"by": by, "per_shard": per_shard, "shard_bytes": shard_bytes, "seed": seed}
        return Step(verb="repartition", input=self, options=options)

    @property
    def rows(self) -> Ref[Rows]:
        """This step's rows, as a keyword for another step's stage."""
        return Ref[Rows](step=self)

    @property
    def name(self) -> str:
        """For people: `map:intake,describe`."""
        return self.verb + ":" + (",".join(stage.short_name for stage in self.stages) or self._label())

    def _label(self) -> str:
        return ",".join(use.name for use in self.uses) or str(self.options.get("by", ""))

    def needs(self) -> list[Step]:
        """The steps that must be complete before this one."""
        found = [self.input] if self.input else []
        for stage in self.stages:
            found += [ref.step for ref in _refs(dict(stage.keywords)) if ref.step is not None]
        return found


@dataclass(frozen=True, kw_only=True)
class Store:
    """What of a step is published, and how its columns are called in the tree.

    `step` is repartitioned by the name of the split. `label` becomes the member `cls`, `caption` the member
    `txt`, `json` columns the member `json`; those and `metadata` columns (None: all there are) become the metadata
    table. Columns that no row has are left out.
    """

    step: Step
    image_format: Ref[str]
    label: str | None = "label"
    class_names: Ref[list[str]] | None = None
    caption: str | None = None
    json: tuple[str, ...] = ()
    metadata: tuple[str, ...] | None = None
    arrow: bool = False
    title: str = ""
    description: str = ""
    split_notes: Mapping[str, str] = field(default_factory=dict)
    keywords: tuple[str, ...] = ()
    task_categories: tuple[str, ...] = ("image-classification",)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a build makes: a store, lists over it, files beside it, and checks that must hold.

    `lists`: name → table with `key` and `split`: a further selection over the same shards.
    `files`: path in the tree → a result (text, JSON, table; Files: the folder of that path).
    `checks`: results that are lists of findings.
    `fetches`: what its stages may ask the network for, in words; of catalogs, their readers say so.
    """

    store: Store
    checks: Sequence[Ref[list[dict[str, Any]]]] = ()
    lists: Mapping[str, Ref[Any]] = field(default_factory=dict)
    files: Mapping[str, Ref[Any]] = field(default_factory=dict)
    fetches: Sequence[str] = ()

    def targets(self) -> list[Step]:
        """The steps that the tree is made of; everything else is on the way to them."""
        refs = [*self.checks, *self.lists.values(), *self.files.values(), self.store.image_format]
        if self.store.class_names:
            refs.append(self.store.class_names)
        return [self.store.step, *(ref.step for ref in refs if ref.step)]


def catalogs(*uses: CatalogUse) -> Step:
    """All samples of these catalogs, one after the other."""
    return Step(verb="catalogs", uses=uses)


def source(stage: Stage[Any], *, shards: int) -> Step:
    """Samples made by a `@source` stage, shard by shard."""
    return Step(verb="source", stages=(stage,), options={"shards": shards})


class Plan:
    """A recipe's steps in the order they can run, each with its fingerprint.

    `checksums`: CatalogUse.id → checksum of the catalog's content, as a scan found it.
    """

    def __init__(self, recipe: Recipe, checksums: Mapping[str, str]) -> None:
        self.recipe = recipe
        self._checksums = checksums
        self._fingerprints: dict[int, str] = {}
        self._lineages: dict[int, str] = {}
        self.steps: dict[str, Step] = {}
        for target in recipe.targets():
            self._visit(target)

    def _visit(self, step: Step) -> None:
        if id(step) in self._fingerprints:
            return
        for need in step.needs():
            self._visit(need)
        self._fingerprints[id(step)] = self._make(step)
        # Two equal steps share one folder: the second is the first.
        self.steps.setdefault(self._fingerprints[id(step)], step)

    def fingerprint(self, step: Step) -> str:
        """24 hex digits: verb, stages (name, version, keywords), inputs' fingerprints, catalogs' checksums."""
        return self._fingerprints[id(step)]

    def lineage(self, step: Step) -> str:
        """Hash of the code of a step's stages and of all before it. Two steps of one fingerprint differ in it where
        code changed and no version did.
        """
        if id(step) not in self._lineages:
            self._lineages[id(step)] = self.code_of(step, self.lineage)
        return self._lineages[id(step)]

    def code_of(self, step: Step, before: Callable[[Step], str]) -> str:
        """Hash of the code of a step's stages and of `before` of each step that it stands on."""
        codes = [[stage.name, stage.version, stage.code] for stage in step.stages]
        text = json.dumps([codes, *(before(need) for need in step.needs())])
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    def _make(self, step: Step) -> str:
        described = {
            "plan": PLAN_VERSION,
            "verb": step.verb,
            "input": self.fingerprint(step.input) if step.input else None,
            "options": dict(step.options),
            "catalogs": [self._checksum(use) for use in step.uses],
            "stages": [
                [stage.name, stage.version, self._plain(dict(stage.keywords))] for stage in step.stages
            ],
        }
        text = json.dumps(described, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    def _checksum(self, use: CatalogUse) -> str:
        return self._checksums[use.id]

    def _plain(self, value: Any) -> Any:
        """The value as canonical JSON can hold it; a Ref as the fingerprint of its step."""
        if isinstance(value, Ref):
            return {"step": self.fingerprint(value.step)} if value.step else {"step": None}
        if value is None or isinstance(value, str | int | float | bool):
            return value
        if isinstance(value, Mapping):
            return {str(key): self._plain(inner) for key, inner in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
            return [self._plain(inner) for inner in value]
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {item.name: self._plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
        if isinstance(value, PurePath):
            raise ConfigError(f"a path ({value}) cannot be a stage's keyword: read it in a catalog")
        raise ConfigError(f"a stage's keyword cannot be a {type(value).__name__}: {value!r}")


def _refs(value: Any) -> Iterator[Ref[Any]]:
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _refs(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _refs(inner)


def bind_refs(value: Any, load: Any) -> Any:
    """`value` with every promised Ref replaced by one that has its value, as `load(step)` gives it."""
    if isinstance(value, Ref):
        return value if value.step is None else Ref(loaded=load(value.step))
    if isinstance(value, Mapping):
        return {key: bind_refs(inner, load) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(bind_refs(inner, load) for inner in value)
    return value
