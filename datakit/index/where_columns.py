"""A column that `where` asks about: found by its name, told by its kind, its values and texts made comparable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from datakit.errors import ConfigError, did_you_mean
from datakit.index.where_tree import Name, Value

WANTED = {
    "number": "a number",
    "text": "a text in quotes",
    "truth": "true or false",
    "time": "a day or time as '2026-01-31' or '2026-01-31T18:30:00'",
    "list": "`contains`",
    "other": "`is null`",
}


@dataclass(frozen=True)
class Column:
    """Where it lies: the column `path[0]`, of structs then their fields. kind: a key of WANTED, or `null`."""

    path: tuple[str, ...]
    type: pa.DataType

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def kind(self) -> str:
        return kind_of(self.type)

    def values(self, table: pa.Table) -> pa.ChunkedArray:
        """Those of every row, in a type that compares: fractions as float64, text without dictionaries."""
        column = table.column(self.path[0])
        if len(self.path) > 1:
            # By hand: pc.struct_field takes one array after another and has no zero-chunk case in older Arrow.
            chunks = [pc.struct_field(chunk, list(self.path[1:])) for chunk in column.chunks]
            column = pa.chunked_array(chunks, self.type)
        wanted = comparable(self.type)
        return column if wanted == column.type else column.cast(wanted)


def find_column(name: Name, schema: pa.Schema) -> Column:
    """Raises ConfigError: there is none, or two of one name."""
    for end in range(len(name.parts), 0, -1):
        whole = ".".join(name.parts[:end])
        if (found := schema.get_all_field_indices(whole)) and len(found) > 1:
            raise ConfigError(f"where: there are {len(found)} columns {whole}")
        if found:
            kind = schema.field(found[0]).type
            for field in name.parts[end:]:
                kind = _field(kind, field, whole)
            return Column((whole, *name.parts[end:]), kind)
    asked = ".".join(name.parts)
    hint = did_you_mean(asked, schema.names) or f"; there are {', '.join(schema.names) or 'none'}"
    raise ConfigError(f"where: there is no column {asked}{hint}; a text stands in quotes: '{asked}'")


def _field(kind: pa.DataType, name: str, column: str) -> pa.DataType:
    names = [field.name for field in kind] if types.is_struct(kind) else []
    if names.count(name) != 1:
        hint = did_you_mean(name, names)
        raise ConfigError(f"where: the column {column} ({kind}) has no field {name}{hint}")
    return kind.field(name).type


def kind_of(kind: pa.DataType) -> str:
    if types.is_dictionary(kind):
        return kind_of(kind.value_type)
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "number"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "text"
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return "list"
    if types.is_date(kind) or types.is_timestamp(kind):
        return "time"
    return "truth" if types.is_boolean(kind) else "null" if types.is_null(kind) else "other"


def comparable(kind: pa.DataType) -> pa.DataType:
    """The type that values of `kind` are compared in."""
    if types.is_dictionary(kind):
        return comparable(kind.value_type)
    if types.is_floating(kind) or types.is_decimal(kind):
        return pa.float64()
    return pa.large_string() if kind_of(kind) == "text" else kind


def fitting(column: str, kind: pa.DataType, value: Value) -> Any:
    """A value in the terms of a column of this type: what may stand beside it in Python. Raises ConfigError.

    A fraction is rounded as the column's own are: float32 holds no 0.1, and who asks for it means what is shown.
    """
    given, wanted = value.value, kind_of(kind)
    if given is None or wanted == "null":
        return given
    if wanted == "text" and isinstance(given, str):
        return given
    if wanted == "truth" and isinstance(given, bool):
        return given
    if wanted == "number" and isinstance(given, int | float) and not isinstance(given, bool):
        return given if types.is_integer(comparable(kind)) else _rounded(float(given), kind)
    if wanted == "time" and isinstance(given, str):
        return _time(column, kind, given)
    raise unfit(column, kind, given)


def unfit(column: str, kind: pa.DataType, given: object) -> ConfigError:
    shown = {True: "true", False: "false"}.get(given, repr(given)) if isinstance(given, bool) else repr(given)
    return ConfigError(
        f"where: {column} is {kind}, which goes with {WANTED[kind_of(kind)]}, not with {shown}"
    )


def _rounded(value: float, kind: pa.DataType) -> float:
    small = np.float16 if kind == pa.float16() else np.float32 if kind == pa.float32() else np.float64
    with np.errstate(over="ignore"):
        rounded = float(small(value))
    return rounded if math.isfinite(rounded) else value


def _time(column: str, kind: pa.DataType, text: str) -> pa.Scalar:
    try:
        if types.is_date(kind):
            return pa.scalar(date.fromisoformat(text), kind)
        moment = datetime.fromisoformat(text)
        if kind.tz is None and moment.tzinfo is not None:
            raise ConfigError(f"where: {column} is {kind}, of no time zone, and {text!r} names one")
        if kind.tz is not None:
            moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        return pa.scalar(moment, kind)
    except (ValueError, OverflowError, pa.ArrowException):
        raise unfit(column, kind, text) from None


def whole_test(sign: str, value: int | float, kind: pa.DataType) -> tuple[str, int] | bool:
    """What `column sign value` comes to for a column of whole numbers: a test that its type can hold, or one answer
    for all. Exact, where a cast of either side would round or wrap.
    """
    floor = math.floor(value)
    if floor != value:
        if sign in ("=", "!="):
            return sign == "!="
        sign, floor = ("<=", floor) if sign in ("<", "<=") else (">=", floor + 1)
    limits = np.iinfo(kind.to_pandas_dtype())
    if floor < limits.min:
        return sign in ("!=", ">", ">=")
    if floor > limits.max:
        return sign in ("!=", "<", "<=")
    return sign, floor
