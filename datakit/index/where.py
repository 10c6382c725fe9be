"""`where="price < 50 and brand = 'x'"` over the columns of an Arrow table: a mask of its rows, or a clear error.

    brand in ('x', 'y') and not price between 10 and 20        labels contains 'red'        caption like 'a %'
    (split = "train" or split is null) and box.width >= 64     [a column] != "it's"         taken < '2026-01-31'

The grammar stands in `where_text.py`. It is ours because no light library evaluates such text over Arrow safely:
pyarrow has expressions but no reader of text, `eval` is no option for words that come over a network, pandas' `query`
is built on it, and duckdb's SQL can read files; it is optional here, not a core dependency.

Nulls as in SQL: a comparison with a null is neither true nor false, `not` of that neither, and only what is true
matches; `x in (1, null)` is true or null. `contains` is a part of a text, or an element of a list, among which nulls
are passed over. NaN compares as in IEEE 754: `!=` is true of it and nothing else. Text is ordered by code point; in
`like`, % is any text, _ any letter, and a backslash takes the meaning of what follows. A day of `2026-01-31` for a
column of times is its midnight, UTC where the column has a time zone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from datakit.errors import ConfigError
from datakit.index.where_columns import Column, comparable, find_column, fitting, kind_of, unfit, whole_test
from datakit.index.where_text import read_where
from datakit.index.where_tree import (
    Both,
    Compare,
    Contains,
    Either,
    In,
    Like,
    Name,
    Node,
    Not,
    Null,
    Value,
)

MAX_PATTERN = 256  # letters of a `like`: it becomes an automaton, run over every row
Test = Callable[[pa.Table], pa.ChunkedArray]  # true, false and null of every row

_KERNELS = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


@dataclass(frozen=True)
class Where:
    """A text that was held against a schema. columns: those of the table that it reads."""

    text: str
    columns: tuple[str, ...]
    test: Test

    def __call__(self, table: pa.Table) -> NDArray[np.bool_]:
        """bool (rows,): where the text is true. table: of the schema, or of its `columns` alone."""
        found = pc.fill_null(self.test(table), False)
        return np.asarray(found, np.bool_)


def matches(table: pa.Table, text: str) -> NDArray[np.bool_]:
    """bool (rows,): where `text` is true of a row; a text of nothing but spaces is true of all. Raises ConfigError."""
    return parse(text, table.schema)(table)


def parse(text: str, schema: pa.Schema) -> Where:
    """The test that a text is, over tables of this schema.

    Raises ConfigError: a text that is none (with the letter where it goes wrong), a column that is not there, a value
    that does not go with its column's type.
    """
    if not text.strip():
        return Where(text, (), lambda table: pa.chunked_array([pa.array(np.ones(table.num_rows, np.bool_))]))
    tree = read_where(text)
    columns = dict.fromkeys(find_column(name, schema).path[0] for name in _names(tree))
    return Where(text, tuple(columns), _test(tree, schema))


def _names(node: Node) -> Iterator[Name]:
    if isinstance(node, Both | Either):
        for part in node.parts:
            yield from _names(part)
    elif isinstance(node, Not):
        yield from _names(node.part)
    elif isinstance(node, Compare):
        yield node.left
        if isinstance(node.right, Name):
            yield node.right
    else:
        yield node.name


def _test(node: Node, schema: pa.Schema) -> Test:
    if isinstance(node, Both | Either):
        joined = pc.and_kleene if isinstance(node, Both) else pc.or_kleene
        tests = [_test(part, schema) for part in node.parts]
        return lambda table: reduce(joined, (test(table) for test in tests))
    if isinstance(node, Not):
        inner = _test(node.part, schema)
        return lambda table: pc.invert(inner(table))
    if isinstance(node, Compare):
        left = find_column(node.left, schema)
        if isinstance(node.right, Name):
            return _of_two(left, node.sign, find_column(node.right, schema))
        return _of_one(left, node.sign, node.right)
    column = find_column(node.name, schema)
    if isinstance(node, Null):
        return lambda table: pc.is_null(column.values(table))
    if isinstance(node, In):
        return _among(column, node.values)
    if isinstance(node, Like):
        return _like(column, node.pattern)
    return _contains(column, node.value) if isinstance(node, Contains) else _truth(column)


def _of_one(column: Column, sign: str, value: Value) -> Test:
    given = fitting(column.name, column.type, value)
    kind = comparable(column.type)
    if given is None or column.kind == "null":
        return _unknown
    if column.kind == "truth" and sign not in ("=", "!="):
        raise ConfigError(f"where: {column.name} is {column.type}, which has no order; = and != compare it")
    if pa.types.is_integer(kind):
        held = whole_test(sign, given, kind)
        if isinstance(held, bool):
            return lambda table: _one_answer(column.values(table), held)
        sign, given = held
    scalar, kernel = pa.scalar(given, kind), _KERNELS[sign]
    return lambda table: kernel(column.values(table), scalar)


def _of_two(left: Column, sign: str, right: Column) -> Test:
    kinds = {left.kind, right.kind} - {"null"}
    if len(kinds) > 1 or kinds & {"list", "other"} or (kinds == {"time"} and left.type != right.type):
        raise ConfigError(
            f"where: {left.name} is {left.type} and {right.name} is {right.type}, which do not compare"
        )
    if kinds == {"truth"} and sign not in ("=", "!="):
        raise ConfigError(f"where: {left.name} is {left.type}, which has no order; = and != compare it")
    if "null" in (left.kind, right.kind):
        return _unknown
    kinds_in = [comparable(column.type) for column in (left, right)]
    common = kinds_in[0]
    if kinds == {"number"} and kinds_in[0] != kinds_in[1]:
        # 20 digits hold every whole number of 64 bits, signed or not; beside a fraction both are rounded to float64.
        common = pa.decimal128(20) if all(map(pa.types.is_integer, kinds_in)) else pa.float64()
    kernel = _KERNELS[sign]

    def test(table: pa.Table) -> pa.ChunkedArray:
        return kernel(*(column.values(table).cast(common, safe=False) for column in (left, right)))

    return test


def _among(column: Column, values: tuple[Value, ...]) -> Test:
    given = [fitting(column.name, column.type, value) for value in values]
    kind, unknown = comparable(column.type), None in given
    if column.kind == "null":
        return _unknown
    known = [value for value in given if value is not None]
    if pa.types.is_integer(kind):
        held = [whole_test("=", value, kind) for value in known]
        known = [value[1] for value in held if not isinstance(value, bool)]
    values_in = [value.as_py() if isinstance(value, pa.Scalar) else value for value in known]
    fractions = pa.types.is_floating(kind)  # sets tell -0.0 from 0.0; + 0.0 makes one of them
    allowed = pa.array([value + 0.0 for value in values_in] if fractions else values_in, kind)

    def test(table: pa.Table) -> pa.ChunkedArray:
        found = pc.add(column.values(table), 0.0) if fractions else column.values(table)
        inside = pc.is_in(found, value_set=allowed)
        known_answer = inside if unknown else pc.is_valid(found)
        return pc.if_else(known_answer, inside, pa.scalar(None, pa.bool_()))

    return test


def _like(column: Column, pattern: Value) -> Test:
    if pattern.value is None or column.kind == "null":
        return _unknown
    if column.kind != "text" or not isinstance(pattern.value, str):
        raise (
            unfit(column.name, column.type, pattern.value)
            if column.kind == "text"
            else ConfigError(f"where: {column.name} is {column.type}; `like` is for text")
        )
    if len(pattern.value) > MAX_PATTERN:
        raise ConfigError(f"where: a pattern of `like` may have {MAX_PATTERN} letters")
    return lambda table: pc.match_like(column.values(table), pattern.value)


def _contains(column: Column, value: Value) -> Test:
    if column.kind not in ("list", "text", "null"):
        raise ConfigError(f"where: {column.name} is {column.type}; `contains` is for lists and text")
    if column.kind != "list":
        part = fitting(column.name, column.type, value)
        if part is None or column.kind == "null":
            return _unknown
        return lambda table: pc.match_substring(column.values(table), part)
    inner = column.type.value_type
    if kind_of(inner) in ("list", "other"):
        raise ConfigError(f"where: {column.name} is {column.type}, of whose elements nothing can be asked")
    # The elements of a list as a table of one column, so that they are compared as any column is.
    name = f"an element of {column.name}"
    element = _of_one(Column((name,), inner), "=", value)
    if value.value is None:
        return _unknown

    def test(table: pa.Table) -> pa.ChunkedArray:
        chunks = [_any_of(chunk, name, element) for chunk in column.values(table).chunks]
        return pa.chunked_array(chunks, pa.bool_())

    return test


def _any_of(lists: pa.Array, name: str, element: Test) -> pa.Array:
    if pa.types.is_fixed_size_list(lists.type):
        lists = lists.cast(pa.list_(lists.type.value_type))
    hits = pc.fill_null(element(pa.table({name: lists.values})), False)
    before = np.concatenate([[0], np.cumsum(np.asarray(hits, np.int64))])
    ends = np.asarray(lists.offsets)
    return pa.array(before[ends[1:]] > before[ends[:-1]], mask=np.asarray(lists.is_null()))


def _truth(column: Column) -> Test:
    if column.kind == "null":
        return _unknown
    if column.kind != "truth":
        raise ConfigError(
            f"where: {column.name} is {column.type}, no test by itself; compare it with something"
        )
    return column.values


def _unknown(table: pa.Table) -> pa.ChunkedArray:
    return pa.chunked_array([pa.nulls(table.num_rows, pa.bool_())])


def _one_answer(values: pa.ChunkedArray, answer: bool) -> pa.ChunkedArray:
    return pc.if_else(pc.is_valid(values), pa.scalar(answer), pa.scalar(None, pa.bool_()))
