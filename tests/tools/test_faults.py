"""Every fault campaign, at a few of its cases; `tools/faults.py` runs them at their full figures."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
NAMES = sorted(path.stem for path in (TOOLS / "fault_cases").glob("f[0-9][0-9]_*.py"))


@pytest.fixture
def cases(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(TOOLS))
    yield importlib.import_module("fault_cases")
    for name in [name for name in sys.modules if name.partition(".")[0] == "fault_cases"]:
        del sys.modules[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_small_draw_of_each_campaign_holds(name: str, cases: ModuleType, tmp_path: Path) -> None:
    module = importlib.import_module(f"fault_cases.{name}")
    said: list[str] = []
    outcome = module.run(module.SUITE, 1, tmp_path, said.append)
    assert outcome.cases >= module.SUITE
    assert not outcome.failures, "\n".join(outcome.failures)
    assert module.CASES >= module.SUITE and module.TITLE and module.WANTED


@pytest.mark.parametrize(("pids", "apart"), [("1122", True), ("11", True), ("1212", False), ("1221", False)])
def test_two_builds_one_after_the_other_are_no_race(
    pids: str, apart: bool, cases: ModuleType, tmp_path: Path
) -> None:
    log = tmp_path / ".datakit" / "logs" / "build.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text("".join(json.dumps({"event": "note", "pid": int(pid)}) + "\n" for pid in pids))
    assert importlib.import_module("fault_cases.f18_races").one_after_the_other(tmp_path) == apart


@pytest.mark.parametrize(
    ("way", "name", "answer", "bad"),
    [
        ("damage", "axes-0.npz", ("ok", "other answers"), True),
        ("damage", "axes-0.npz", ("ok", "sound"), True),
        ("damage", "axes-0.npz", ("refused", "vectors-0.arrow is not as written"), True),
        ("damage", "axes-0.npz", ("refused", "x/axes-0.npz is not as written"), False),
        ("lie", "index.json", ("ok", "other answers"), True),
        ("lie", "index.json", ("ok", "sound"), False),
        ("lie", "index.json", ("escaped", "index.json"), True),
        ("vouch", "lists-0.faiss", ("died", ""), True),
        ("vouch", "lists-0.faiss", ("ok", "other answers"), False),
    ],
)
def test_a_damaged_index_that_answers_otherwise_or_hides_the_file_is_no_success(
    way: str, name: str, answer: tuple[str, str], bad: bool, cases: ModuleType
) -> None:
    module = importlib.import_module("fault_cases.f20_indices")
    said = {"said": answer[0], "reason": "", "detail": answer[1]}
    assert module.wrong(getattr(module, way), name, said, "sound") == bad
