"""The benchmark of scale: the tasks that its model counts are those that a build has."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

TOOLS = Path(__file__).parent.parent.parent / "tools"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module("bench_scale")


def test_the_model_counts_the_tasks_that_a_build_has(bench: Any, tmp_path: Path) -> None:
    found = bench.measure(360, 20, tmp_path)
    tasks = {name: row["tasks"] for name, row in found["cost"].items()}
    assert sum(tasks[name] for name in tasks if name.startswith("reduce")) == sum(bench.tree(18))
    assert sum(tasks[name] for name in tasks if name.startswith("repartition")) == 3 + 2 * 1
    assert tasks["source"] == tasks["map"] == tasks["annotate"] == found["shards"] == 18
    assert found["published"] == 360 - 4
    assert found["bytes"]["source"] > 360 * 1024 and found["cost"]["source"]["worker"] > 0
    known = bench.constants([found, found | {"samples": 180, "shards": 9}, found], 1e-4)
    assert known.worker > 0 and known.size > 1024 and len(bench.model(known)) == 2 + len(bench.SIZES)
