"""`datakit index`: an index of one's own vectors, from the shell, from its building to its compacting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from datakit.cli import cli
from datakit.errors import ConfigError
from datakit.index.folder import vector_column
from datakit.index.make import make_index
from datakit.index.opened import open_index
from datakit.index.spec import Space, Target, variant
from datakit.index.words import index_words
from tests.index.conftest import ROWS, Cloud


def run(*words: str) -> dict[str, Any]:
    found = CliRunner().invoke(cli, ["index", *words, "--json"], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    value: dict[str, Any] = json.loads(found.output)
    return value


@pytest.fixture
def files(cloud: Cloud, tmp_path: Path) -> Path:
    np.save(tmp_path / "v.npy", cloud.vectors)
    pq.write_table(cloud.meta, tmp_path / "meta.parquet")
    whole = cloud.meta.append_column("emb", vector_column(cloud.vectors))
    for number, (start, stop) in enumerate(((0, 1000), (1000, ROWS))):
        pq.write_table(whole.slice(start, stop - start), tmp_path / f"{number}.parquet")
    return tmp_path


def test_of_an_array_and_of_tables_the_same_index_is_built(files: Path, cloud: Cloud) -> None:
    a, b = str(files / "a"), str(files / "b")
    words = ["variant=adanns-ivf", "recall=0.9", "name=x"]
    shown = run("build", f"vectors={files / 'v.npy'}", f"meta={files / 'meta.parquet'}", f"out={a}", *words)
    tables = f"vectors={files / '0.parquet'},{files / '1.parquet'}"
    assert run("build", tables, "column=emb", f"out={b}", *words) == shown
    spec = variant("adanns-ivf", rows=ROWS, space=Space(), target=Target(recall=0.9))
    made = make_index(cloud.vectors, cloud.meta, spec, name="x")
    for place in (a, b):
        assert {path.name: path.read_bytes() for path in sorted(Path(place).iterdir())} == made
    assert shown["rows"] == ROWS and shown["columns"] == ["key", "draw", "brand"]
    with pytest.raises(ConfigError, match="holds an index"):
        index_words("build", [tables, f"out={a}"])


def test_rows_come_and_go_and_are_folded_in(files: Path, cloud: Cloud) -> None:
    place = str(files / "a")
    run("build", f"vectors={files / 'v.npy'}", f"meta={files / 'meta.parquet'}", f"out={place}")
    more = pa.table({"key": ["new"], "draw": [0.5], "brand": ["b9"], "emb": vector_column(cloud.queries[:1])})
    pq.write_table(more, files / "more.parquet")
    assert run("add", place, f"vectors={files / 'more.parquet'}", "column=emb")["rows"] == ROWS + 1
    assert open_index(place).search(cloud.queries[:1], k=1).table(open_index(place))["key"].to_pylist() == [
        "new"
    ]
    assert run("delete", place, "key=k00001,new") == {
        "v": 1,
        "added": 0,
        "deleted": 2,
        "generation": 2,
        "rows": ROWS - 1,
    }
    assert run("compact", place)["deleted"] == 0 and len(open_index(place)) == ROWS - 1
    run("tune", place, "recall=0.5", "k=5")
    target = open_index(place).base.spec.target
    assert (target.recall, target.k) == (0.5, 5)
    assert run("show", place)["rows"] == ROWS - 1


@pytest.mark.parametrize(
    ("verb", "words", "said"),
    [
        ("build", ["out=x"], "vectors is required"),
        ("build", ["vectors=v.npy", "out=x", "varant=flat"], "did you mean variant"),
        ("build", ["vectors=no.npy", "out=x"], "no.npy is not there"),
        ("build", ["vectors=no.npy", "meta=no.parquet", "out=x"], "no.npy is not there"),
        ("build", ["vectors=no.parquet", "out=x"], "no.parquet is no Parquet"),
        ("delete", ["key=a"], "index is required"),
        ("show", ["indx=x"], "did you mean index"),
    ],
)
def test_wrong_words_are_told(verb: str, words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        index_words(verb, words)


def test_help_names_the_keys_of_each_verb() -> None:
    for verb, key in (
        ("build", "variant=auto"),
        ("add", "replace=false"),
        ("compact", "retrain=false"),
        ("tune", "max_ms"),
    ):
        assert key in CliRunner().invoke(cli, ["index", verb, "--help"]).output
