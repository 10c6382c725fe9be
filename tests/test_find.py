"""A recipe that cannot be had: the file, the line and the reason are named."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from datakit.config import key_lines
from datakit.errors import ConfigError, MissingExtra
from datakit.find import recipe_module


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"""Mine."""\ndef recipe(:\n', "line 2: "),
        ("\n\nimport no_such_module\n", "line 3: ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1\n\ndef f():\n    return 1 / 0\n\nf()\n", "line 4: ZeroDivisionError"),
        ("x = '\0'\n", "null bytes"),
    ],
)
def test_a_recipe_that_fails_is_named_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        recipe_module(str(path))
    assert str(path) in str(caught.value)


def test_what_a_recipe_itself_refuses_is_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from datakit.errors import MissingExtra\nraise MissingExtra('mine', 'hf')\n")
    with pytest.raises(MissingExtra, match=re.escape("datakit[hf]")):
        recipe_module(str(path))


def test_help_marks_required_keys_and_gives_limits() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Schema:
        source: str
        share: float = field(default=0.5, metadata={"least": 0, "most": 1})
        count: int = field(default=3, metadata={"help": "of them", "least": 1})
        depth: int = field(default=3, metadata={"most": 9})

    assert list(key_lines(Schema)) == [
        "  source=...  str, required",
        "  share=0.5  float, from 0 to 1",
        "  count=3  int, at least 1",
        "      of them",
        "  depth=3  int, at most 9",
    ]
