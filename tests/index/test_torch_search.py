"""Exact search by torch finds what faiss finds; a GPU is asked for by name and missed by name."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from datakit.errors import ConfigError, MissingExtra
from datakit.index import exact
from datakit.index.torch_search import OnDevice, device_of

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("some", [False, True])
def test_torch_finds_what_faiss_finds(metric: str, some: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    stored, queries = (rng.standard_normal((n, 24)).astype(np.float32) for n in (700, 30))
    rows = np.flatnonzero(rng.random(700) < 0.2) if some else None
    monkeypatch.setattr("datakit.index.torch_search.ROWS", 100)  # several blocks
    scores, ids = OnDevice(stored, metric, "cpu").nearest(queries, 12, rows)
    expected = exact.nearest(queries, stored, 12, metric, rows)
    assert np.array_equal(ids, expected[1])
    assert np.allclose(scores, expected[0], atol=1e-4)


def test_fewer_rows_than_asked_for_are_filled_up() -> None:
    stored = np.eye(3, 8, dtype=np.float32)
    _, ids = OnDevice(stored, "ip", "cpu").nearest(stored[:1], 5, np.array([0, 2]))
    assert ids.tolist() == [[0, 2, -1, -1, -1]]


def test_a_device_that_is_none_or_not_there_is_told() -> None:
    with pytest.raises(ConfigError, match="take auto, cpu, cuda"):
        device_of("tpu")
    if not torch.cuda.is_available():
        assert device_of("auto") == "cpu"
        with pytest.raises(ConfigError, match="device=cuda cannot be used here"):
            device_of("cuda")


def test_without_torch_a_gpu_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert device_of("auto") == "cpu"
    with pytest.raises(MissingExtra, match=r"datakit\[torch\]"):
        device_of("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_finds_what_the_cpu_finds() -> None:
    rng = np.random.default_rng(0)
    stored, queries = (rng.standard_normal((n, 64)).astype(np.float32) for n in (5000, 50))
    _, ids = OnDevice(stored, "ip", "cuda").nearest(queries, 10)
    assert (ids == exact.nearest(queries, stored, 10, "ip")[1]).mean() > 0.99
