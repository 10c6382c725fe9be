"""An index on disk: whole, or refused by the name of the file and never by an error that nobody planned."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.errors import ConfigError, StoreError
from datakit.index import folder, upkeep
from datakit.index.make import make_index
from datakit.index.opened import open_index
from datakit.index.pack import checked_meta, keys_digest
from datakit.index.sound import check_fit
from datakit.index.spec import Coarse, Codes, Rerank, Spec, Target
from datakit.index.stream import matrix_bytes
from tests.index.conftest import Cloud

ROWS = 500
SPEC = Spec(
    coarse=Coarse(nlist=8, iterations=2),
    codes=Codes(kind="pq4fs"),
    rerank=Rerank(shortlist=50),
    target=Target(recall=0.8),
)


@pytest.fixture
def place(cloud: Cloud, tmp_path: Path) -> Path:
    files = make_index(cloud.vectors[:ROWS], cloud.meta.slice(0, ROWS), SPEC, name="toy")
    folder.write_files(tmp_path / "toy", files)
    upkeep.add(tmp_path / "toy", cloud.vectors[ROWS : ROWS + 20], cloud.meta.slice(ROWS, 20))
    upkeep.delete(tmp_path / "toy", ["k00003"])
    return tmp_path / "toy"


def sealed(place: Path, change: Callable[[dict[str, Any]], Any], **files: bytes) -> None:
    """index.json changed, and files of it; all digests are right."""
    about = folder.read_about(place)
    for name, data in files.items():
        path = place / next(one for one in about["files"] if one.startswith(f"{name}-"))
        path.write_bytes(data)
        about["files"] |= folder.described({path.name: data})
    change(about)
    (place / folder.ABOUT).write_bytes(folder.record_bytes(about))


def put(at: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(about: dict[str, Any]) -> None:
        *parts, last = at.split(".")
        for part in parts:
            about = about[part]
        about[last] = value

    return change


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        ("rows", 501, "501|not 501"),
        ("rows", 0, "rows is 0"),
        ("rows", "500", "rows is '500'"),
        ("rows", True, "rows is True"),
        ("dim", 47, "vectors of 47|the vectors have 47|axes"),
        ("dim", 1 << 40, "dim is"),
        ("generation", -1, "generation is -1"),
        ("learned", None, "learned is None"),
        ("nested", True, "nested is True"),
        ("name", 5, "name is 5"),
        ("base", {}, "must name axes, lists, meta, vectors"),
        ("base.graph", "graph-0.faiss", "must name axes, lists, meta, vectors"),
        ("base.lists", "../../lists-0.faiss", "is no file of an index"),
        ("base.lists", "axes-0.npz", "named twice"),
        ("base.vectors", "vectors-7.arrow", "belongs to no index"),
        ("deltas", ["delta-1.arrow", "delta-1.arrow"], "named twice"),
        ("deltas", None, "deltas is None"),
        ("deleted", "delta-1.arrow", "named twice"),
        ("deleted", 7, "is no file of an index"),
        ("files", {"axes-0.npz": {}}, "no size and digest of axes-0.npz"),
        ("encoders", {"image": {"name": 3}}, "encoders is"),
        ("pairing", [], "pairing is"),
        ("search", {"kind": "lists", "nprobe": -3}, "is no way to search"),
        ("search", {"kind": "lists", "nprobe": 9}, "no way to search 8 lists"),
        ("search", {"kind": "graph", "ef": 9}, "no way to search"),
        ("search", {"nprobe": 4}, "no way to search"),
        ("curve", [{"kind": "lists", "nprobe": 4}], "no point of a curve"),
        ("curve", [7], "no way to search"),
        ("spec", {"structure": "tree"}, "must be one of"),
        ("spec.coarse.nlist", 9, "axes|lists"),
        ("spec.coarse.dims", 13, "centroids|coarse axes"),
        ("spec.codes.dims", 10, "codes.bytes|means|code axes"),
        ("spec.codes.bytes", 2, "lists-0.faiss"),
        ("spec.codes.kind", "sq8", "lists-0.faiss"),
        ("spec.space.metric", "l2", "lists-0.faiss"),
        ("spec.basis.kind", "raw", "nested|code axes"),
        ("spec.structure", "flat", "must name axes, meta, vectors"),
    ],
)
def test_an_index_json_that_lies_is_refused_though_it_vouches_for_itself(
    at: str, value: Any, said: str, place: Path
) -> None:
    open_index(place)
    sealed(place, put(at, value))
    with pytest.raises(StoreError) as found:
        open_index(place)
    assert any(part in str(found.value) for part in said.split("|")), found.value
    assert any(file in str(found.value) for file in [folder.ABOUT, *folder.read_about(place)["files"]])


def npz(place: Path, **change: Any) -> bytes:
    with np.load(place / "axes-0.npz") as found:
        return folder.arrays_bytes({**{name: found[name] for name in found.files}, **change})


def packed(place: Path) -> bytes:
    sink = io.BytesIO()
    with np.load(place / "axes-0.npz") as found:
        np.savez_compressed(sink, **{name: found[name] for name in found.files})
    return sink.getvalue()


def pickled() -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return sink.getvalue()


DAMAGES: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "lists that end elsewhere": ("axes", lambda place: npz(place, ends=np.arange(8))),
    "lists that end before they begin": ("axes", lambda place: npz(place, ends=np.array([9, 3, *[9] * 5, 500]))),
    "centroids of other dims": ("axes", lambda place: npz(place, centroids=np.zeros((8, 3), np.float32))),
    "means in double": ("axes", lambda place: npz(place, means=np.zeros((8, 24)))),
    "a centre of one number": ("axes", lambda place: npz(place, center=np.zeros(1, np.float32))),
    "rows held out that are not there": ("axes", lambda place: npz(place, held=np.array([10**9]))),
    "no array of that name": ("axes", lambda place: folder.arrays_bytes({"center": np.zeros(0, np.float32)})),
    "compressed arrays": ("axes", packed),
    "an array in the place of arrays": ("axes", lambda place: folder.array_bytes(np.zeros(3))),
    "arrays of objects": ("deleted", lambda place: pickled()),
    "rows deleted that are not there": ("deleted", lambda place: folder.array_bytes(np.array([520]))),
    "rows deleted from the end": ("deleted", lambda place: folder.array_bytes(np.array([-1]))),
    "rows deleted by halves": ("deleted", lambda place: folder.array_bytes(np.array([0.5]))),
    "vectors of other dims": ("vectors", lambda place: matrix_bytes(np.zeros((ROWS, 3), np.float32))),
    "vectors of whole numbers": ("vectors", lambda place: matrix_bytes(np.zeros((ROWS, 48), np.int32))),
    "fewer vectors": ("vectors", lambda place: matrix_bytes(np.zeros((ROWS - 1, 48), np.float32))),
    "a table of no vectors": ("vectors", lambda place: folder.table_bytes(pa.table({"a": [1]}))),
    "metadata without keys": ("meta", lambda place: folder.table_bytes(pa.table({"a": [1] * ROWS}))),
    "keys that are numbers": ("meta", lambda place: folder.table_bytes(pa.table({"key": [1] * ROWS}))),
    "fewer rows of metadata": ("meta", lambda place: folder.table_bytes(pa.table({"key": ["a"]}))),
    "a delta of other columns": ("delta", lambda place: matrix_bytes(np.zeros((20, 48), np.float32))),
    "no Arrow file": ("meta", lambda place: b"ARROW1 and nothing"),
    "no lists": ("lists", lambda place: b"IwFl" + bytes(64)),
    "nothing": ("lists", lambda place: b""),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_whole_files_that_do_not_fit_are_refused_by_name(name: str, place: Path) -> None:
    part, damage = DAMAGES[name]
    sealed(place, lambda about: None, **{part: damage(place)})
    with pytest.raises(StoreError, match=rf"{part}-\d+\."):
        open_index(place)


def test_lists_of_other_rows_or_of_another_order_are_refused(place: Path) -> None:
    import faiss

    data = (place / "lists-0.faiss").read_bytes()
    lists = folder.lists_of(data)
    first = next(at for at in range(8) if lists.invlists.list_size(at) > 1)
    ids = faiss.rev_swig_ptr(lists.invlists.get_ids(first), lists.invlists.list_size(first))
    ids[:2] = ids[1], 10**9
    sealed(place, lambda about: None, lists=faiss.serialize_index(lists).tobytes())
    with pytest.raises(StoreError, match=r"lists-0\.faiss: other rows in its lists"):
        open_index(place)


def test_a_graph_whose_links_lead_nowhere_is_refused(cloud: Cloud, tmp_path: Path) -> None:
    import faiss

    spec = Spec(structure="hnsw", codes=Codes(kind="sq8"))
    folder.write_files(
        tmp_path, make_index(cloud.vectors[:200], cloud.meta.slice(0, 200), spec, tuning=False)
    )
    index = open_index(tmp_path)
    graph = folder.lists_of((tmp_path / "graph-0.faiss").read_bytes())
    links = faiss.rev_swig_ptr(graph.hnsw.neighbors.data(), graph.hnsw.neighbors.size())
    links[0] = 200
    # Newer ones of faiss look themselves when they read.
    with pytest.raises(StoreError, match=r"graph-0\.faiss: links to rows that are not there"):
        check_fit(replace(index.base, graph=graph), tmp_path, index.about)
    sealed(tmp_path, lambda about: None, graph=faiss.serialize_index(graph).tobytes())
    with pytest.raises(StoreError, match=r"graph-0\.faiss"):
        open_index(tmp_path)


def test_text_whose_offsets_lead_beyond_it_is_refused(place: Path) -> None:
    data = bytearray((place / "meta-0.arrow").read_bytes())
    keys = np.arange(0, 6 * 400, 6, dtype=np.int32).tobytes()  # offsets of keys of six letters
    at = bytes(data).index(keys)
    data[at + 400 : at + 404] = (1 << 30).to_bytes(4, "little")
    sealed(place, lambda about: None, meta=bytes(data))
    with pytest.raises(StoreError, match=r"meta-0\.arrow is not a sound Arrow file"):
        open_index(place)


def test_until_index_json_is_there_the_folder_holds_the_index_before(cloud: Cloud, tmp_path: Path) -> None:
    files = make_index(cloud.vectors[:60], cloud.meta.slice(0, 60), Spec(structure="flat"))
    folder.write_files(tmp_path, {name: data for name, data in files.items() if name != folder.ABOUT})
    with pytest.raises(StoreError, match=r"there is no index\.json; build one"):
        open_index(tmp_path)
    assert list(folder.described(files)) == sorted(files)
    folder.write_files(tmp_path, files)
    assert len(open_index(tmp_path)) == 60


def test_records_and_arrays_come_back_and_equal_ones_are_equal_bytes(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.zeros(0, np.int64)}
    data = folder.arrays_bytes(arrays)
    assert data == folder.arrays_bytes(arrays)
    (tmp_path / "x.npz").write_bytes(data)
    found = folder.read_arrays(tmp_path / "x.npz", ["b", "a"])
    assert (found["a"] == arrays["a"]).all() and found["b"].dtype == np.int64
    with zipfile.ZipFile(tmp_path / "x.npz") as members:
        assert {member.date_time[0] for member in members.infolist()} == {1980}
    rows = np.arange(12, dtype=np.float16).reshape(4, 3)
    (tmp_path / "x.arrow").write_bytes(matrix_bytes(rows))
    assert (folder.read_matrix(tmp_path / "x.arrow", 3) == rows).all()
    value = {"b": [1, {"c": None}], "a": "é"}
    (tmp_path / "index.json").write_bytes(folder.about_bytes({**value, "format": folder.FORMAT}))
    assert folder.read_about(tmp_path) == {**value, "format": folder.FORMAT}
    text = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**text, "a": "e"}))
    with pytest.raises(StoreError, match=r"index\.json is damaged"):
        folder.read_about(tmp_path)


def test_metadata_have_a_key_a_row_once_and_no_column_of_ours() -> None:
    for meta, said in (
        (pa.table({"a": [1, 2]}), "needs the column key"),
        (pa.table({"key": ["a", None]}), "1 rows have no key"),
        (pa.table({"key": ["a", "a"]}), "key a is there twice"),
        (pa.table({"key": ["a", "b"], "vector": [1, 2]}), "may have no column vector"),
        (pa.table([["a", "b"], [1, 2], [1, 2]], names=["key", "x", "x"]), "has a column twice"),
    ):
        with pytest.raises(ConfigError, match=said):
            checked_meta(meta, 2)
    assert checked_meta(pa.table({"x": [1], "key": [7]}), 1).column_names == ["key", "x"]
    assert (
        keys_digest(pa.array(["b", "a"])) == keys_digest(pa.array(["a", "b"])) != keys_digest(pa.array(["a"]))
    )
