"""Settings and rows of others: read for what they say, refused for what they would become."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest

from datakit.catalog import load
from datakit.config import expand, parse
from datakit.errors import CatalogError, ConfigError
from datakit.layers import layered
from datakit.texts import MAX_LINE, MAX_NESTING, MAX_PARTS, BoundedLines, TooLarge, load_json
from tests.test_config import Schema


def words(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "words.yaml"
    path.write_text(text)
    return list(expand([f"@{path}"]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x 1\nb: *x", "line 1: the anchor or alias 'x'"),
        ("<<: *x", "the anchor or alias 'x'"),
        (
            "a: !!python/object/apply:os.system [true]",
            "the tag 'tag:yaml.org,2002:python/object/apply:os.system'",
        ),
        ("a: !!str 1", "the tag"),
        ("[" * 1000, "more than 32 deep"),
        ("a: b\n" * 60_000, "more than 262144 bytes"),
        ("a: [1", "words.yaml"),
    ],
)
def test_yaml_that_is_more_than_words_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        words(tmp_path, text)
    assert said in str(caught.value) and "words.yaml" in str(caught.value)


def test_a_target_is_an_unknown_key_and_an_interpolation_is_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key _target_"):
        parse(Schema, words(tmp_path, "_target_: os.system"))
    assert parse(Schema, words(tmp_path, "name: ${oc.env:HOME}")).name == "${oc.env:HOME}"


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 50_000, ".".join("a" * 100_000) + " = 1", "a = '" + "x" * 300_000 + "'"]
)
def test_toml_bombs_end_at_once_with_the_name_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.toml", "datakit.toml"):
        Path(name).write_text(text)
    started = time.monotonic()
    with pytest.raises(CatalogError, match=r"a\.toml"):
        load("a.toml")
    with pytest.raises(ConfigError, match=r"datakit\.toml"):
        layered(Schema, "toy", [])
    assert time.monotonic() - started < 2


def test_json_is_bounded_in_depth_and_parts_and_its_texts_are_text() -> None:
    deep = b"[" * MAX_NESTING + b"]" * MAX_NESTING
    assert load_json(b'{"a": [{"b": "\\ud83d\\ude00"}]}') == {"a": [{"b": "\U0001f600"}]}
    assert load_json(deep)
    for data in (
        b"[" + deep + b"]",
        b"[" * 200_000,
        b"[" + b"[]," * MAX_PARTS + b"[]]",
        b'{"a": "\\ud800"}',
        b"{",
    ):
        with pytest.raises(ValueError):
            load_json(data)
    assert load_json('["' + "[" * 200 + '"]') == ["[" * 200]


def test_lines_are_bounded_each_and_together_until_marked() -> None:
    half = "x" * (MAX_LINE // 2 + 1) + "\n"
    with pytest.raises(TooLarge, match="line 2"):
        list(BoundedLines(io.StringIO(half + half)))
    lines = BoundedLines(io.StringIO(half * 4))
    for _ in range(4):
        assert next(lines) == half
        lines.mark()
    with pytest.raises(TooLarge):
        next(BoundedLines(io.StringIO("x" * (MAX_LINE + 1))))
