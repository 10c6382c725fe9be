"""What is published and how it is laid out: the plain data that the tree's writers share."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from datakit.errors import ConfigError

FORMAT = "datakit-store"
VERSION = 1  # of the tree's layout and of manifest.json
MANIFEST = "manifest.json"
IMAGE_TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
_SPLIT = re.compile(r"[a-z][a-z0-9_]{0,47}")  # what Hugging Face, wids and energon all take; no dash
_SEMVER = re.compile(r"\d+\.\d+\.\d+")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """One shard to write: number `index` of the `of` shards of `split`."""

    split: str
    index: int
    of: int

    def __post_init__(self) -> None:
        check_split(self.split)
        if not 0 <= self.index < self.of:
            raise ConfigError(f"shard {self.index} of {self.of} of {self.split}: there is no such shard")

    @property
    def name(self) -> str:
        return shard_name(self.split, self.index, self.of)

    @property
    def tar(self) -> str:
        """Paths are relative to the root of the tree, with forward slashes."""
        return f"data/{self.name}.tar"

    @property
    def metadata(self) -> str:
        return f"metadata/{self.name}.parquet"

    @property
    def arrow(self) -> str:
        return f"arrow/{self.split}/data-{self.index:05d}-of-{self.of:05d}.arrow"


def shard_name(split: str, index: int, of: int) -> str:
    """`train-00000-of-00004`: the one form of name that all readers accept with any split."""
    return f"{split}-{index:05d}-of-{of:05d}"


def check_split(split: str) -> None:
    if not _SPLIT.fullmatch(split) or split == "all":
        raise ConfigError(f"{split!r} is no name for a split: a-z, then a-z 0-9 _, at most 48, and not `all`")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which columns of the rows become which member of a sample.

    `label` → `cls`, an integer, -1 for a sample of no class; `caption` → `txt`, empty where there is none;
    `json_fields` → `json`, null where there is none. `metadata`: the columns of the parquet and Arrow forms
    beside those (None: all). `class_names[label]` is the name of a class.
    """

    image_extension: str = "jpg"
    label: str | None = None
    caption: str | None = None
    json_fields: tuple[str, ...] = ()
    metadata: tuple[str, ...] | None = None
    class_names: tuple[str, ...] = ()
    arrow: bool = True

    def __post_init__(self) -> None:
        if self.image_extension not in IMAGE_TYPES:
            raise ConfigError(f"images are stored as {', '.join(IMAGE_TYPES)}, not {self.image_extension!r}")
        if len(set(self.class_names)) != len(self.class_names):
            raise ConfigError("class_names holds a name twice; Hugging Face refuses such labels")
        if self.class_names and not self.label:
            raise ConfigError("class_names needs `label`, the column of the class numbers")

    @property
    def extensions(self) -> tuple[str, ...]:
        """The members of every sample, in order."""
        optional = (("json", self.json_fields), ("cls", self.label), ("txt", self.caption))
        return (self.image_extension, *(name for name, used in optional if used))

    @property
    def named(self) -> tuple[str, ...]:
        """The columns it names, each once, in the order published."""
        chosen = [self.label, self.caption, *self.json_fields, *(self.metadata or ())]
        return tuple(dict.fromkeys(name for name in chosen if name))

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Layout:
        """Raises ConfigError for values of another kind: it may come from a manifest that anybody wrote."""
        plain: dict[str, Any] = {
            name: tuple(item) if isinstance(item, list) else item for name, item in value.items()
        }
        for name, item in plain.items():
            every = item if isinstance(item, tuple) else () if item is None else (item,)
            is_tuple = name in ("json_fields", "class_names") or (name == "metadata" and item is not None)
            kind = bool if name == "arrow" else str
            if isinstance(item, tuple) != is_tuple or not all(isinstance(one, kind) for one in every):
                raise ConfigError(f"the layout's {name} cannot be {item!r}")
        return cls(**plain)


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of the tree as it must be: relative path, bytes, sha256 in hex."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """What `write_shard` wrote; JSON by `to_json`, so that it can cross between processes and runs."""

    split: str
    index: int
    of: int
    samples: int
    tar: File
    metadata: File
    arrow: File | None

    @property
    def files(self) -> tuple[File, ...]:
        return tuple(file for file in (self.tar, self.metadata, self.arrow) if file)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ShardEntry:
        files = {name: File(**value[name]) if value[name] else None for name in ("tar", "metadata", "arrow")}
        return cls(**{**value, **files})


@dataclass(frozen=True, kw_only=True)
class Licence:
    """Terms of part of the images. `spdx`: an identifier or expression; where it is empty, `name` stands."""

    spdx: str = ""
    name: str = ""
    link: str = ""
    attribution: str = ""
    samples: int | None = None
    text: str = ""

    def __post_init__(self) -> None:
        if not (self.spdx or self.name):
            raise ConfigError("a licence needs `spdx` or `name`")

    @property
    def title(self) -> str:
        return self.spdx or self.name


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """What people must know of a store. Texts are Markdown; dates come from here, never from the clock.

    `split_notes`: one line a split. `selection_notes`: one line for each list of keys beside the main splits.
    `sources`: URLs or names of what the images come from. `sections`: further (title, text) of the card.
    """

    name: str
    title: str
    description: str
    homepage: str
    creator: str
    licences: tuple[Licence, ...]
    date_published: str  # YYYY-MM-DD
    version: str = "1.0.0"
    citation: str = ""
    command: str = ""
    keywords: tuple[str, ...] = ()
    language: tuple[str, ...] = ("en",)
    task_categories: tuple[str, ...] = ("image-classification",)
    annotations_creators: tuple[str, ...] = ("found",)
    sources: tuple[str, ...] = ()
    classes_how: str = ""
    split_notes: Mapping[str, str] = field(default_factory=dict)
    selection_notes: Mapping[str, str] = field(default_factory=dict)
    checks: str = ""
    metrics: str = ""
    sections: tuple[tuple[str, str], ...] = ()
    outcomes: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Croissant requires these, and its own validator says nothing where they are missing.
        required = ("name", "title", "description", "homepage", "creator", "licences")
        if missing := [name for name in required if not getattr(self, name)]:
            raise ConfigError(f"the store's description lacks {', '.join(missing)}")
        if not _DATE.fullmatch(self.date_published):
            raise ConfigError(f"date_published is {self.date_published!r}, not YYYY-MM-DD")
        if not _SEMVER.fullmatch(self.version):
            raise ConfigError(f"version is {self.version!r}, not MAJOR.MINOR.PATCH")
