"""Words: parsed by the schema and by nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datakit.config import as_dict, parse, resolved_words, to_words
from datakit.errors import ConfigError
from datakit.layers import layered
from datakit.values import convert, to_text


@dataclass(frozen=True, kw_only=True)
class Holdout:
    mode: Literal["random", "taxonomy"] = "random"
    fraction: float = field(default=0.25, metadata={"least": 0, "most": 1})


@dataclass(frozen=True, kw_only=True)
class Schema:
    name: str = "x"
    count: int = 3
    flag: bool = False
    seeds: tuple[int, ...] = field(default=(0, 1), metadata={"least": 0})
    names: tuple[str, ...] = ()
    limit: float | None = None
    holdout: Holdout = field(default_factory=Holdout)


def test_only_the_schema_decides_what_a_value_is() -> None:
    for text in ("12:30", "007", "no", "a: b", "${oc.env:HOME}", "s3://b/p?x=1", "a=b", "d/{0..3}.tar"):
        assert parse(Schema, [f"name={text}"]).name == text
    assert parse(Schema, ["seeds=3,4", "holdout.fraction=0.5", "flag=yes", "limit=none"]) == Schema(
        seeds=(3, 4), holdout=Holdout(fraction=0.5), flag=True
    )


def test_a_key_may_be_cut_to_its_last_part_where_only_one_ends_so() -> None:
    assert parse(Schema, ["fraction=0.5", "mode=taxonomy"]).holdout == Holdout(mode="taxonomy", fraction=0.5)


def test_lists_grow_and_keys_go_back_to_their_default() -> None:
    assert parse(Schema, ["seeds+=7"]).seeds == (0, 1, 7)
    assert parse(Schema, ["seeds=9", "~seeds"]).seeds == (0, 1)
    assert parse(Schema, ['names=["a,b","c"]']).names == ("a,b", "c")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("fracton=1", "unknown key fracton; did you mean fraction?"),
        ("nothing_like_it=1", "known: name, count"),
        ("count=many", "count=many: must be a whole number"),
        ("fraction=nan", "must be a finite number"),
        ("flag=maybe", "must be true or false"),
        ("mode=taxonomi", "must be one of random, taxonomy; did you mean taxonomy?"),
        ("count+=1", "adds to a list"),
        ("count", "is not key=value"),
        ("@nowhere.yaml", "cannot read nowhere.yaml"),
        ("seeds=[1", "not a JSON list"),
        ("fraction=1.5", "holdout.fraction=1.5: must be from 0 to 1"),
        ("seeds=3,-4", "seeds=3,-4: must be at least 0"),
        ("seeds+=-4", "must be at least 0"),
    ],
)
def test_a_wrong_word_is_named_with_what_to_do(word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse(Schema, [word])


def test_a_file_of_words_is_text_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: no\nseeds: [4, 5]\nholdout:\n  fraction: 0.1\n")
    assert parse(Schema, [f"@{path}", "count=1"]) == Schema(
        name="no", seeds=(4, 5), count=1, holdout=Holdout(fraction=0.1)
    )


@given(
    st.builds(
        Schema,
        name=st.text(),
        seeds=st.lists(st.integers(min_value=0)).map(tuple),
        names=st.lists(st.text()).map(tuple),
        limit=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_resolved_words_give_the_schema_back(schema: Schema) -> None:
    assert as_dict(parse(Schema, resolved_words(schema))) == as_dict(schema)


@pytest.mark.parametrize(
    "names", [("[a]",), ("a ",), ("",), ("", ""), ("a", "[b"), ("a,b",), ('"',), (), ("a",)]
)
def test_a_list_of_any_texts_comes_back(names: tuple[str, ...]) -> None:
    assert convert(to_text(names), tuple[str, ...], "names") == names


def test_a_list_that_must_be_given_can_be_added_to() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Required:
        names: tuple[str, ...]

    assert parse(Required, ["names+=a", "names+=b"]).names == ("a", "b")


def test_a_file_of_words_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bin.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"cannot read .*bin\.yaml"):
        parse(Schema, [f"@{path}"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[toy]\ncuont = 1\n", "datakit.toml [toy]: unknown key cuont; did you mean count?"),
        ("[toy]\ncount = 'many'\n", "datakit.toml [toy]: count=many: must be a whole number"),
        ("toy = 2\n", "datakit.toml: toy must be a table of keys: [toy]"),
        ("[toy\n", "cannot read datakit.toml"),
        ("name = '\xff'\n", "cannot read datakit.toml"),
    ],
)
def test_a_wrong_word_of_a_project_file_is_named_with_the_file(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("datakit.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=re.escape(said)):
        layered(Schema, "toy", [])


def test_a_wrong_word_of_the_environment_is_named_with_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAKIT_COUNT", "many")
    with pytest.raises(ConfigError, match=r"DATAKIT_COUNT: run\.count=many: must be a whole number"):
        layered(Schema, "toy", [], "run.")


def test_keywords_become_words() -> None:
    assert list(to_words({"fraction": 0.3, "holdout": {"mode": "taxonomy"}, "run__workers": 2})) == [
        "fraction=0.3",
        "holdout.mode=taxonomy",
        "run.workers=2",
    ]


def test_a_flag_beats_the_environment_and_that_beats_the_project_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("datakit.toml").write_text("[toy]\ncount = 1\nname = 'file'\nflag = true\n")
    monkeypatch.setenv("DATAKIT_COUNT", "2")
    monkeypatch.setenv("DATAKIT_NAME", "environment")
    found = parse(Schema, layered(Schema, "toy", ["count=3"]))
    assert (found.count, found.name, found.flag) == (3, "environment", True)
