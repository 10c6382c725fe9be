"""F20: files of an index damaged, of another index, or vouched for by an index.json that lies; asked in a child."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datakit.index import folder, upkeep
from datakit.index.make import make_index
from datakit.index.spec import Basis, Coarse, Codes, Spec, Target

from . import Outcome, Tell
from .f17_foreign import mutant
from .reader_child import Child

TITLE = (
    "500 times a file of an index damaged, cut, emptied, missing or of another index; or an index.json with other "
    "counts, or one that vouches for the damage; opened and asked in a child"
)
WANTED = (
    "the parent survives; the error names the file, or answers are those of the sound index; where the damage is "
    "vouched for, no child is lost"
)
CASES = 500
SUITE = 60
LIMIT = 20.0  # seconds for one index
ROWS, DIM = 600, 32
KINDS = ("sq8", "pq4fs", "pq8", "rabitqfs", "panorama", "nested")
JUNK: tuple[Any, ...] = (0, -1, 7, 10**6, 10**12, 1 << 70, 1.5, "8", None, True, [], {}, [1], {"a": "b"})
COUNTS = (  # keys of index.json that say how many, or what kind: none may lie
    "rows",
    "dim",
    "learned",
    "generation",
    "nested",
    "name",
    "base",
    "files",
    "encoders",
    "pairing",
    "curve",
    "format",
    "spec",
    "spec.structure",
    "spec.basis",
    "spec.coarse.nlist",
    "spec.coarse.dims",
    "spec.codes.dims",
    "spec.codes.bytes",
    "spec.codes.kind",
    "spec.graph.links",
    "search.kind",
    "base.axes",
    "base.vectors",
    "base.meta",
)
OTHERS = {"kind": [*KINDS, "flat", "fp16"], "structure": ["flat", "ivf", "hnsw"]}


def indices(work: Path) -> dict[str, list[Path]]:
    """kind → two sound indices of other rows; of the first some rows were added, and some deleted, since."""
    made: dict[str, list[Path]] = {}
    target = Target(recall=0.8)
    specs = {kind: Spec(codes=Codes(kind=kind), coarse=Coarse(nlist=8), target=target) for kind in KINDS}
    specs |= {"flat": Spec(structure="flat"), "hnsw": Spec(structure="hnsw", codes=Codes(kind="sq8"))}
    specs["ivf"] = Spec(basis=Basis(kind="raw"), codes=Codes(kind="flat"), coarse=Coarse(nlist=8))
    meta = pa.table({"key": [f"k{row}" for row in range(ROWS)], "draw": np.arange(ROWS) / ROWS})
    for kind, spec in specs.items():
        for number in range(2):
            vectors = np.random.default_rng(number).standard_normal((ROWS, DIM)).astype(np.float32)
            path = work / "sound" / f"{kind}{number}"
            folder.write_files(path, make_index(vectors, meta, spec, name=kind))
            made.setdefault(kind, []).append(path)
            more = meta.slice(0, 40).set_column(0, "key", pa.array([f"new{row}" for row in range(40)]))
            upkeep.add(path, vectors[:40] + 1, more)
            upkeep.delete(path, ["k3", "new5"])
    return made


def damage(index: Path, other: Path, rng: random.Random) -> str:
    """The name of the file that is not what it was."""
    name = rng.choice(names(index))
    path, data = index / name, (index / name).read_bytes()
    how = rng.randrange(6)
    if how == 0:
        path.unlink()
    elif how == 1:
        path.write_bytes(data[: rng.randrange(len(data))])
    elif how == 2:
        path.write_bytes((other / name).read_bytes())
    elif how == 3:
        path.write_bytes(b"")
    else:
        path.write_bytes(mutant(data, rng))
    return name if not path.exists() or path.read_bytes() != data else ""


def lie(index: Path, other: Path, rng: random.Random) -> str:
    """index.json says something else, and its own digest is right."""
    about = folder.read_about(index)
    at, where = rng.choice(COUNTS), about
    *parts, last = at.split(".")
    for part in parts:
        where = where[part]
    before = where.get(last)
    choices = [*JUNK, *OTHERS.get(last, []), *about["files"]]
    if isinstance(before, int):
        choices += [before + 1, before - 1, before * 2] * 3
    where[last] = rng.choice(choices)
    (index / folder.ABOUT).write_bytes(folder.record_bytes(json.loads(json.dumps(about))))
    return folder.ABOUT


def vouch(index: Path, other: Path, rng: random.Random) -> str:
    """A file damaged, or of another index, and an index.json to match."""
    name = rng.choice([name for name in names(index) if name != folder.ABOUT])
    path, data = index / name, (index / name).read_bytes()
    how = rng.randrange(8)
    if how == 0:
        path.write_bytes(data[: rng.randrange(len(data))])
    elif how == 1:
        path.write_bytes((other / rng.choice(names(other))).read_bytes())
    else:
        path.write_bytes(mutant(data, rng))
    about = folder.read_about(index)
    about["files"] |= folder.described({name: path.read_bytes()})
    (index / folder.ABOUT).write_bytes(folder.about_bytes(about))
    return name


WAYS: tuple[Callable[[Path, Path, random.Random], str], ...] = (damage, damage, lie, vouch)


def names(index: Path) -> list[str]:
    return sorted(path.name for path in index.iterdir() if not path.name.startswith("."))


def wrong(way: Any, name: str, answer: dict[str, Any], sound: str) -> bool:
    """Whether what came of it is not what is wanted."""
    if way is vouch:
        return answer["said"] not in ("ok", "refused")
    same = answer["said"] == "ok" and answer["detail"] == sound and name in ("", folder.ABOUT)
    # Another index's index.json is whole, or one whose counts lie: it is the files that are not those it names.
    said = [name] if name != folder.ABOUT else [".json", ".npz", ".arrow", ".faiss", ".npy"]
    return not same and not (answer["said"] == "refused" and any(one in answer["detail"] for one in said))


def run(cases: int, seed: int, work: Path, tell: Tell) -> Outcome:
    rng, made = random.Random(seed), indices(work)
    failures: list[str] = []
    counts: dict[str, int] = {}
    with Child(LIMIT) as child:
        sound = {kind: child.ask("index", paths[0])["detail"] for kind, paths in made.items()}
        for case in range(cases):
            kind, way = rng.choice(list(made)), WAYS[case % len(WAYS)]
            place = work / f"case{case:04d}"
            shutil.copytree(made[kind][0], place)
            other = made[rng.choice(list(made))][1] if way is vouch else made[kind][1]
            name = way(place, other, rng)
            answer = child.ask("index", place)
            counts[answer["said"]] = counts.get(answer["said"], 0) + 1
            if wrong(way, name, answer, sound[kind]):
                said = f"{answer['said']} {answer['reason']} {answer['detail'][:200]}"
                failures.append(f"{kind} {case}, {way.__name__} {name}: {said}")
                tell(failures[-1])
            shutil.rmtree(place)
        figures = {said: str(count) for said, count in sorted(counts.items())}
        figures["children lost"] = str(child.deaths)
    return Outcome(cases=cases, failures=failures, figures=figures)
