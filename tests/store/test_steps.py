"""Steps on disk: what their manifests do not name is not theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

import datakit
from datakit.store.rows import read_table, write_table
from datakit.store.steps import OUTCOMES

TOY = str(Path(__file__).parent.parent / "toy_recipe.py")


def outcomes(out: Path) -> dict[str, Any]:
    made = datakit.build(TOY, out=out, run={"inline": True}, progress="quiet")
    found: dict[str, Any] = json.loads((made.out / "provenance.json").read_bytes())["outcomes"]
    return found


def test_outcomes_that_a_killed_attempt_left_are_not_counted(tmp_path: Path) -> None:
    before = outcomes(tmp_path)
    maps = [path for path in tmp_path.glob(".datakit/steps/*/00000.json") if "map:" in path.read_text()]
    assert maps
    for manifest in maps:
        # As a kill leaves it: samples had failed, and no manifest; the samples are readable again by now.
        keys = read_table(manifest.with_suffix(".arrow"))["__key__"].to_pylist()[:2]
        rows = [{"__key__": key, "name": key, "outcome": "failed", "reason": "missing_file"} for key in keys]
        write_table(manifest.with_suffix(".outcomes.arrow"), pa.Table.from_pylist(rows, OUTCOMES))
        manifest.unlink()
    (tmp_path / "manifest.json").unlink()
    assert outcomes(tmp_path) == before
