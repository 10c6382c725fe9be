"""Our formulas for codes against those of the library that a tokenizer is trained with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from datakit.errors import ConfigError
from datakit.models.token_codes import (
    finite_scalars,
    levels_for,
    nearest,
    residual,
    scalar_codebook,
    sign_codebook,
    signs,
)
from datakit.rng import rng_for

pytest.importorskip("vector_quantize_pytorch")

from vector_quantize_pytorch import FSQ, LFQ

from datakit.train.quantizers import Quantizer
from datakit.train.runtime import seeded
from datakit.train.tokenizer_options import TokenizerOptions


def vectors(dim: int, count: int = 512, scale: float = 1.5) -> Any:
    return rng_for(dim, "vectors").normal(0, scale, (count, dim)).astype(np.float32)


def trained(kind: str, dim: int) -> Quantizer:
    """A few steps, so that codes have moved from where they began."""
    options = TokenizerOptions(kind=kind, codes=64, dim=dim, crop=64, patch=8, batch_size=8)  # type: ignore[arg-type]
    with seeded(0, "quantizer"):
        quantizer = Quantizer(options).train()
        for step in range(5):
            quantizer(torch.from_numpy(vectors(dim) + step / 10).reshape(8, 8, 8, dim).permute(0, 3, 1, 2))
    return quantizer.eval()


@pytest.mark.parametrize("kind", ["cosine_vq", "vq", "rvq"])
def test_learned_codes_are_the_librarys(kind: str) -> None:
    quantizer, rows = trained(kind, 6), vectors(6)
    with torch.no_grad():
        coded, found, _ = quantizer(torch.from_numpy(rows).reshape(8, 64, 6).permute(0, 2, 1)[..., None])
    codebook = quantizer.learned()["codebook"]
    if kind == "rvq":
        ours = residual(rows, codebook, 2)
        assert (ours == found.reshape(-1, 2).numpy().T).all()
        back = codebook[ours].sum(axis=0)
    else:
        ours = nearest(rows, codebook, cosine=kind == "cosine_vq")
        assert (ours == found.reshape(-1).numpy()).all()
        back = codebook[ours]
    assert np.allclose(back, coded[..., 0].permute(0, 2, 1).reshape(-1, 6).numpy(), atol=1e-5)
    assert len(np.unique(ours)) > 40


@pytest.mark.parametrize("levels", [(8, 8, 8), (8, 5, 5, 5), (7, 5, 3), (4,), (8, 8, 8, 5, 5, 5)])
def test_finite_scalars_are_the_librarys_and_every_number_comes_back(levels: tuple[int, ...]) -> None:
    library, rows = FSQ(list(levels)), vectors(len(levels), 4096)
    coded, found = library(torch.from_numpy(rows)[None])
    ours, codebook = finite_scalars(rows, levels), scalar_codebook(levels)
    assert (ours == found[0].numpy()).all()
    assert np.array_equal(codebook[ours], coded[0].detach().numpy())
    assert np.array_equal(codebook, library.implicit_codebook.numpy())
    # the middle of every cell falls into it: whole numbers, none lost on the way
    counts = np.asarray(levels)
    half, offset = (counts - 1) * 1.001 / 2, np.where(counts % 2 == 0, 0.5, 0.0)
    inside = np.arctanh(np.clip((codebook * (counts // 2) + offset) / half, -0.9999, 0.9999))
    rows = (inside - np.arctanh(offset / half)).astype(np.float32)
    assert (finite_scalars(rows, levels) == np.arange(len(codebook))).all()


def test_extremes_stay_within_the_levels() -> None:
    far = np.array([[1e9, -1e9, 1e9], [-1e9, 1e9, -1e9]], np.float32)
    assert finite_scalars(far, (8, 5, 3)).tolist() == [7 + 0 + 2 * 40, 0 + 4 * 8 + 0]


def test_signs_are_the_librarys() -> None:
    library, rows = LFQ(dim=7).eval(), vectors(7)
    coded, found, _ = library(torch.from_numpy(rows)[None])
    assert (signs(rows) == found[0].numpy()).all()
    assert np.array_equal(sign_codebook(7)[signs(rows)], coded[0].detach().numpy())
    assert (signs(sign_codebook(7)) == np.arange(128)).all()


def test_the_nearest_is_the_nearest_and_the_first_of_equals() -> None:
    codebook = vectors(3, 40)
    codebook[9] = codebook[4]
    rows = vectors(3, 300)
    apart = np.square(rows[:, None].astype(np.float64) - codebook[None]).sum(axis=2)
    assert (nearest(rows, codebook) == apart.argmin(axis=1)).all()
    assert nearest(codebook[9:10], codebook).tolist() == [4]
    assert nearest(rows[:0], codebook).shape == (0,)


@pytest.mark.parametrize(
    ("codes", "levels"),
    [(512, (8, 8, 8)), (1000, (8, 5, 5, 5)), (240, (8, 6, 5)), (64_000, (8, 8, 8, 5, 5, 5)), (9, (3, 3)), (7, (7,))],
)  # fmt: skip
def test_levels_multiply_to_the_codes(codes: int, levels: tuple[int, ...]) -> None:
    assert levels_for(codes) == levels


def test_codes_that_are_no_product_are_refused() -> None:
    for codes in (2, 11, 22, 514):
        with pytest.raises(ConfigError, match=f"codes={codes} is no product"):
            levels_for(codes)
