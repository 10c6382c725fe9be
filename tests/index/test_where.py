"""`where`: what it matches, held against a plain evaluation of each row, and what it refuses."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datakit.errors import ConfigError
from datakit.index.where import MAX_PATTERN, matches, parse
from datakit.index.where_text import MAX_DEPTH, MAX_TEXT

SCHEMA = pa.schema(
    [
        ("small", pa.int8()),
        ("whole", pa.int64()),
        ("large", pa.uint64()),
        ("price", pa.float64()),
        ("score", pa.float32()),
        ("half", pa.float16()),
        ("name", pa.string()),
        ("brand", pa.dictionary(pa.int8(), pa.string())),
        ("sold", pa.bool_()),
        ("labels", pa.list_(pa.string())),
        ("sizes", pa.list_(pa.int16(), 2)),
        ("when", pa.timestamp("us", tz="UTC")),
        ("day", pa.date32()),
        ("box", pa.struct([("width", pa.int32()), ("the 'name'", pa.string())])),
        ("a b.c]", pa.string()),
        ("nothing", pa.null()),
        ("raw", pa.binary()),
    ]
)
Truth = bool | None
Row = dict[str, Any]
Asked = tuple[str, Callable[[Row], Truth]]  # a text, and what it says of a row

TEXTS = st.text(st.sampled_from("ab%_\\'\"[é\n😀."), max_size=4)
WHOLE = st.sampled_from([-(2**63), -129, -128, -1, 0, 1, 2, 127, 128, 2**53 + 1, 2**63 - 1, 2**64 - 1])
DAYS = st.sampled_from([date(1970, 1, 1), date(2026, 1, 31), date(2026, 2, 1)])
FRACTIONS = [0.1, -0.0, 0.0, 0.5, 1.0, 2.5, -1.5, 1e300, 70000.0, 5e-324]


def between(kind: pa.DataType) -> st.SearchStrategy[int]:
    limits = np.iinfo(kind.to_pandas_dtype())
    return WHOLE.filter(lambda value: limits.min <= value <= limits.max)


def fractions(kind: type[np.floating[Any]]) -> st.SearchStrategy[float]:
    with np.errstate(over="ignore"):
        rounded = [float(kind(value)) for value in FRACTIONS]
    return st.sampled_from([*rounded, math.nan, math.inf, -math.inf])


def moments() -> st.SearchStrategy[datetime]:
    return DAYS.map(lambda day: datetime(day.year, day.month, day.day, 12, tzinfo=UTC))


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "small": between(pa.int8()),
    "whole": between(pa.int64()),
    "large": between(pa.uint64()),
    "price": fractions(np.float64),
    "score": fractions(np.float32),
    "half": fractions(np.float16),
    "name": TEXTS,
    "brand": TEXTS,
    "sold": st.booleans(),
    "labels": st.lists(st.none() | TEXTS, max_size=3),
    "sizes": st.lists(st.none() | between(pa.int16()), min_size=2, max_size=2),
    "when": moments(),
    "day": DAYS,
    "box": st.fixed_dictionaries({"width": st.none() | between(pa.int32()), "the 'name'": st.none() | TEXTS}),
    "a b.c]": TEXTS,
    "nothing": st.nothing(),
    "raw": st.binary(max_size=2),
}
ROWS = st.lists(
    st.fixed_dictionaries(
        {name: st.none() | values if name != "nothing" else st.none() for name, values in VALUES.items()}
    ),
    max_size=4,
)


def table(rows: list[Row], chunks: int = 1) -> pa.Table:
    """The rows in so many chunks, the last of them sliced out of a longer one."""
    columns = {name: [row[name] for row in rows] for name in SCHEMA.names}
    if "half" in columns:
        columns["half"] = [None if value is None else np.float16(value) for value in columns["half"]]
    whole = pa.table(
        {field.name: pa.array(columns[field.name], field.type) for field in SCHEMA}, schema=SCHEMA
    )
    cuts = np.linspace(0, len(rows), chunks + 1).astype(int)
    return pa.concat_tables([whole.slice(a, b - a) for a, b in itertools.pairwise(cuts)])


# What a row is asked about: its text, how to get it, and the values and their texts that it is compared with.


def quoted(text: str) -> st.SearchStrategy[str]:
    return st.sampled_from(["'" + text.replace("'", "''") + "'", '"' + text.replace('"', '""') + '"'])


def dotted(name: str, field: str) -> Callable[[Row], Any]:
    return lambda row: None if row[name] is None else row[name][field]


def of(name: str) -> Callable[[Row], Any]:
    return lambda row: row[name]


NUMBERS = {
    "small": ("small", of("small"), int),
    "whole": ("[whole]", of("whole"), int),
    "large": ('"large"', of("large"), int),
    "price": ("price", of("price"), np.float64),
    "score": ("score", of("score"), np.float32),
    "half": ("half", of("half"), np.float16),
    "width": ("box . width", dotted("box", "width"), int),
}
WORDS = {
    "name": ("name", of("name")),
    "brand": ("brand", of("brand")),
    "odd": ("[a b.c]]]", of("a b.c]")),
    "field": ("box.\"the 'name'\"", dotted("box", "the 'name'")),
}
SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<>": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def compared(value: Any, sign: str, other: Any) -> Truth:
    return None if value is None or other is None else bool(SIGNS[sign](value, other))


def rounded(value: int | float, kind: Any) -> int | float:
    if kind is int:
        return value
    with np.errstate(over="ignore"):
        small = float(kind(value))
    return small if math.isfinite(small) else float(value)


def like(text: str, pattern: str) -> bool:
    parts, letters = [], iter(pattern)
    for letter in letters:
        if letter == "\\":
            parts.append(re.escape(next(letters, "\\")))
        else:
            parts.append({"%": ".*", "_": "."}.get(letter, re.escape(letter)))
    return re.fullmatch("".join(parts), text, re.DOTALL) is not None


@st.composite
def numbers(draw: st.DrawFn) -> tuple[str, Callable[[Row], Any], str, Any]:
    """A column and a number beside it, as texts, and as values."""
    name, get, kind = NUMBERS[draw(st.sampled_from(sorted(NUMBERS)))]
    value: Any = draw(st.none() | WHOLE | st.sampled_from([2**70, -(2**70)]) | st.sampled_from(FRACTIONS))
    text = "NULL" if value is None else draw(st.sampled_from([repr(value), f"+{value!r}"])).replace("+-", "-")
    return name, get, text, None if value is None else rounded(value, kind)


@st.composite
def number_test(draw: st.DrawFn) -> Asked:
    name, get, text, value = draw(numbers())
    sign = draw(st.sampled_from(sorted(SIGNS)))
    if draw(st.booleans()):
        return f"{text}{TURNED.get(sign, sign)}{name}", lambda row: compared(get(row), sign, value)
    return f"{name}{sign} {text}", lambda row: compared(get(row), sign, value)


@st.composite
def word_test(draw: st.DrawFn) -> Asked:
    name, get = WORDS[draw(st.sampled_from(sorted(WORDS)))]
    value, sign = draw(TEXTS), draw(st.sampled_from([*SIGNS, "like", "contains", "not  LIKE"]))
    text = f"{name} {sign} {draw(quoted(value))}"
    if "like" in sign.lower():
        if value.endswith("\\") and not value.endswith("\\\\"):
            value, text = "a%", f"{name} {sign} 'a%'"
        wanted = sign == "like"
        return text, lambda row: None if get(row) is None else like(get(row), value) == wanted
    if sign == "contains":
        return text, lambda row: None if get(row) is None else value in get(row)
    return text, lambda row: compared(get(row), sign, value)


@st.composite
def time_test(draw: st.DrawFn) -> Asked:
    sign, value = draw(st.sampled_from(sorted(SIGNS))), draw(moments())
    if draw(st.booleans()):
        return f"day {sign} '{value.date()}'", lambda row: compared(row["day"], sign, value.date())
    form = draw(st.sampled_from([value.isoformat(), value.replace(tzinfo=None).isoformat()]))
    return f"when {sign} '{form}'", lambda row: compared(row["when"], sign, value)


def among(value: Any, options: list[Any]) -> Truth:
    if value is None:
        return None
    return True if any(value == option for option in options) else None if None in options else False


@st.composite
def set_test(draw: st.DrawFn) -> Asked:
    no = draw(st.sampled_from(["", "not "]))

    def turned(found: Truth) -> Truth:
        return found if not no or found is None else not found

    if draw(st.booleans()):
        first = draw(numbers())
        more = [one for one in draw(st.lists(numbers(), max_size=3)) if one[0] == first[0]]
        values = [first[3], *(one[3] for one in more)]
        text = f"{first[0]} {no}in ({','.join([first[2], *(one[2] for one in more)])})"
        return text, lambda row: turned(among(first[1](row), values))
    name, get = WORDS[draw(st.sampled_from(sorted(WORDS)))]
    words = draw(st.lists(TEXTS, min_size=1, max_size=3))
    texts = [draw(quoted(word)) for word in words]
    return f"{name} {no}In( {' , '.join(texts)} )", lambda row: turned(among(get(row), list(words)))


@st.composite
def other_test(draw: st.DrawFn) -> Asked:
    name = draw(st.sampled_from(["small", "name", "sold", "labels", "nothing", "box", "raw", "when"]))
    wide, low, high = draw(st.sampled_from([True, False])), draw(WHOLE), draw(WHOLE)

    def spread(row: Row) -> Truth:
        both = (compared(row["whole"], ">=", low), compared(row["whole"], "<=", high))
        found = False if False in both else None if None in both else True
        return found if wide or found is None else not found

    word, size, sign = draw(TEXTS), draw(between(pa.int16())), draw(st.sampled_from(["=", "!=", "<", ">="]))
    return draw(
        st.sampled_from(
            [
                (f"{name} is null", lambda row: row[name] is None),
                (f"{name} IS NOT NULL", lambda row: row[name] is not None),
                (f"whole {'' if wide else 'not '}between {low} and {high}", spread),
                ("sold", lambda row: row["sold"]),
                ("sold = true", lambda row: row["sold"]),
                ("sold != true", lambda row: None if row["sold"] is None else not row["sold"]),
                ("nothing = 3", lambda row: None),
                (f"labels contains {draw(quoted(word))}", lambda row: holds(row["labels"], word)),
                (f"sizes contains {size}", lambda row: holds(row["sizes"], size)),
                (f"small {sign} large", lambda row: compared(row["small"], sign, row["large"])),
                (f"name {sign} brand", lambda row: compared(row["name"], sign, row["brand"])),
                (f"score {sign} [price]", lambda row: compared(row["score"], sign, row["price"])),
            ]
        )
    )


def holds(elements: list[Any] | None, value: Any) -> Truth:
    return None if elements is None else value in elements


def joined(parts: st.SearchStrategy[Asked]) -> st.SearchStrategy[Asked]:
    def negated(asked: Asked) -> Asked:
        return f"NOT ({asked[0]})", lambda row: None if (found := asked[1](row)) is None else not found

    def chain(word: str, absorbing: bool) -> st.SearchStrategy[Asked]:
        def build(several: list[Asked]) -> Asked:
            def test(row: Row) -> Truth:
                found = [one[1](row) for one in several]
                return absorbing if absorbing in found else None if None in found else not absorbing

            return f" {word} ".join(f"({one[0]})" for one in several), test

        return st.lists(parts, min_size=2, max_size=3).map(build)

    return parts.map(negated) | chain("and", False) | chain("Or", True)


ONE = number_test() | word_test() | time_test() | set_test() | other_test()
ASKED = st.recursive(ONE, joined, max_leaves=4)


@settings(max_examples=600, deadline=None)
@given(rows=ROWS, asked=set_test() | ASKED, chunks=st.integers(1, 3))
def test_it_matches_the_rows_of_which_the_text_is_true(rows: list[Row], asked: Asked, chunks: int) -> None:
    text, test = asked
    found = matches(table(rows, chunks), text)
    assert found.dtype == np.bool_ and found.tolist() == [test(row) is True for row in rows]


def test_a_null_in_a_set_leaves_only_what_is_in_it_certain() -> None:
    rows = pa.table({"price": [0.0, -0.0, 1.0, None]})
    assert matches(rows, "price in (0)").tolist() == matches(rows, "price in (-0.0)").tolist()
    assert matches(rows, "price in (0, null)").tolist() == [True, True, False, False]
    assert matches(rows, "price not in (0)").tolist() == [False, False, True, False]
    assert not matches(rows, "price not in (0, null)").any()


def test_and_binds_closer_than_or_and_not_closer_than_both() -> None:
    rows = pa.table({"a": [True, True, False, False], "b": [True, False, True, False], "c": [False] * 4})
    a, b, c = (np.asarray(rows[name]) for name in "abc")
    assert (matches(rows, "a or b and c") == (a | (b & c))).all()
    assert (matches(rows, "(a or b) and c") == ((a | b) & c)).all()
    assert (matches(rows, "not a and b") == (~a & b)).all()


def test_nothing_asked_matches_all_and_a_filter_names_the_columns_it_reads() -> None:
    rows = table([dict.fromkeys(SCHEMA.names)] * 3)
    assert matches(rows, " ").tolist() == [True] * 3
    asked = parse("box.width > 3 or [a b.c]]] like 'x%' and not sold", SCHEMA)
    assert asked.columns == ("box", "a b.c]", "sold")
    assert asked(rows.select(list(asked.columns))).tolist() == [False] * 3


def test_a_column_of_a_dotted_name_stands_before_a_field() -> None:
    rows = pa.table({"a.b": [1, 2], "a": [{"b": 5, "c": 6}, {"b": 7, "c": None}]})
    assert matches(rows, "a.b = 1").tolist() == [True, False]
    assert matches(rows, "a.c is null").tolist() == [False, True]


def test_elements_of_a_null_list_are_not_asked() -> None:
    lists = pa.ListArray.from_arrays(
        pa.array([0, 1, 2, 3]), pa.array(["x", "x", None]), mask=pa.array([False, True, False])
    )
    assert matches(pa.table({"labels": lists}), "labels contains 'x'").tolist() == [True, False, False]
    assert matches(pa.table({"labels": lists}), "not labels contains 'x'").tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pric < 5", "did you mean price?"),
        ("price <", "a value was expected"),
        ("price < and", "letter 9: a value was expected"),
        ("name = nike", "'nike'"),
        ("name = 3", "name is string, which goes with a text in quotes, not with 3"),
        ("price = '3'", "price is double, which goes with a number, not with '3'"),
        ("sold = 1", "true or false"),
        ("sold < true", "no order"),
        ("price = true", "not with true"),
        ("labels = 'x'", "goes with `contains`"),
        ("labels contains 3", "an element of labels is string"),
        ("price contains 3", "`contains` is for lists and text"),
        ("price like 'a'", "`like` is for text"),
        ("name like 3", "not with 3"),
        (f"name like '{'%' * (MAX_PATTERN + 1)}'", f"{MAX_PATTERN} letters"),
        ("raw = 'x'", "`is null`"),
        ("box = 'x'", "`is null`"),
        ("box.with = 3", "no field with; did you mean width?"),
        ("name.x = 'y'", "no field x"),
        ("price", "no test by itself"),
        ("name < price", "do not compare"),
        ("when < '2026-13-01'", "2026-01-31"),
        ("day < '2026-01-01T00:00'", "2026-01-31"),
        ("price in ()", "a value was expected"),
        ("price in (1, 'x')", "not with 'x'"),
        ("price between 1", "`and` was expected"),
        ("price is 3", "`null` was expected"),
        ("(price < 3", "`)` was expected"),
        ("price < 3)", "`and`, `or` or the end was expected"),
        ("price < 3 price", "`and`, `or` or the end was expected"),
        ("not", "the name of a column was expected"),
        ("sold not", "`in`, `between`, `like` or `contains` was expected"),
        ("name = 'x", "letter 8: what is opened here has no end"),
        ("name = 'x''", "has no end"),
        ("[name = 'x'", "has no end"),
        ("price; drop", "this means nothing"),
        ("price < 1e999", "too large"),
        ("price < " + "9" * 5000, "too large"),
        ("sold and " * MAX_TEXT, f"it may have {MAX_TEXT}"),
        ("not " * (MAX_DEPTH + 1) + "sold", f"more than {MAX_DEPTH}"),
        ("(" * 5000, f"more than {MAX_DEPTH}"),
        ("name = '\ud800'", "no letter of Unicode"),
        ("name = \x1b[31m", "x1b"),
    ],
)
def test_a_wrong_text_is_refused_and_says_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, SCHEMA)
    message = str(caught.value)
    assert said in message and message.isprintable() and len(message) < 400


def test_two_columns_of_one_name_are_refused() -> None:
    rows = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    with pytest.raises(ConfigError, match="2 columns x"):
        matches(rows, "x = 1")


def test_a_moment_of_another_zone_is_the_same_moment() -> None:
    rows = pa.table({"when": pa.array([datetime(2026, 1, 31, 12, tzinfo=UTC)], pa.timestamp("s", tz="UTC"))})
    assert matches(rows, "when = '2026-01-31T14:00:00+02:00'").tolist() == [True]
    naive = pa.table({"when": pa.array([datetime(2026, 1, 31)], pa.timestamp("ns"))})
    assert matches(naive, "when = '2026-01-31'").tolist() == [True]
    for text in ("when = '2026-01-31T14:00:00+02:00'", "when > '0001-01-01'"):
        with pytest.raises(ConfigError):
            matches(naive, text)


def test_decimals_and_views_of_text_compare_too() -> None:
    rows = pa.table(
        {
            "price": pa.array(["1.25", "9.99", None], pa.string()).cast(pa.decimal128(6, 2)),
            "name": pa.array(["a", "b", None], pa.large_string()),
        }
    )
    assert matches(rows, "price <= 1.25 and name = 'a'").tolist() == [True, False, False]


SMALL = "and or not in between like contains is null true ( ) , = < >= != ' \" [ ] . 1 -2.5 1e9 \\ \x00"
PIECES = st.sampled_from(
    [
        *SCHEMA.names,
        *SMALL.split(" "),
        "'x'",
        '"x"',
        "'2026-01-31'",
        "box.width",
        "labels contains 'x'",
        "price < 5",
        "sold",
    ]
)
FUZZ = (
    st.text(max_size=40)
    | st.lists(PIECES, max_size=12).map(" ".join)
    | st.lists(PIECES, max_size=8).map("".join)
)
SOME = [
    dict.fromkeys(SCHEMA.names),
    {**dict.fromkeys(SCHEMA.names), "name": "x", "labels": ["x", None], "price": 5.0},
]
TABLE = table(SOME)


@settings(max_examples=1500, deadline=None)
@given(text=FUZZ)
@example(text="name like '\\'")
@example(text="name like 'a\x00%'")
@example(text="when = '2026-01-31T25:00'")
@example(text="small in (1e300, 0.5)")
def test_any_text_gives_a_mask_or_a_config_error(text: str) -> None:
    try:
        found = matches(TABLE, text)
    except ConfigError as problem:
        assert str(problem)
    else:
        assert found.shape == (2,) and found.dtype == np.bool_
