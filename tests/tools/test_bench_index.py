"""The bench of indices measures what it says: recall counts what is found, the cheapest setting is the cheapest."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(TOOLS))
    names = ("bench_index", "index_sets", "index_curves")
    yield importlib.import_module("bench_index")
    for name in names:
        sys.modules.pop(name, None)


def test_a_small_run_prints_its_ratios_and_keeps_its_figures(tmp_path: Path) -> None:
    words = [
        "--rows",
        "3000",
        "--queries",
        "60",
        "--rounds",
        "1",
        "--sets",
        "A",
        "--filters",
        "--out",
        str(tmp_path),
    ]
    run = subprocess.run(
        [sys.executable, str(TOOLS / "bench_index.py"), *words, "--cache", str(tmp_path / "cache")],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    for said in (
        "tuned over IVF at the target",
        "alone, exact over tuned",
        "build over IVF's",
        "draw < 0.01",
    ):
        assert said in run.stdout
    (found,) = json.loads((tmp_path / "bench_index.json").read_text())
    assert found["ways"]["exact"]["points"][0]["recall"] == 1.0
    assert found["ways"]["datakit"]["points"][0]["recall"] >= 0.93
    ours = [one["recall"] for one in found["filters"] if one["way"] == "ours"]
    assert min(ours) >= 0.95


def test_recall_counts_what_is_found_and_nothing_else(bench: ModuleType) -> None:
    found = importlib.import_module("index_sets").synthetic(500, 20, dim=32)
    limits = bench.limits_of(found)
    truth = np.argsort(-(found.queries @ found.rows.T), axis=1)[:, : bench.K]
    assert bench.recall_of(found, truth, limits) == 1.0
    assert bench.recall_of(found, np.where(np.arange(bench.K) < 4, truth, -1), limits) == pytest.approx(0.4)
    assert bench.recall_of(found, np.roll(truth, 1, axis=0), limits) < 0.5


def test_the_cheapest_setting_that_reaches_a_recall_is_taken(bench: ModuleType) -> None:
    points = [{"recall": r, "qps": q} for r, q in ((0.9, 50.0), (0.95, 30.0), (0.96, 40.0), (0.99, 10.0))]
    assert bench.cheapest(points, 0.95)["qps"] == 40.0
    assert bench.cheapest(points, 0.999) is None


def test_texts_of_wordnet_are_read_with_their_lexicographers_file(bench: ModuleType, tmp_path: Path) -> None:
    lines = [
        "  1 a licence",
        '00000001 05 n 02 dog 0 domestic_dog 0 000 | an animal; "the dog barked"',
        "00000002 06 n 01 cup 0 000 | a small container",
    ]
    for part in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{part}").write_text("\n".join(lines if part == "noun" else []) + "\n")
    texts, labels = importlib.import_module("index_sets").wordnet_texts(6, tmp_path)
    assert dict(zip(texts, labels.tolist(), strict=True)) == {
        "an animal": 5, "the dog barked": 5, "a small container": 6, "dog: an animal": 5,
        "domestic dog: an animal": 5, "cup: a small container": 6,
    }  # fmt: skip
    with pytest.raises(SystemExit, match="gives 6 different texts"):
        importlib.import_module("index_sets").wordnet_texts(7, tmp_path)
