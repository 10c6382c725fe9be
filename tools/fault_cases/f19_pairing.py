"""F19: parts of two builds in one tree. `verify --deep` must name each, and what datakit reads must not be given."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datakit.errors import ConfigError, StoreError
from datakit.image import encode
from datakit.rng import rng_for
from datakit.store.contents import canonical
from datakit.store.reader import open_store
from datakit.store.sidecar import write_sidecar
from datakit.store.tree import Layout, Licence, ShardPlan, StoreInfo, finish_tree, write_shard
from datakit.store.verify import verify
from fault_cases import Outcome, Tell

TITLE = "wrong pairing: parts of another build, shard or list put into a store"
WANTED = "each refused by `verify --deep`, and by opening and reading where datakit reads it"
CASES = 20
SUITE = 20

SHARDS = {"train": (6, 6), "test": (5,)}
LAYOUT = Layout(
    label="label", caption="caption", json_fields=("class_name",), class_names=("crow", "jay", "owl")
)
SIDECAR = "vectors.arrow"
MAIN, SECOND = "00000-of-00002", "00001-of-00002"


@dataclass(frozen=True)
class Stores:
    """`own`, and three that could be taken for it: same names, splits, numbers of samples and keys.

    `relabelled`: the same images, other classes. `retaken`: other images. `renamed`: the same under other keys.
    `fewer`: a sample less.
    """

    own: Path
    relabelled: Path
    retaken: Path
    renamed: Path
    fewer: Path


@dataclass(frozen=True)
class Case:
    """`put(tree, stores)` makes the wrong pair. sealed: the manifest is then made to vouch for it."""

    name: str
    put: Callable[[Path, Stores], None]
    sealed: bool = False
    read: bool = True  # datakit's reader reads the part


def run(cases: int, seed: int, work: Path, tell: Tell) -> Outcome:
    stores = _stores(work, seed)
    failures, read, refused = [], 0, 0
    for number in range(cases):
        case = PAIRINGS[number % len(PAIRINGS)]
        tree = Path(shutil.copytree(stores.own, work / f"case-{number}"))
        case.put(tree, stores)
        if case.sealed:
            _seal(tree)
        missed = ["verify --deep found nothing"] if verify(tree, deep=True).ok else []
        if case.read:
            stopped = _refused(tree)
            read, refused = read + 1, refused + stopped
            missed += [] if stopped else ["every sample and row was read without a word"]
        if missed:
            failures.append(f"{case.name}: {', and '.join(missed)}")
        shutil.rmtree(tree)
    tell(f"{cases} pairings, {len(failures)} not refused")
    return Outcome(cases=cases, failures=failures, figures={"refused by reading": f"{refused} of {read}"})


def _stores(work: Path, seed: int) -> Stores:
    def build(name: str, *, images: int = seed, turn: int = 0, prefix: str = "bird", less: int = 0) -> Path:
        root, first, entries = work / name, 0, []
        for split, sizes in SHARDS.items():
            for index, size in enumerate(sizes):
                size -= less * (split == "test")
                numbers = range(first, first + size)
                rows = [_row(f"{prefix}-{number:03d}", number, turn) for number in numbers]
                data = [_image(images, number) for number in numbers]
                plan = ShardPlan(split=split, index=index, of=len(sizes))
                entries.append(write_shard(root, plan, pa.Table.from_pylist(rows), data, layout=LAYOUT))
                first += size
        keys = [f"{prefix}-{number:03d}" for number in range(first)]
        lists = {f"seed{draw}": _list(keys, draw + turn) for draw in (1, 2)}
        finish_tree(root, entries=entries, layout=LAYOUT, info=_info(), selections=lists)
        return root

    return Stores(
        own=build("own"),
        relabelled=build("relabelled", turn=1),
        retaken=build("retaken", images=seed + 1),
        renamed=build("renamed", prefix="gull"),
        fewer=build("fewer", less=1),
    )


def _row(key: str, number: int, turn: int) -> dict[str, Any]:
    label = (number + turn) % 3
    names = {"class_name": LAYOUT.class_names[label], "tier": f"t{label}"}
    return {"key": key, "label": label, "caption": f"bird {number}", **names}


def _list(keys: list[str], draw: int) -> pa.Table:
    splits = ["train" if (number + draw) % 3 else "test" for number in range(len(keys))]
    return pa.table(
        {"key": keys, "split": splits, "label": [(number + draw) % 3 for number in range(len(keys))]}
    )


def _image(seed: int, number: int) -> bytes:
    pixels = rng_for(seed, "pairing", str(number)).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    return encode(pixels, format="JPEG", quality=60)


def _info() -> StoreInfo:
    return StoreInfo(
        name="birds",
        title="Birds",
        description="Noise.",
        homepage="https://example.org",
        creator="A tester",
        licences=(Licence(spdx="CC0-1.0"),),
        date_published="2026-01-02",
    )


def _taken(source: str, *paths: str, to: str = "") -> Callable[[Path, Stores], None]:
    """Puts files of one of the stores, `own` being that itself, in the place of the tree's (or at `to`)."""

    def put(tree: Path, stores: Stores) -> None:
        for path in paths:
            shutil.copy(getattr(stores, source) / path, tree / (to or path))

    return put


def _swapped(one: str, other: str) -> Callable[[Path, Stores], None]:
    def put(tree: Path, stores: Stores) -> None:
        shutil.copy(stores.own / one, tree / other)
        shutil.copy(stores.own / other, tree / one)

    return put


def _energon(tree: Path, stores: Stores) -> None:
    """An offset index of another shard beside this one."""
    (tree / f"data/train-{MAIN}.tar.idx").write_bytes(np.arange(7, dtype="<u8").tobytes())


def _sidecar(tree: Path, stores: Stores) -> None:
    """Vectors of another build, of the same keys."""
    store = open_store(stores.relabelled)
    keys = [key for split in store.splits for key in store[split].keys]
    vectors = pa.array([[float(number)] for number in range(len(keys))], pa.list_(pa.float32()))
    write_sidecar(tree / SIDECAR, pa.table({"key": keys, "vector": vectors}), store)


def _parts(folder: str, end: str) -> tuple[str, ...]:
    names = (f"train-{MAIN}", f"train-{SECOND}", "test-00000-of-00001")
    return tuple(f"{folder}/{name}.{end}" for name in names)


def _arrow(number: int) -> str:
    return f"arrow/train/data-{number:05d}-of-00002.arrow"


TARS, ROWS = _parts("data", "tar"), _parts("metadata", "parquet")
PAIRINGS = (
    Case("metadata of a build with other labels", _taken("relabelled", ROWS[0])),
    Case("metadata of a build with other labels, sealed", _taken("relabelled", ROWS[0]), sealed=True),
    Case("metadata of a build with other images, sealed", _taken("retaken", ROWS[1]), sealed=True),
    Case("metadata of a build with other keys, sealed", _taken("renamed", ROWS[2]), sealed=True),
    Case("all metadata of a build with other images, sealed", _taken("retaken", *ROWS), sealed=True),
    Case("metadata of two shards swapped, sealed", _swapped(ROWS[0], ROWS[1]), sealed=True),
    Case("shard of a build with other images, sealed", _taken("retaken", TARS[0]), sealed=True),
    Case("all shards of a build with other labels, sealed", _taken("relabelled", *TARS), sealed=True),
    Case("two shards swapped, sealed", _swapped(TARS[0], TARS[1]), sealed=True),
    Case("manifest of a build with other images", _taken("retaken", "manifest.json")),
    Case("manifest of a build with other labels", _taken("relabelled", "manifest.json")),
    Case("manifest of a build with a sample less", _taken("fewer", "manifest.json")),
    Case("list of a build with other labels", _taken("relabelled", "lists/seed1.parquet")),
    Case("list of a build with other keys, sealed", _taken("renamed", "lists/seed1.parquet"), sealed=True),
    Case("one list for another", _taken("own", "lists/seed2.parquet", to="lists/seed1.parquet")),
    Case("Arrow file of another build, sealed", _taken("relabelled", _arrow(0)), sealed=True, read=False),
    Case("sidecar of a build with other labels", _sidecar),
    Case("wids index of another split, sealed",
         _taken("own", "data/test.index.json", to="data/train.index.json"), sealed=True, read=False),
    Case("Croissant and card of another build, sealed",
         _taken("fewer", "croissant.json", "README.md"), sealed=True, read=False),
    Case("energon's index of another shard", _energon, read=False),
)  # fmt: skip


def _seal(tree: Path) -> None:
    """Make the manifest vouch for the files as they are."""
    manifest = json.loads((tree / "manifest.json").read_bytes())

    def now(path: str) -> dict[str, Any]:
        data = (tree / path).read_bytes()
        return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    manifest["files"] = {path: now(path) for path in manifest["files"]}
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            for form in ("tar", "metadata", "arrow"):
                shard[form] |= now(shard[form]["path"])
    body = {name: value for name, value in manifest.items() if name != "digest"}
    sealed = {**body, "digest": hashlib.sha256(canonical(body)).hexdigest()}
    (tree / "manifest.json").write_bytes(canonical(sealed))


def _refused(tree: Path) -> bool:
    """Whether reading all there is — every sample, every row, under every selection — stops with an error of ours."""
    try:
        store = open_store(tree)
        for view in (store, *map(store.select, store.selections)):
            for split in view.splits:
                found = view[split].zip(tree / SIDECAR) if (tree / SIDECAR).exists() else view[split]
                found.table()
                for _ in found.samples():
                    pass
    except (StoreError, ConfigError):
        return True
    return False
