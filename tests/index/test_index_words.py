"""`datakit index …`: an index is built of files, asked, changed and shown; wrong words and files are named, exit 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from datakit.cli import cli
from datakit.errors import ConfigError, StoreError
from datakit.index.build_words import build_words, spec_of_words
from datakit.index.files_in import matrix_of, rows_in
from datakit.index.folder import vector_column
from datakit.index.opened import open_index
from datakit.index.spec import VARIANTS, Coarse, Codes, Rerank, Spec, Target
from datakit.index.upkeep_words import add_words, delete_words, search_words, show_words, tune_words
from tests.index.conftest import DIM, Cloud

FEW = 600


@pytest.fixture
def files(cloud: Cloud, tmp_path: Path) -> Path:
    """x.npy, q.npy, meta.parquet, and the same rows as tables with a column `features`."""
    meta, vectors = cloud.meta.slice(0, FEW), cloud.vectors[:FEW]
    whole = meta.append_column("features", pa.array(list(vectors)))
    np.save(tmp_path / "x.npy", vectors)
    np.save(tmp_path / "q.npy", cloud.vectors[:3] + np.float32(0.001))
    pq.write_table(meta, tmp_path / "meta.parquet")
    pq.write_table(whole, tmp_path / "whole.parquet")
    pq.write_table(whole.slice(0, 250), tmp_path / "a.parquet")
    pq.write_table(whole.slice(250), tmp_path / "b.parquet")
    fixed = meta.append_column("features", vector_column(vectors))
    with pa.ipc.new_file(tmp_path / "whole.arrow", fixed.schema) as writer:
        writer.write_table(fixed)
    return tmp_path


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, ["index", *map(str, words)])


def said(*words: str | Path) -> dict[str, Any]:
    done = run(*words, "--json")
    assert done.exit_code == 0, done.exception
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def contents(place: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in place.iterdir()}


def test_from_files_to_answers_and_back(files: Path, cloud: Cloud) -> None:
    place = files / "out"
    built = said("build", f"vectors={files}/x.npy", f"meta={files}/meta.parquet", f"out={place}", "nlist=8")
    assert (built["rows"], built["dim"], built["name"], built["columns"][0]) == (FEW, DIM, "out", "key")
    found = said(
        "search", place, f"vectors={files}/q.npy", "k=2", "where=draw >= 0", f"out={files}/n.parquet"
    )
    assert [hits[0]["key"] for hits in found["hits"]] == ["k00000", "k00001", "k00002"]
    assert found["plan"]["matching"] == FEW
    assert pq.read_table(files / "n.parquet").to_pydict()["rank"] == [0, 1] * 3
    assert said("delete", place, "key=k00001")["rows"] == FEW - 1
    assert said("search", place, "key=k00000", "k=600", "exact=true")["hits"][0][-1]["key"] != "k00001"
    assert run("add", place, f"vectors={files}/whole.parquet").exception.args[0].startswith("keys k00000")
    assert said("add", f"index={place}", f"vectors={files}/whole.parquet", "replace=true")["added"] == FEW
    assert said("compact", place, "retrain=true") == {
        "v": 1, "rows": FEW, "added": 0, "deleted": 0, "generation": 3
    }  # fmt: skip
    tuned = said("tune", place, "recall=0.8", "k=5")
    assert tuned["spec"]["target"]["recall"] == 0.8 and tuned["spec"]["target"]["k"] == 5
    shown = run("show", place)
    assert "recall 0.8 of the 5 nearest" in shown.stdout and "cost_us" in shown.stdout
    assert "query  rank  key" in run("search", place, "key=k00003", "k=3").stdout


def test_the_same_index_comes_of_every_kind_of_file_and_of_parts(files: Path) -> None:
    sources = ["x.npy", "whole.parquet", "whole.arrow"]
    words = ("variant=adanns-ivf", "nlist=8", "name=toy", "recall=0.9", "seed=3")
    made = []
    for source in sources:
        meta = (f"meta={files}/meta.parquet",) if source == "x.npy" else ()
        build_words([f"vectors={files / source}", *meta, f"out={files}/{source}.out", *words])
        made.append(contents(files / f"{source}.out"))
    build_words([f"vectors={files}/a.parquet,{files}/b.parquet", f"out={files}/parts", *words])
    assert made[0] == made[1] == made[2] == contents(files / "parts")


def test_words_of_a_spec_take_the_place_of_the_variants() -> None:
    given = {
        "codes.kind": "sq8",
        "coarse.nlist": 7,
        "target.recall": 0.9,
        "rerank.funnel": ((8, 20),),
        "seed": 4,
    }
    found = spec_of_words("adanns-d", given, rows=10)
    assert found == Spec(
        codes=Codes(kind="sq8"),
        coarse=Coarse(nlist=7),
        target=Target(recall=0.9),
        rerank=Rerank(shortlist=VARIANTS["adanns-d"].rerank.shortlist, funnel=((8, 20),)),
        seed=4,
    )
    assert spec_of_words("flat", {}, rows=10) == VARIANTS["flat"]


def test_rows_of_an_array_alone_are_called_by_their_numbers(files: Path) -> None:
    build_words([f"vectors={files}/x.npy", f"out={files}/n"])
    assert open_index(files / "n").keys.to_pylist()[:2] == ["0", "1"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("vectors=X/x.npy", "out is required"),
        ("vectors=X/none.npy out=X/o", "none.npy is not there"),
        ("vectors=X/x.csv out=X/o", "x.csv is no Parquet or Arrow file"),
        ("vectors=X/whole.parquet column=feature out=X/o", "no column feature; did you mean features"),
        ("vectors=X/whole.parquet column=draw out=X/o", "draw|whole.parquet is double: vectors are lists"),
        ("vectors=X/x.npy meta=X/a.parquet out=X/o", "250 rows of metadata came with 600"),
        ("vectors=X/b.parquet meta=X/turned.parquet out=X/o", "row 0 is k00599 in"),
        ("vectors=X/x.npy meta=X/bad.parquet out=X/o", "bad.parquet is not readable"),
        ("vectors=X/bad.npy out=X/o", "bad.npy holds no vectors"),
        ("vectors=X/objects.npy out=X/o", "objects.npy holds no vectors"),
        ("vectors=X/x.npy,X/x.npy out=X/o", "several files of vectors are tables"),
        ("vectors=X/x.npy out=X/o variant=adann", "no index adann"),
        ("vectors=X/x.npy out=X/o codes.kind=sq9", "codes.kind=sq9: must be one of"),
        ("vectors=X/x.npy out=X/o dims=9", "dims could be coarse.dims or codes.dims"),
        ("vectors=X/x.npy out=X/o codes.dims=900", "codes.dims=900: the vectors have 48"),
        ("vectors=X/x.npy out=X/o recal=0.9", "unknown key recal; did you mean"),
        ("vectors=X/x.npy out=X", "X is not empty"),
    ],
)
def test_wrong_words_and_files_are_named_and_nothing_is_written(words: str, named: str, files: Path) -> None:
    (files / "bad.parquet").write_bytes(b"PAR1 and nothing")
    (files / "bad.npy").write_bytes(b"\x93NUMPY\x01\x00\xff\xff")
    (files / "x.csv").write_text("1,2")
    np.save(files / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    whole = pq.read_table(files / "meta.parquet").slice(250)
    pq.write_table(whole.take(pa.array(range(349, -1, -1))), files / "turned.parquet")
    with pytest.raises(ConfigError) as found:
        build_words(words.replace("X", str(files)).split())
    assert any(part in str(found.value).replace(str(files), "X") for part in named.split("|"))
    assert not (files / "o").exists()


def test_an_index_is_never_written_over(files: Path) -> None:
    build_words([f"vectors={files}/x.npy", f"out={files}/o"])
    before = contents(files / "o")
    with pytest.raises(ConfigError, match="holds an index"):
        build_words([f"vectors={files}/x.npy", f"out={files}/o"])
    assert contents(files / "o") == before


def test_wrong_questions_and_changes_are_named(files: Path) -> None:
    build_words([f"vectors={files}/whole.parquet", f"out={files}/o"])
    place = f"{files}/o"
    with pytest.raises(ConfigError, match="give vectors=FILE or key="):
        search_words([place])
    with pytest.raises(ConfigError, match="has no key k0001; did you mean k0"):
        search_words([place, "key=k0001"])
    with pytest.raises(ConfigError, match="give key=KEY"):
        delete_words([place])
    with pytest.raises(ConfigError, match=r"target\.recall=2"):
        tune_words([place, "recall=2"])
    with pytest.raises(ConfigError, match="must be true or false"):
        add_words([place, f"vectors={files}/x.npy", "replace=perhaps"])
    with pytest.raises(ConfigError, match="draw, brand missing"):
        add_words([place, f"vectors={files}/x.npy"])
    with pytest.raises(StoreError, match="holds no index"):
        show_words([str(files)])
    (files / "gone.txt").write_text("k00004\nk00005\n")
    assert delete_words([place, f"file={files}/gone.txt", "key=k00006"])[0]["rows"] == FEW - 3
    assert delete_words([place, f"file={files}/b.parquet"])[0]["rows"] == 247


def test_exit_codes_are_those_of_every_verb(files: Path) -> None:
    import subprocess
    import sys

    def code(*words: str) -> int:
        return subprocess.run(
            [sys.executable, "-m", "datakit.cli", "index", *words], capture_output=True
        ).returncode

    assert code("show", str(files)) == 3
    assert code("delete", str(files / "nowhere")) == 2
    assert "Keys (key=default  type  meaning):" in run("build", "--help").stdout


@pytest.mark.parametrize(
    ("lists", "said"),
    [
        ([[1.0, 2.0], None], "row 1 has no vector"),
        ([[1.0, 2.0, 3.0], [1.0]], "row 0 has 3 numbers and row 1 has 1"),
        ([[1.0], [float("nan")]], "row 1 holds a number that is not finite"),
        ([[1.0, None], [1.0, 2.0]], "row 0 holds a number that is not finite"),
        ([["a"], ["b"]], "vectors are lists of numbers"),
        ([1.0, 2.0], "vectors are lists of numbers"),
    ],
)
def test_columns_that_are_no_vectors_are_named_by_row(lists: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=f"here.*{said}"):
        matrix_of(pa.array(lists), "here")


def test_vectors_come_out_of_every_kind_of_list(cloud: Cloud) -> None:
    rows = cloud.vectors[:5]
    for kind in (pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float16(), DIM)):
        column = pa.chunked_array([pa.array(part.tolist(), kind) for part in (rows[:2], rows[2:])])
        assert np.allclose(matrix_of(column, "x"), rows, atol=1e-2)
    sliced = pa.array(list(rows)).slice(2)
    assert (matrix_of(sliced, "x") == rows[2:]).all()


def test_an_arrow_file_without_rows_has_none(tmp_path: Path) -> None:
    empty = pa.table({"key": pa.array([], pa.string()), "features": pa.array([], pa.list_(pa.float32()))})
    with pa.ipc.new_file(tmp_path / "x.arrow", empty.schema):
        pass
    assert len(rows_in(str(tmp_path / "x.arrow"), column="features")[0]) == 0
