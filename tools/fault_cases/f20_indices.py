"""F20: files of an index damaged, cut, or taken from another index, opened and asked in a child."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa

from datakit.index import folder
from datakit.index.make import make_index
from datakit.index.spec import Coarse, Codes, Spec

from . import Outcome, Tell
from .f17_foreign import mutant
from .reader_child import Child

TITLE = "500 times a file of an index damaged, cut, emptied, missing or of another index, opened in a child"
WANTED = "the parent survives; the error names the file, or answers are those of the sound index"
CASES = 500
SUITE = 40
LIMIT = 20.0  # seconds for one index
ROWS, DIM = 600, 32


def indices(work: Path) -> dict[str, list[Path]]:
    """kind → two sound indices of other rows."""
    made: dict[str, list[Path]] = {}
    specs = {
        kind: Spec(codes=Codes(kind=kind), coarse=Coarse(nlist=8)) for kind in ("sq8", "pq4fs", "nested")
    }
    specs |= {"flat": Spec(structure="flat"), "hnsw": Spec(structure="hnsw", codes=Codes(kind="sq8"))}
    meta = pa.table({"key": [f"k{row}" for row in range(ROWS)], "draw": np.arange(ROWS) / ROWS})
    for kind, spec in specs.items():
        for number in range(2):
            vectors = np.random.default_rng(number).standard_normal((ROWS, DIM)).astype(np.float32)
            path = work / "sound" / f"{kind}{number}"
            folder.write_files(path, make_index(vectors, meta, spec, name=kind))
            made.setdefault(kind, []).append(path)
    return made


def damage(index: Path, other: Path, rng: random.Random) -> str:
    """The name of the file that is not what it was."""
    name = rng.choice(sorted(path.name for path in index.iterdir()))
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


def run(cases: int, seed: int, work: Path, tell: Tell) -> Outcome:
    rng, made = random.Random(seed), indices(work)
    failures: list[str] = []
    counts: dict[str, int] = {}
    with Child(LIMIT) as child:
        sound = {kind: child.ask("index", paths[0])["detail"] for kind, paths in made.items()}
        for case in range(cases):
            kind = list(made)[case % len(made)]
            place = work / f"case{case:04d}"
            shutil.copytree(made[kind][0], place)
            name = damage(place, made[kind][1], rng)
            answer = child.ask("index", place)
            counts[answer["said"]] = counts.get(answer["said"], 0) + 1
            same = answer["said"] == "ok" and answer["detail"] == sound[kind] and name in ("", "index.json")
            # Another index's index.json is whole: it is the files that are not those it names.
            named = answer["said"] == "refused" and (name in answer["detail"] or name == "index.json")
            if not (same or named):
                failures.append(f"{kind} {case}, {name}: {answer['said']} {answer['detail'][:150]}")
                tell(failures[-1])
            shutil.rmtree(place)
        figures = {said: str(count) for said, count in sorted(counts.items())}
        figures["children lost"] = str(child.deaths)
    return Outcome(cases=cases, failures=failures, figures=figures)
