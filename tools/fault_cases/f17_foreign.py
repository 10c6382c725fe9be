"""F17: Arrow and Parquet files of others, damaged at random, read in a child."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from . import Outcome, Tell
from .reader_child import Child

TITLE = "500 mutants each of a Parquet table, a store's metadata and an Arrow file, read in a child"
WANTED = "the parent survives; what is refused is refused by an error that names the file"
CASES = 1500
SUITE = 90
LIMIT = 10.0  # seconds for one file
KINDS = {"table": ".parquet", "metadata": ".parquet", "arrow": ".arrow"}


def table(rows: int = 200) -> pa.Table:
    """Columns of every kind that tables of images have."""
    return pa.table(
        {
            "path": [f"images/{index:05d}.jpg" for index in range(rows)],
            "label": [index % 7 for index in range(rows)],
            "class_name": [f"class {index % 7}" for index in range(rows)],
            "tags": [["a", "b"][: index % 3] for index in range(rows)],
            "box": [[0.5 * index, 1.0, 2.0, 3.0] for index in range(rows)],
            "image": [{"bytes": bytes(index % 50), "path": f"{index}"} for index in range(rows)],
            "note": [None if index % 2 else "é" * (index % 5) for index in range(rows)],
        }
    )


def originals(work: Path) -> dict[str, list[bytes]]:
    made: dict[str, list[bytes]] = {"table": [], "metadata": [], "arrow": []}
    for options in (
        {"compression": "zstd"},
        {"compression": "snappy", "data_page_version": "2.0"},
        {"compression": "none", "row_group_size": 50},
    ):
        pq.write_table(table(), work / "made.parquet", **options)
        made["table"].append((work / "made.parquet").read_bytes())
    made["metadata"] = made["table"]
    with pa.OSFile(str(work / "made.arrow"), "wb") as sink, pa.ipc.new_file(sink, table().schema) as writer:
        writer.write_table(table(), max_chunksize=64)
    made["arrow"].append((work / "made.arrow").read_bytes())
    with pa.OSFile(str(work / "made.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table().schema) as writer:
        writer.write_table(table(), max_chunksize=64)
    made["arrow"].append((work / "made.arrow").read_bytes())
    return made


def mutant(data: bytes, rng: random.Random) -> bytes:
    """Bits flipped, bytes set, runs zeroed, pieces cut, copied or exchanged; most near the end, where footers are."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(found))
        if rng.random() < 0.6:
            at = len(found) - 1 - rng.randrange(min(len(found), 4000))
        kind, length = rng.randrange(6), rng.choice((1, 2, 4, 8, 64, 512))
        if kind == 0:
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            found[at : at + 1] = bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF))])
        elif kind == 2:
            found[at : at + length] = bytes(len(found[at : at + length]))
        elif kind == 3:
            found[at : at + 8] = rng.randbytes(len(found[at : at + 8]))
        elif kind == 4:
            other = rng.randrange(len(found))
            found[at : at + length] = found[other : other + length]
        elif len(found) > 100:
            del found[at : at + length]
    return bytes(found)


def wrong(answer: dict[str, Any], path: Path) -> str:
    if answer["said"] in ("ok", "refused") and (
        answer["said"] == "ok" or path.name in answer["detail"] or answer["reason"].islower()
    ):
        return ""
    return f"{answer['said']} {answer['reason']} {answer['detail'][:150]}"


def run(cases: int, seed: int, work: Path, tell: Tell) -> Outcome:
    rng, made = random.Random(seed), originals(work)
    failures: list[str] = []
    counts: dict[str, int] = {}
    with Child(LIMIT) as child:
        for case in range(cases):
            kind = list(KINDS)[case % len(KINDS)]
            path = work / f"mutant{case:05d}{KINDS[kind]}"
            path.write_bytes(mutant(rng.choice(made[kind]), rng))
            answer = child.ask(kind, path)
            counts[answer["said"]] = counts.get(answer["said"], 0) + 1
            if said := wrong(answer, path):
                failures.append(f"{kind} {case}: {said}")
                tell(failures[-1])
            path.unlink()
        figures = {said: str(count) for said, count in sorted(counts.items())} | {
            "children lost": str(child.deaths)
        }
    return Outcome(cases=cases, failures=failures, figures=figures)
