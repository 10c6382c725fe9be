"""TokenAdapt's two files: they come back as they were, over their own codebook alone, and damage is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from datakit.errors import ConfigError  # noqa: E402
from datakit.train.token_adapt import AdaptOptions, TokenAdapt, fit_token_adapt  # noqa: E402
from datakit.train.token_adapt_files import ABOUT, TENSORS, adapt_files, adapt_of_folder  # noqa: E402

OPTIONS = AdaptOptions(width=16, heads=2, steps=2)
CODEBOOK = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
GRIDS = np.random.default_rng(1).integers(0, 12, (6, 8, 8)).astype(np.uint16)


@pytest.fixture
def model() -> TokenAdapt:
    return fit_token_adapt(GRIDS, CODEBOOK, options=OPTIONS, seed=0)


@pytest.fixture
def folder(model: TokenAdapt, tmp_path: Path) -> Path:
    for name, data in adapt_files(model, CODEBOOK, OPTIONS, {"images": 6}).items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_it_comes_back_as_it_was(model: TokenAdapt, folder: Path) -> None:
    again, ids = adapt_of_folder(folder, CODEBOOK), torch.from_numpy(GRIDS.astype(np.int64))
    assert torch.equal(again.f_inv(again.f(ids)), model.f_inv(model.f(ids)))
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert adapt_files(again, CODEBOOK, OPTIONS, {"images": 6})[TENSORS] == (folder / TENSORS).read_bytes()


def damaged(folder: Path) -> None:
    data = bytearray((folder / TENSORS).read_bytes())
    data[-5] ^= 4
    (folder / TENSORS).write_bytes(data)


def told_otherwise(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        told = json.loads((folder / ABOUT).read_text())
        (folder / ABOUT).write_text(json.dumps(told | changes))

    return change


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (damaged, "not the file that"),
        (lambda folder: (folder / TENSORS).unlink(), "cannot read"),
        (lambda folder: (folder / ABOUT).write_text("{"), "is no JSON"),
        (told_otherwise(format="other"), "not the description"),
        (told_otherwise(version=99), "not the description"),
        (told_otherwise(options={"width": 16, "depth": 3}), "no TokenAdapt is made"),
        (told_otherwise(options={"width": 32, "heads": 2}), "size mismatch"),
        (told_otherwise(grid="large"), "no TokenAdapt is made"),
        (told_otherwise(grid=10**7), "no TokenAdapt is made"),
        (told_otherwise(options={"width": 10**9, "heads": 2}), "up to 4096"),
        (told_otherwise(options={"width": 18, "heads": 2}), "a multiple of 4"),
        (told_otherwise(options={"width": "wide"}), "whole numbers"),
    ],
)
def test_what_is_damaged_is_told(broken: Callable[[Path], None], said: str, folder: Path) -> None:
    broken(folder)
    with pytest.raises(ConfigError, match=said):
        adapt_of_folder(folder, CODEBOOK)


def test_another_codebook_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="another codebook"):
        adapt_of_folder(folder, CODEBOOK[::-1].copy())


def test_codes_that_no_packed_id_stands_for_teach_nothing() -> None:
    """Some of the answers are -1, or all of a batch: training goes on, as if those places were not there."""
    rng = np.random.default_rng(0)

    def tokens_of(numbers: np.ndarray, affine: np.ndarray) -> np.ndarray:
        found = GRIDS[numbers].astype(np.int64)
        return np.where(rng.random(found.shape) < rng.choice([0.5, 1.0]), -1, found)

    options = AdaptOptions(width=16, heads=2, steps=20, identity=0.0)
    model = fit_token_adapt(GRIDS, CODEBOOK, tokens_of=tokens_of, options=options, seed=0)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
