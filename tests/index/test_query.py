"""Questions and answers: examples find what is like them, a set matches each crop once, words are checked first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.errors import ConfigError, StoreError
from datakit.index import folder
from datakit.index.catalogue import open_catalogue
from datakit.index.examples import rocchio
from datakit.index.make import make_index
from datakit.index.query import Request, answer, answers
from datakit.index.sets import SetRequest, answer_set
from datakit.index.spec import Space, variant

DIM, THINGS, EACH = 16, 30, 8


@pytest.fixture(scope="module")
def points() -> np.ndarray[Any, Any]:
    """30 things, 8 vectors each, near one another; the first dims tell the thing."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((THINGS, DIM))
    return (np.repeat(centres, EACH, axis=0) + 0.1 * rng.standard_normal((THINGS * EACH, DIM))).astype(
        np.float32
    )


@pytest.fixture(scope="module")
def place(points: np.ndarray[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index that stands alone, centred."""
    meta = pa.table(
        {
            "key": [f"t{thing:02d}-{at}" for thing in range(THINGS) for at in range(EACH)],
            "thing": np.repeat(np.arange(THINGS), EACH),
            "brand": ["xyz"[at % 3] for at in range(THINGS * EACH)],
        }
    )
    spec = variant("flat", rows=len(points), space=Space(center=True))
    path = tmp_path_factory.mktemp("index") / "toy"
    folder.write_files(path, make_index(points, meta, spec, name="toy"))
    return path


def things(table: pa.Table) -> list[int]:
    found: list[int] = table["thing"].to_pylist()
    return found


def test_a_key_finds_its_own_kind_and_not_itself(place: Path) -> None:
    found = answer(open_catalogue(place), Request(key=("t03-0",), k=7))
    assert things(found.table) == [3] * 7
    assert "t03-0" not in found.table["key"].to_pylist()
    assert found.table["rank"].to_pylist() == list(range(7))
    whole = answer(open_catalogue(place), Request(key=("t03-0",), k=1, own=True))
    assert whole.table["key"].to_pylist() == ["t03-0"]


def test_two_examples_are_looked_for_between_them_and_a_minus_turns_away(place: Path) -> None:
    both = answer(open_catalogue(place), Request(key=("t03-0", "t04-0"), k=10))
    assert set(things(both.table)) >= {3, 4}
    turned = answer(
        open_catalogue(place), Request(key=("t03-0", "t04-0"), minus_key=("t04-1",), k=6, gamma=0.5)
    )
    assert set(things(turned.table)) == {3}


def test_a_vector_is_asked_as_the_encoder_gave_it(place: Path, points: np.ndarray[Any, Any]) -> None:
    found = answer(open_catalogue(place), Request(vector=(points[8 * 5] * 3,), k=1))
    assert found.table["key"].to_pylist() == ["t05-0"], "the length and the centre are the index's"


def test_a_filter_is_held_and_the_plan_says_how(place: Path) -> None:
    found = answer(open_catalogue(place), Request(key=("t03-0",), k=5, where="brand = 'x' and thing != 3"))
    assert set(found.table["brand"].to_pylist()) == {"x"} and 3 not in things(found.table)
    assert found.plan["kind"] == "subset" and found.table.num_rows == 5


def test_many_requests_are_answered_in_their_order(place: Path) -> None:
    catalogue = open_catalogue(place)
    asked = [Request(key=(f"t{thing:02d}-0",), k=3 + thing % 2) for thing in range(10)]
    for request, found in zip(asked, answers(catalogue, asked), strict=True):
        assert found.table.equals(answer(catalogue, request).table)


def test_a_query_that_cancels_itself_has_no_direction(place: Path) -> None:
    with pytest.raises(ConfigError, match="cancel each other out"):
        answer(open_catalogue(place), Request(key=("t03-0",), minus_key=("t03-0",), gamma=1.0))


def test_rocchio_leaves_its_examples_alone() -> None:
    plus, minus = np.ones((2, 4), np.float32), np.full((1, 4), 0.5, np.float32)
    assert np.allclose(rocchio(plus, minus, gamma=1.0), 0.5)
    assert (plus == 1).all() and (minus == 0.5).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"text": ("a dog",)}, "toy does not answer text; toy answers key, vector"),
        ({"key": ("t03-9",)}, "no key t03-9"),
        ({"vector": (np.zeros(DIM - 1),)}, rf"must be \(N, {DIM}\)"),
        ({"vector": (np.full(DIM, np.nan),)}, "not finite"),
        ({}, "ask for something"),
        ({"minus_key": ("t03-0",)}, "not only for what it should be unlike"),
        ({"key": ("t03-0",), "k": 0}, "k=0"),
    ],
)
def test_what_cannot_be_asked_is_told(place: Path, words: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        answer(open_catalogue(place), Request(**words))


def test_crops_are_matched_to_one_set_each_item_once(place: Path) -> None:
    request = SetRequest(key=("t03-0", "t03-1", "t07-0"), shortlist=20)
    found = answer_set(open_catalogue(place), request)
    assert things(found.table) == [3, 3, 7]
    assert len(set(found.table["key"].to_pylist())) == 3


def test_a_set_shares_a_value_where_that_costs_little(place: Path) -> None:
    found = answer_set(open_catalogue(place), SetRequest(key=("t03-0", "t07-0", "t09-0"), set_by="brand"))
    assert len(set(found.table["brand"].to_pylist())) == 1 and things(found.table) == [3, 7, 9]


def test_a_folder_without_an_index_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="datakit build recipe=search"):
        open_catalogue(tmp_path)


def test_a_damaged_file_is_named(place: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(place, copy)
    data = bytearray((copy / "vectors-0.arrow").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "vectors-0.arrow").write_bytes(data)
    with pytest.raises(StoreError, match=r"vectors-0\.arrow is not as written"):
        answer(open_catalogue(copy), Request(key=("t03-0",)))
