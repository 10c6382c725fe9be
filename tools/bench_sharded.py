"""What a sharded build of an index costs beside the single one: wall, CPU, and the memory of whoever asks for it.

    python tools/bench_sharded.py [--rows 200000] [--dim 256] [--parts 16] [--workers 1 2] [--codes pq4fs] [--work DIR]

Vectors are made: clusters with a decaying spectrum. Each build is a process of its own; CPU is its own and that of its
children; "held" is the most anonymous memory that it had (what is mapped from disk can be dropped, and is not counted),
"workers" the most that one of its children had, maps included. Both indices are compared byte for byte at the end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datakit.disk import digest_of
from datakit.index import folder
from datakit.index.spec import Codes, Spec

TICK = 0.01  # seconds between looks at memory


def main() -> None:
    options = _options()
    if options.child:
        print(json.dumps(_child(options)))
        return
    with tempfile.TemporaryDirectory(dir=options.work or None) as scratch:
        options.work = scratch
        _make(options)
        rows, one = [], Path(scratch) / "single"
        for workers in [0, *options.workers]:
            rows.append(_run(options, workers))
            out = Path(scratch) / (f"sharded-{workers}" if workers else "single")
            same = {p.name: digest_of(p) for p in out.iterdir()} == {
                p.name: digest_of(p) for p in one.iterdir()
            }
            rows[-1]["same"] = same
        print(f"{options.rows} x {options.dim}, {options.parts} parts, codes {options.codes}")
        for row in rows:
            print(
                f"{row['name']:20} wall {row['wall']:7.1f} s  CPU {row['cpu']:7.1f} s  held {row['held']:7.0f} MiB"
                f"  workers {row['child']:6.0f} MiB  {'same bytes' if row['same'] else 'OTHER BYTES'}",
                flush=True,
            )


def _options() -> Any:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--parts", type=int, default=16)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--codes", default="pq4fs")
    parser.add_argument("--work", default="")
    parser.add_argument("--child", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def _make(options: Any) -> None:
    rng, place = np.random.default_rng(0), Path(options.work) / "in"
    place.mkdir()
    scale = (1 / np.sqrt(np.arange(1, options.dim + 1))).astype(np.float32)
    centres = rng.standard_normal((options.rows // 20, options.dim), np.float32)
    cuts = np.linspace(0, options.rows, options.parts + 1).astype(int)
    for number, (start, stop) in enumerate(itertools.pairwise(cuts)):
        drawn = centres[rng.integers(0, len(centres), stop - start)]
        vectors = (drawn + 0.5 * rng.standard_normal(drawn.shape, np.float32)) * scale
        keys = pa.array([f"k{row:09d}" for row in range(start, stop)])
        table = pa.table({"key": keys, "features": folder.vector_column(vectors)})
        (place / f"{number:03d}.arrow").write_bytes(folder.table_bytes(table))


def _run(options: Any, workers: int) -> dict[str, Any]:
    words = [
        sys.executable,
        __file__,
        "--child",
        str(workers or -1),
        "--work",
        options.work,
        "--codes",
        options.codes,
    ]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _child(options: Any) -> dict[str, Any]:
    from datakit.index.make import make_index
    from datakit.index.sharded import build_sharded

    work, spec = Path(options.work), Spec(codes=Codes(kind=options.codes))
    sources = sorted((work / "in").iterdir())
    peak = [0.0]
    threading.Thread(target=_watch, args=(peak,), daemon=True).start()
    started = time.perf_counter()
    if options.child < 0:
        name = "single"
        table = pa.concat_tables(folder.read_mapped(path) for path in sources).combine_chunks()
        vectors = table["features"].chunk(0).flatten().to_numpy().reshape(len(table), -1)
        folder.write_files(work / name, make_index(vectors, table.select(["key"]), spec))
    else:
        name = f"sharded-{options.child}"
        build_sharded(sources, work / name, column="features", spec=spec, workers=options.child)
    wall = time.perf_counter() - started
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "name": name,
        "wall": wall,
        "cpu": sum(one.ru_utime + one.ru_stime for one in used),
        "held": peak[0],
        "child": used[1].ru_maxrss / 1024,
    }


def _watch(peak: list[float]) -> None:
    """The most MiB of anonymous memory so far, in peak[0]."""
    while True:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                peak[0] = max(peak[0], int(line.split()[1]) / 1024)
        time.sleep(TICK)


if __name__ == "__main__":
    main()
