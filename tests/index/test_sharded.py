"""An index made of many files is the one made of all rows at once, whatever dies on the way."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datakit.errors import ConfigError, StoreError
from datakit.index import folder, sharded
from datakit.index.folder import vector_column
from datakit.index.make import make_index
from datakit.index.opened import open_index
from datakit.index.sharded import build_sharded, encode_part, is_whole
from datakit.index.spec import Codes, Rerank, Spec, variant
from tests.index.conftest import ROWS, Cloud

SPEC = Spec(codes=Codes(kind="pq4fs"), rerank=Rerank(shortlist=50))


def cut(cloud: Cloud, place: Path, cuts: list[int]) -> list[Path]:
    """The rows in files, Parquet and Arrow in turn."""
    place.mkdir(parents=True, exist_ok=True)
    paths = []
    table = cloud.meta.append_column("features", vector_column(cloud.vectors))
    for number, (start, stop) in enumerate(zip([0, *cuts], [*cuts, ROWS], strict=True)):
        part = table.slice(start, stop - start)
        if number % 2:
            path = place / f"{number:03d}.arrow"
            path.write_bytes(folder.table_bytes(part))
        else:
            path = place / f"{number:03d}.parquet"
            pq.write_table(part, path)
        paths.append(path)
    return paths


def contents(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(place.iterdir())}


@pytest.mark.parametrize("kind", ["flat", "sq8", "pq4fs", "rabitqfs", "panorama", "nested"])
@pytest.mark.parametrize("cuts", [[], [1], [999, 1000, 2500], list(range(187, 2900, 187))], ids=len)
def test_any_number_of_files_gives_the_index_of_one(
    kind: Any, cuts: list[int], cloud: Cloud, tmp_path: Path
) -> None:
    spec = Spec(codes=Codes(kind=kind), rerank=Rerank(shortlist=50))
    build_sharded(cut(cloud, tmp_path / "in", cuts), tmp_path / "out", column="features", spec=spec, name="x")
    assert contents(tmp_path / "out") == make_index(cloud.vectors, cloud.meta, spec, name="x")


@pytest.mark.parametrize("name", ["flat", "adanns-hnsw", "adanns-ivfopq"])
def test_so_do_other_variants_and_an_empty_file_harms_nobody(name: str, cloud: Cloud, tmp_path: Path) -> None:
    spec = variant(name, rows=ROWS)
    paths = cut(cloud, tmp_path / "in", [700, 700, 2000])
    build_sharded(paths, tmp_path / "out", column="features", spec=spec, name="x")
    assert contents(tmp_path / "out") == make_index(cloud.vectors, cloud.meta, spec, name="x")


def test_workers_that_are_killed_cost_their_parts_alone(cloud: Cloud, tmp_path: Path) -> None:
    killed: list[int] = []
    done = threading.Event()

    def kill() -> None:
        end = time.monotonic() + 60
        while len(killed) < 2 and not done.is_set() and time.monotonic() < end:
            for child in multiprocessing.active_children():
                if child.pid and child.pid not in killed and len(killed) < 2:
                    time.sleep(0.3 * (len(killed) + 1))
                    with contextlib.suppress(ProcessLookupError):  # it was done before
                        os.kill(child.pid, signal.SIGKILL)
                        killed.append(child.pid)
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    paths = cut(cloud, tmp_path / "in", list(range(400, 2900, 400)))
    build_sharded(paths, tmp_path / "out", column="features", spec=SPEC, name="x", workers=2)
    done.set()
    killer.join()
    assert killed
    assert contents(tmp_path / "out") == make_index(cloud.vectors, cloud.meta, SPEC, name="x")


def test_a_build_goes_on_from_the_parts_that_are_whole(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = cut(cloud, tmp_path / "in", [600, 1200, 1800, 2400])
    made: list[int] = []

    def noted(base: str, number: int) -> int:
        made.append(number)
        if len(made) == 3:
            raise KeyboardInterrupt
        return encode_part(base, number)

    monkeypatch.setattr(sharded, "encode_part", noted)
    with pytest.raises(KeyboardInterrupt):
        build_sharded(paths, tmp_path / "out", column="features", spec=SPEC, name="x")
    assert not (tmp_path / "out").exists()
    # One of the whole ones is damaged meanwhile.
    part = tmp_path / "out.parts" / "part-00000.arrow"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    assert [is_whole(tmp_path / "out.parts", number) for number in range(3)] == [False, True, False]
    build_sharded(paths, tmp_path / "out", column="features", spec=SPEC, name="x")
    assert made == [0, 1, 2, 0, 2, 3, 4], "the whole one was not made again, the damaged one was"
    assert contents(tmp_path / "out") == make_index(cloud.vectors, cloud.meta, SPEC, name="x")


def test_a_source_that_changed_makes_everything_anew(cloud: Cloud, tmp_path: Path) -> None:
    paths = cut(cloud, tmp_path / "in", [1500])
    build_sharded(paths, tmp_path / "out", column="features", spec=SPEC, name="x")
    turned = Cloud(cloud.vectors[::-1].copy(), cloud.queries, cloud.meta)
    build_sharded(
        cut(turned, tmp_path / "in", [1500]), tmp_path / "out", column="features", spec=SPEC, name="x"
    )
    assert contents(tmp_path / "out") == make_index(turned.vectors, cloud.meta, SPEC, name="x")
    pq.write_table(pa.table({"key": ["a"], "features": [[1.0] * 48]}), paths[0])
    with pytest.raises(StoreError, match="changed since the build began"):
        encode_part(str(tmp_path / "out.parts"), 0)


def test_broken_vectors_are_named_by_file_and_row(cloud: Cloud, tmp_path: Path) -> None:
    vectors = cloud.vectors.copy()
    vectors[1700, 3] = np.nan
    paths = cut(Cloud(vectors, cloud.queries, cloud.meta), tmp_path / "in", [1500])
    with pytest.raises(ConfigError, match=r"001\.arrow: row 200 holds a number"):
        build_sharded(paths, tmp_path / "out", column="features", spec=SPEC)
    with pytest.raises(ConfigError, match="no column fetures"):
        build_sharded(paths, tmp_path / "out", column="fetures", spec=SPEC)
    (tmp_path / "no.parquet").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"no\.parquet is no Parquet"):
        build_sharded([tmp_path / "no.parquet"], tmp_path / "out", column="features", spec=SPEC)


def test_a_cluster_of_processes_makes_the_same_though_a_worker_dies(cloud: Cloud, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    paths = cut(cloud, tmp_path / "in", list(range(300, 2900, 300)))
    settings = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with (
        distributed.LocalCluster(**settings, host="127.0.0.1") as cluster,
        distributed.Client(cluster) as client,
    ):
        pids = list(client.run(os.getpid).values())
        killer = threading.Timer(0.3, lambda: os.kill(pids[0], signal.SIGKILL))
        killer.start()
        build_sharded(paths, tmp_path / "out", column="features", spec=SPEC, name="x", client=client)
        killer.cancel()
    assert len(open_index(tmp_path / "out")) == ROWS
    assert contents(tmp_path / "out") == make_index(cloud.vectors, cloud.meta, SPEC, name="x")
