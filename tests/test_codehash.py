"""The hash of a function's code: whatever may change what it does changes it, and nothing else."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from datakit import codehash
from datakit.codehash import _texts, code_hash
from datakit.find import recipe_module

HEAD = "class Config: ...\ndef recipe(config): ...\n"
Hash = Callable[..., str]


@pytest.fixture
def hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hash]:
    """The hash of `f` in a recipe of this text, beside files of these."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before, number = set(sys.modules), itertools.count()

    def of(text: str, **files: str) -> str:
        for name in set(sys.modules) - before:
            del sys.modules[name]
            _texts.pop(name, None)
        for name, inner in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            _texts.pop(name.replace("__", "."), None)
            path.parent.mkdir(exist_ok=True)
            path.write_text(inner)
        path = tmp_path / f"recipe{next(number)}.py"
        path.write_text(HEAD + text)
        module = recipe_module(str(path))
        found = code_hash(module.f)
        assert code_hash(module.f) == found
        return found

    yield of
    for name in set(sys.modules) - before:
        del sys.modules[name]
        _texts.pop(name, None)


USE = "\ndef f():\n    return "


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        ("LOW = 1" + USE + "LOW", "= 1", "= 2"),
        ("LOW, HIGH = 1, 5" + USE + "LOW", "= 1", "= 2"),
        ("LOW = HIGH = 1" + USE + "HIGH", "= 1", "= 2"),
        ("(LOW := 1)" + USE + "LOW", ":= 1", ":= 2"),
        ("if True:\n    LOW = 1" + USE + "LOW", "= 1", "= 2"),
        ("try:\n    LOW = 1\nexcept OSError:\n    LOW = 3" + USE + "LOW", "= 3", "= 2"),
        ("TABLE = {}\nTABLE['a'] = 1" + USE + "TABLE", "= 1", "= 2"),
        ("TABLE = {}\nTABLE.update(a=1)" + USE + "TABLE", "=1", "=2"),
        ("TABLE = {}\nfor i in range(1): TABLE[i] = 1" + USE + "TABLE", "range(1)", "range(2)"),
        ("LOW = 1\nLOW += 1" + USE + "LOW", "+= 1", "+= 2"),
        ("class A: x = 0\nA.x = 1" + USE + "A.x", "A.x = 1", "A.x = 2"),
        ("from math import floor as g" + USE + "g(1.5)", "floor", "ceil"),
        ("import math as m" + USE + "m.pi", "math", "cmath"),
        ("with open('/dev/null') as file:\n    LOW = 1" + USE + "LOW", "= 1", "= 2"),
        ("def g(by=1): return by" + USE + "g()", "by=1", "by=2"),
        ("async def g(): return 1" + USE + "g()", "return 1", "return 2"),
        ("A = 1\nB = A\nC = B" + USE + "C", "A = 1", "A = 2"),
        ("from helper import low" + USE + "low()", "helper", "other"),
        ("def f():\n    from helper import low\n    return low()", "helper", "other"),
        ("from helper import *" + USE + "low()", "helper", "other"),
    ],
)
def test_a_change_of_what_is_reached_is_seen(text: str, old: str, new: str, hashed: Hash) -> None:
    assert old in text
    files = {"helper": "def low(): return 1\n", "other": "def low(): return 1\n"}
    assert hashed(text, **files) != hashed(text.replace(old, new), **files)


@pytest.mark.parametrize(
    "text",
    [
        "from helper import low" + USE + "low()",
        "import helper" + USE + "helper.low()",
        "from package import helper" + USE + "helper.low()",
        "from package.helper import low" + USE + "low()",
        "import package.helper" + USE + "package.helper.low()",
        "from between import low" + USE + "low()",
        "def f():\n    from late import low\n    return low()",
    ],
)
def test_a_change_of_a_file_of_the_users_own_is_seen(text: str, hashed: Hash) -> None:
    def files(value: int) -> dict[str, str]:
        low = f"def low(): return {value}\n"
        return {
            "helper": low,
            "package__helper": low,
            "between": "from package.helper import low\n",
            "late": "from helper import low\n",
        }

    assert hashed(text, **files(1)) == hashed(text, **files(1)) != hashed(text, **files(2))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("LOW = 1" + USE + "LOW", "LOW = 1  # the least" + USE + "LOW"),
        ("def g(): return 1" + USE + "g()", 'def g():\n    """One."""\n    return 1' + USE + "g()"),
        ("def g(): return 1" + USE + "g()", "OTHER = 2\ndef g(): return 1" + USE + "g()"),
        ("def g(): return 1" + USE + "g()", USE.strip() + " g()\ndef g(): return 1"),
        ("import math" + USE + "math.pi", "import os, math" + USE + "math.pi"),
        (
            "from datakit.stage import Stage as D" + USE + "D",
            "from datakit.recipe import Stage as D" + USE + "D",
        ),
        ("X = 1" + USE + "X", "X = 1\nif __name__ == '__main__':\n    X = 2" + USE + "X"),
        ("from helper import low" + USE + "low()", "from helper import low\nimport spare" + USE + "low()"),
    ],
)
def test_what_changes_nothing_is_not_seen(first: str, second: str, hashed: Hash) -> None:
    files = {"helper": "def low(): return 1\n", "spare": ""}
    assert hashed(first, **files) == hashed(second, **files)


def test_nothing_foreign_is_imported_to_look_at_it(
    hashed: Hash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function that imports torch when it is called does not when its code is asked for."""
    site = tmp_path / "site"
    (site / "heavy").mkdir(parents=True)
    (site / "heavy" / "__init__.py").write_text("LOADED = 1\n")
    (site / "heavy" / "part.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(site))
    text = "def f():\n    import heavy\n    from heavy.part import x\n    return x"
    monkeypatch.setattr(codehash, "_installed", lambda: (site.resolve(),))
    found = hashed(text)
    assert "heavy" not in sys.modules
    (site / "heavy" / "part.py").write_text("x = 2\n")
    assert hashed(text) == found
    monkeypatch.setattr(codehash, "_installed", lambda: ())
    assert hashed(text) != found


def test_what_cannot_be_read_is_said(hashed: Hash) -> None:
    assert hashed("def f():\n    import broken", broken="def (:") != hashed(
        "def f():\n    import broken", broken="def ):"
    )
    assert code_hash(eval("lambda: 1", {"__name__": "nowhere"})) == "no-source"
