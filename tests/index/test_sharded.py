"""An index made of many files is the one made of all rows at once, whatever dies on the way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from datakit.errors import ConfigError, EnvironmentProblem, StoreError
from datakit.index import folder, pack, sharded_crew
from datakit.index.folder import vector_column
from datakit.index.make import make_index
from datakit.index.sharded import build_sharded
from datakit.index.sharded_work import Work, fingerprint
from datakit.index.spec import Coarse, Codes, Rerank, Space, Spec, Target, variant
from datakit.manifest import read_record, write_record
from tests.index.conftest import Cloud

SPEC = Spec(codes=Codes(kind="pq4fs"), rerank=Rerank(shortlist=50))
KINDS = ["flat", "sq8", "pq4fs", "rabitqfs", "panorama", "nested"]
CUTS: dict[int, list[int]] = {
    1: [],
    2: [1],  # nobody said that parts are of one size
    3: [500, 500],  # the second holds nothing
    7: [100, 250, 251, 252, 700, 1023],
    16: list(range(75, 1200, 75)),
}
DRAFT = re.compile(r"\.part-(\d+)-")  # what `disk` calls a file while this process writes it


@pytest.fixture(scope="module")
def small(cloud: Cloud) -> Cloud:
    return Cloud(cloud.vectors[:1200], cloud.queries, cloud.meta.slice(0, 1200))


def cut(cloud: Cloud, place: Path, cuts: list[int]) -> list[Path]:
    """The rows in files, Parquet of several row groups and Arrow in turn."""
    place.mkdir(parents=True, exist_ok=True)
    paths = []
    table = cloud.meta.append_column("features", vector_column(cloud.vectors))
    for number, (start, stop) in enumerate(zip([0, *cuts], [*cuts, len(table)], strict=True)):
        part = table.slice(start, stop - start)
        if number % 2:
            path = place / f"{number:03d}.arrow"
            path.write_bytes(folder.table_bytes(part))
        else:
            path = place / f"{number:03d}.parquet"
            pq.write_table(part, path, row_group_size=400)
        paths.append(path)
    return paths


def contents(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(place.iterdir())}


def build(paths: list[Path], out: Path, spec: Spec = SPEC, **how: Any) -> Counter[str]:
    """The index called x; how many jobs of each kind had something to do."""
    made: Counter[str] = Counter()

    def tell(kind: str, jobs: int, done: int) -> None:
        made[kind] += done

    build_sharded(paths, out, column="features", spec=spec, name="x", **{"tell": tell, **how})
    return made


def single(cloud: Cloud, spec: Spec = SPEC) -> dict[str, bytes]:
    return make_index(cloud.vectors, cloud.meta, spec, name="x")


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_files_gives_the_index_of_one(kind: Any, small: Cloud, tmp_path: Path) -> None:
    spec = Spec(codes=Codes(kind=kind), rerank=Rerank(shortlist=50), target=Target(queries=20))
    whole = single(small, spec)
    for many, cuts in CUTS.items():
        build(cut(small, tmp_path / f"in{many}", cuts), tmp_path / f"out{many}", spec, part_rows=500)
        assert contents(tmp_path / f"out{many}") == whole, f"{many} files"


@pytest.mark.parametrize(
    "spec",
    [
        variant("flat", rows=1200),
        variant("adanns-opq", rows=1200),
        Spec(structure="hnsw", codes=Codes(kind="fp16"), rerank=Rerank(store="fp16")),
        Spec(space=Space(metric="l2", center=True), rerank=Rerank(store="fp16")),
        Spec(space=Space(metric="ip"), codes=Codes(kind="sq8")),
    ],
    ids=["flat", "opq", "graph, halves", "l2, centred, halves", "ip"],
)
def test_so_does_every_structure_and_space(spec: Spec, small: Cloud, tmp_path: Path) -> None:
    build(cut(small, tmp_path / "in", CUTS[7]), tmp_path / "out", spec)
    assert contents(tmp_path / "out") == single(small, spec)


def test_k_means_over_all_rows_does_not_see_how_they_are_cut(small: Cloud, tmp_path: Path) -> None:
    spec = replace(SPEC, coarse=Coarse(trainer="distributed", iterations=3), space=Space(center=True))
    whole = single(small, spec)
    for many in (1, 7):
        build(cut(small, tmp_path / f"in{many}", CUTS[many]), tmp_path / f"out{many}", spec)
        assert contents(tmp_path / f"out{many}") == whole
    assert whole["axes-0.npz"] != single(small, replace(SPEC, space=Space(center=True)))["axes-0.npz"]


@contextmanager
def killing(work: Path, most: int) -> Iterator[list[int]]:
    """Whoever writes in this folder is killed in the middle of it, up to so many; never this process."""
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.0005) and len(killed) < most:
            names = [path.name for path in work.iterdir()] if work.is_dir() else []
            pids = {int(found[1]) for name in names if (found := DRAFT.search(name))} - {os.getpid(), *killed}
            for pid in list(pids)[: most - len(killed)]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield killed
    finally:
        over.set()
        killer.join()


def test_workers_killed_while_they_write_cost_their_jobs_alone(small: Cloud, tmp_path: Path) -> None:
    paths = cut(small, tmp_path / "in", CUTS[7])
    with killing(tmp_path / "out.parts", 2) as killed:
        build(paths, tmp_path / "out", workers=2)
    assert len(killed) == 2
    assert contents(tmp_path / "out") == single(small)


def test_a_job_that_costs_three_workers_ends_the_build_and_the_next_one_goes_on(
    small: Cloud, tmp_path: Path
) -> None:
    paths = cut(small, tmp_path / "in", [])
    with (
        killing(tmp_path / "out.parts", 1000) as killed,
        pytest.raises(EnvironmentProblem, match=r"3 workers died, .* of the job sample"),
    ):
        build(paths, tmp_path / "out", workers=2)
    assert len(killed) == 3 and not (tmp_path / "out").exists()
    build(paths, tmp_path / "out")
    assert contents(tmp_path / "out") == single(small)


def test_a_cluster_of_processes_makes_the_same_though_a_worker_dies(small: Cloud, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    paths = cut(small, tmp_path / "in", CUTS[7])
    settings = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with (
        distributed.LocalCluster(**settings, host="127.0.0.1") as cluster,
        distributed.Client(cluster) as client,
    ):
        with killing(tmp_path / "out.parts", 1) as killed:
            build(paths, tmp_path / "out", client=client)
        paths[0].write_bytes(b"nothing")
        with pytest.raises(ConfigError, match=r"000\.parquet is no Parquet"):
            build(paths, tmp_path / "more", client=client)
    assert len(killed) == 1
    assert contents(tmp_path / "out") == single(small)


DRIVERS = """
import json, os, signal, sys, time
import faiss
from datakit.index import sharded_jobs
from datakit.index.sharded import build_sharded
from datakit.index.spec_json import from_json

paths, out, spec = json.loads(sys.argv[1])
for line in sys.stdin:
    delay, told = line.split()
    pid = os.fork()
    if not pid:
        with open(told, "a") as file:
            tell = lambda kind, jobs, made: print(kind, made, file=file, flush=True)
            build_sharded(paths, out, column="features", spec=from_json(spec), name="x", tell=tell)
        os._exit(0)
    if float(delay):
        time.sleep(float(delay))
        os.kill(pid, signal.SIGKILL)  # not waited for yet: nobody else has this number
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def test_a_build_killed_at_any_moment_goes_on_from_what_is_whole(small: Cloud, tmp_path: Path) -> None:
    """Each of the builds is a process of its own, forked of one that has loaded everything."""
    paths, rng = cut(small, tmp_path / "in", CUTS[16]), np.random.default_rng(0)
    work, codes = tmp_path / "out.parts", list[int]()
    words = json.dumps([[str(path) for path in paths], str(tmp_path / "out"), SPEC.to_json()])
    with subprocess.Popen(
        [sys.executable, "-c", DRIVERS, words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as forking:
        assert forking.stdin and forking.stdout
        while not codes or codes[-1] != 0:
            whole = len(list(work.glob("part-*.json")))
            told = tmp_path / f"told{len(codes)}"
            print(rng.uniform(0.02, 0.3) if len(codes) < 8 else 0, told, file=forking.stdin, flush=True)
            codes.append(int(forking.stdout.readline()))
            done = dict(line.split() for line in told.read_text().splitlines()) if told.exists() else {}
            assert int(done.get("encode", len(paths) - whole)) == len(paths) - whole, (
                "what was whole was kept"
            )
            assert len(codes) < 20
        forking.stdin.close()
    assert codes.count(-signal.SIGKILL) >= 5
    assert contents(tmp_path / "out") == single(small)
    assert {path.name for path in work.iterdir()} == {".datakit-index", "plan.json", "done.json"}


def stop_after(kind: str) -> Callable[[str, int, int], None]:
    """For `tell`: Ctrl-C when such jobs are done."""

    def tell(here: str, jobs: int, made: int) -> None:
        if here == kind:
            raise KeyboardInterrupt

    return tell


def test_a_damaged_part_is_found_and_made_again(small: Cloud, tmp_path: Path) -> None:
    paths, work = cut(small, tmp_path / "in", CUTS[7]), tmp_path / "out.parts"
    with pytest.raises(KeyboardInterrupt):
        build(paths, tmp_path / "out", tell=stop_after("encode"))
    turned, short, gone, record = (
        work / f"part-0000{name}" for name in ("1.bin", "2.bin", "3.bin", "4.json")
    )
    data = bytearray(turned.read_bytes())
    data[len(data) // 2] ^= 1
    turned.write_bytes(data)
    short.write_bytes(short.read_bytes()[:-1])
    gone.unlink()
    record.write_bytes(record.read_bytes().replace(b"lists", b"lasts", 1))
    made = build(paths, tmp_path / "out")
    assert (made["sample"], made["encode"]) == (0, 4)
    assert contents(tmp_path / "out") == single(small)


def test_what_was_done_is_not_done_again_unless_something_changed(small: Cloud, tmp_path: Path) -> None:
    paths = cut(small, tmp_path / "in", [600])
    assert build(paths, tmp_path / "out")["encode"] == 2
    assert not build(paths, tmp_path / "out"), "the index is there"
    pq.write_table(pq.read_table(paths[0]), paths[0], row_group_size=400, compression="none")
    assert not build(paths, tmp_path / "out"), "the same vectors in other bytes"
    lists = tmp_path / "out" / "lists-0.faiss"
    lists.write_bytes(lists.read_bytes()[:-1])
    assert build(paths, tmp_path / "out")["encode"] == 2, "the index was damaged"
    turned = small._replace(vectors=small.vectors[::-1].copy())
    paths = cut(turned, tmp_path / "in", [600])
    assert build(paths, tmp_path / "out")["encode"] == 2, "other vectors"
    assert contents(tmp_path / "out") == single(turned)
    other = small._replace(meta=small.meta.set_column(1, "draw", pa.array(np.zeros(1200))))
    build(cut(other, tmp_path / "in", [600]), tmp_path / "out")
    assert contents(tmp_path / "out") == single(other), "other metadata"


def test_what_is_of_another_plan_is_made_anew(small: Cloud, tmp_path: Path) -> None:
    paths = cut(small, tmp_path / "in", [600])
    turned = small._replace(vectors=small.vectors[::-1].copy())
    other = replace(SPEC, seed=1)
    with pytest.raises(KeyboardInterrupt):
        build(paths, tmp_path / "out", tell=stop_after("merge"))
    with pytest.raises(KeyboardInterrupt):
        build(paths, tmp_path / "out", other, tell=stop_after("merge"))
    made = build(cut(turned, tmp_path / "in", [600]), tmp_path / "out", other)
    assert (made["sample"], made["encode"]) == (2, 2)
    assert contents(tmp_path / "out") == single(turned, other)


def test_vectors_that_change_meanwhile_are_refused(small: Cloud, tmp_path: Path) -> None:
    paths = cut(small, tmp_path / "in", [600])

    def change(kind: str, jobs: int, made: int) -> None:
        turned = small._replace(vectors=small.vectors[::-1].copy())
        cut(turned, tmp_path / "in", [600])

    with pytest.raises(StoreError, match=r"000\.parquet changed since the build began"):
        build(paths, tmp_path / "out", tell=change)
    assert not (tmp_path / "out").exists()


def test_a_worker_refuses_another_plan_and_other_libraries(small: Cloud, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(cut(small, tmp_path / "in", []), tmp_path / "out", tell=stop_after("sample"))
    work = tmp_path / "out.parts"
    plan = read_record(work / "plan.json") or {}
    assert Work.opened(str(work), fingerprint(plan)).plan == plan
    with pytest.raises(StoreError, match="worked in by another build"):
        Work.opened(str(work), "another")
    plan["libraries"] = {**plan["libraries"], "faiss-cpu": "0.1"}
    write_record(work / "plan.json", plan)
    with pytest.raises(EnvironmentProblem, match=r"0\.1"):
        Work.opened(str(work), fingerprint(plan))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0.0, float("nan")], "holds a number that is missing or not finite"),
        ([1.0, None], "holds a number that is missing or not finite"),
        ([0.0, 0.0], "is zero, which has no direction"),
        (None, "there is no vector"),
        ([1.0, 2.0, 3.0], "3 numbers, and 2 in those before"),
    ],
)
def test_a_broken_vector_is_named_by_file_and_row(values: Any, said: str, tmp_path: Path) -> None:
    good = [[1.0, 2.0]] * 500
    for name, rows in (("a.parquet", good), ("b.parquet", [*good[:444], values, *good[:5]])):
        keys = [f"{name}{row}" for row in range(len(rows))]
        pq.write_table(pa.table({"key": keys, "features": rows}), tmp_path / name, row_group_size=100)
    with pytest.raises(ConfigError, match=rf"b\.parquet, row 444:? {said}"):
        build([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "out", part_rows=200)
    assert not (tmp_path / "out").exists()


def test_files_that_do_not_fit_are_named(small: Cloud, tmp_path: Path) -> None:
    paths = cut(small, tmp_path / "in", [600])
    table = pq.read_table(paths[0])
    odd = tmp_path / "odd.parquet"
    for change, said in (
        (table.rename_columns(["name", "draw", "brand", "features"]), r"odd\.parquet has no column key"),
        (table.rename_columns(["key", "draw", "brand", "feature"]), "did you mean feature?"),
        (table.drop_columns(["draw"]), r"odd\.parquet has the columns key string, brand string, and"),
        (table, "key k00000 is there twice"),
        (table.set_column(3, "features", pa.array([[1.0]] * 600)), r"row 0: 1 numbers in a vector, and 48"),
        (
            table.set_column(3, "features", pa.array(["a"] * 600)),
            "is string, and vectors are lists of numbers",
        ),
    ):
        if "twice" not in said and "key" in change.column_names:
            keys = pa.array([f"odd{row}" for row in range(600)])
            change = change.set_column(change.column_names.index("key"), "key", keys)
        pq.write_table(change, odd)
        with pytest.raises(ConfigError, match=said):
            build([*paths, odd], tmp_path / "out")
    odd.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"odd\.parquet is no Parquet"):
        build([*paths, odd], tmp_path / "out")
    with pytest.raises(ConfigError, match="no row to index"):
        build([], tmp_path / "out")
    with pytest.raises(ConfigError, match="in holds other files"):
        build(paths, tmp_path / "out", work=tmp_path / "in")
    assert len(list((tmp_path / "in").iterdir())) == 2


def test_a_fault_in_a_job_is_told_as_one(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match="the job dance failed: KeyError"):
        sharded_crew.read_answer(sharded_crew.answer('{"job": "dance"}'))
    assert "Traceback" in capfd.readouterr().err


def test_keys_are_hashed_in_the_order_of_their_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads `index.json` elsewhere can say it of sorted lines; of no keys as well."""
    keys = ["b", "a", "", "é", "中", "\U0001f600", "\uffff", "ab", "B"]
    wanted = xxhash.xxh3_128_hexdigest("\n".join(sorted(keys)).encode())
    for lines in (2, 100):
        monkeypatch.setattr(pack, "LINES", lines)
        assert pack.keys_digest(pa.array(keys)) == wanted
        assert pack.keys_digest(pa.chunked_array([keys[5:], keys[:5]])) == wanted
    assert pack.keys_digest(pa.array([])) == xxhash.xxh3_128_hexdigest(b"")
