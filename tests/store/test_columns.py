"""Values as columns: nothing loses its numbers, drift is text in a shard as over shards, and the rest is named."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image as pil

from datakit.blob import Blob
from datakit.errors import StoreError
from datakit.image import Image
from datakit.store.columns import columns_of, one_schema, one_table
from datakit.store.rows import Roots

ROOTS = Roots({})


def columns(*values: Any) -> pa.Table:
    return columns_of([{"__key__": f"k{at}", "v": value} for at, value in enumerate(values)], ROOTS)


@pytest.mark.parametrize("shape", [(64, 64), (2, 3, 5), (1, 7), ()])
def test_arrays_keep_every_value_and_their_type(shape: tuple[int, ...]) -> None:
    arrays = [np.random.default_rng(at).random(shape, np.float32) for at in range(2)]
    table = columns(arrays[0], None, arrays[1])
    kind = pa.float32()
    for _ in shape:
        kind = pa.list_(kind)
    assert table.schema.field("v").type == kind
    first, none, second = table["v"].to_pylist()
    assert none is None
    assert np.array_equal(first, arrays[0]) and np.array_equal(second, arrays[1])


def test_vectors_of_no_length_are_lists() -> None:
    table = columns(np.zeros(0), None, np.zeros(0))
    assert table.schema.field("v").type == pa.list_(pa.float64())
    assert table["v"].to_pylist() == [[], None, []]
    over = one_table([columns(np.zeros(0)), columns(np.ones(2))])
    assert over["v"].to_pylist() == [[], [1.0, 1.0]]


def test_vectors_of_one_length_are_lists_of_that_length() -> None:
    table = columns(np.zeros(3, np.float32), np.ones(3, np.float32))
    assert table.schema.field("v").type == pa.list_(pa.float32(), 3)


def test_vectors_with_gaps_are_of_the_same_type_as_those_without() -> None:
    some, all_ = columns(None, np.ones(3, np.float16), None), columns(np.zeros(3, np.float16))
    assert some.schema == all_.schema and some["v"].to_pylist() == [None, [1, 1, 1], None]
    over = one_table([some, all_, columns(None)])
    assert over.schema == all_.schema
    assert over["v"].to_pylist() == [None, [1, 1, 1], None, [0, 0, 0], None]


@pytest.mark.parametrize(
    "values",
    [
        (1, 2**64),
        ("a", "\ud83d"),
        ([1], [2**64]),
        ("a", np.zeros(2)),
        (np.zeros((2, 2)), "a"),
        ([1], [np.zeros((9, 9))]),
        ({"a": 1}, {"a": np.zeros((9, 9))}),
        (1, Image(b"")),
        (Blob("/x", 0, 1), "a"),
        (1, pil.new("RGB", (2, 2))),
        ("a", [object()]),
        (1, {"a": {object()}}),
        (None, {object(): 1}),
        (date(2020, 1, 2), object()),
    ],
)
def test_a_value_that_no_column_holds_is_named(values: tuple[Any, ...]) -> None:
    with pytest.raises(StoreError, match="column 'v' of k1 cannot be stored"):
        columns(*values)


def test_one_column_of_two_types_is_text_in_a_shard_and_over_shards() -> None:
    mixed = [(1, "x"), (True, 2), ({"a": 1}, {"a": "x"}), ([1.5], [["y"]])]
    for first, second in mixed:
        inside = columns(first, second)
        over = one_table([columns(first), columns(None), columns(second)])
        assert inside["v"].to_pylist() == [str(first), str(second)]
        assert over["v"].to_pylist() == [str(first), None, str(second)]
        assert one_schema([columns(first).schema, columns(second).schema]) == over.schema


def test_a_date_beside_a_moment_is_text_and_keeps_the_hour() -> None:
    day, moment = date(2020, 1, 2), datetime(2020, 1, 2, 3, 4)
    for first, second in ((day, moment), (moment, day), ([day], [moment]), ({"a": [day]}, {"a": [moment]})):
        inside = columns(first, None, second)
        assert inside["v"].to_pylist() == [str(first), None, str(second)]
        over = one_table([columns(first), columns(None), columns(second)])
        assert over["v"].type == inside["v"].type == pa.string()
    both = {"date32": moment, "day": day}
    assert columns(both, None, both)["v"].to_pylist() == [both, None, both]


def test_values_as_of_json_are_text_beside_others() -> None:
    for value in (b"x", Decimal("1.5"), np.float32(2), (1, {"a": [None, True]})):
        assert columns([1.5], value)["v"].to_pylist() == ["[1.5]", str(value)]


def test_types_that_go_together_stay_numbers() -> None:
    over = one_table([columns(1), columns(2.5), columns(None), columns_of([], ROOTS)])
    assert over["v"].to_pylist() == [1.0, 2.5, None]
    lists = one_table([columns(np.zeros(2)), columns(np.ones(3))])
    assert lists["v"].to_pylist() == [[0.0, 0.0], [1.0, 1.0, 1.0]]


def test_shards_that_would_make_text_of_vectors_or_images_are_named() -> None:
    for value in (np.zeros(2), Blob("/x", 0, 1)):
        with pytest.raises(
            StoreError, match=r"column v is .* in shard 0, string in shard 2; give it one type"
        ):
            one_table([columns(value), columns(value), columns("word")])


def test_a_number_that_the_common_type_cannot_hold_is_refused() -> None:
    with pytest.raises(StoreError, match="differ in the type of a number"):
        one_table([columns(2**60 + 1), columns(1.5)])
