"""Clouds of vectors with neighbours worth finding, and indices over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from datakit.index import folder
from datakit.index.make import make_index
from datakit.index.opened import Index, open_index
from datakit.index.spec import Spec

ROWS, DIM = 3000, 48


class Cloud(NamedTuple):
    """Vectors (N, D) whose first axes hold the most, queries like them, and metadata."""

    vectors: np.ndarray[Any, np.dtype[np.float32]]
    queries: np.ndarray[Any, np.dtype[np.float32]]
    meta: pa.Table


@pytest.fixture(scope="session")
def cloud() -> Cloud:
    rng = np.random.default_rng(0)
    scale = (1 / np.sqrt(np.arange(1, DIM + 1))).astype(np.float32)
    centres = rng.standard_normal((150, DIM)) * scale
    drawn = centres[rng.integers(0, 150, ROWS + 200)] + 0.5 * rng.standard_normal((ROWS + 200, DIM)) * scale
    meta = pa.table(
        {
            "key": [f"k{at:05d}" for at in range(ROWS)],
            "draw": rng.random(ROWS),
            "brand": [f"b{at % 7}" for at in range(ROWS)],
        }
    )
    vectors = drawn.astype(np.float32)
    return Cloud(vectors[:ROWS], vectors[ROWS:], meta)


@pytest.fixture
def built(cloud: Cloud, tmp_path: Path) -> Callable[..., Index]:
    def build(spec: Spec, name: str = "toy", **how: Any) -> Index:
        folder.write_files(tmp_path / name, make_index(cloud.vectors, cloud.meta, spec, name=name, **how))
        return open_index(tmp_path / name)

    return build


def recall(index: Index, queries: Any, k: int = 10, **how: Any) -> float:
    """Share of the exact neighbours found."""
    found, exact = (
        index.search(queries, k=k, **how),
        index.search(queries, k=k, exact=True, where=how.get("where", "")),
    )
    pairs = zip(found.rows, exact.rows, strict=True)
    return float(np.mean([len(set(ours) & set(true)) / max(1, (true >= 0).sum()) for ours, true in pairs]))
