"""Quality of a reconstruction: equal to scikit-image's figures, and a broken one scores lower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from datakit.errors import ConfigError
from datakit.models.quality import psnr, reconstruction, ssim
from datakit.rng import rng_for


def pictures(count: int = 3, side: int = 24) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Slopes with noise, so that neither measure is at its end."""
    rng = rng_for(0, "quality")
    slopes = np.linspace(0, 200, side)[None, :, None, None] * rng.uniform(0.5, 1, (count, 1, 1, 3))
    return np.clip(slopes + rng.normal(0, 12, (count, side, side, 3)), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Grey:
    """Two codes: a dark and a bright patch of 8 px; `broken` decodes them the wrong way round."""

    broken: bool = False
    name: str = "grey"
    weights: str = ""
    codes: int = 2
    patch: int = 8
    size: int = 0
    codebook: Any = None

    def encode(self, images: Any) -> Any:
        n, h, w, _ = images.shape
        cells = images.reshape(n, h // 8, 8, w // 8, 8, 3).mean(axis=(2, 4, 5))
        return (cells > 127).astype(np.uint16)

    def decode(self, tokens: Any) -> Any:
        shades = np.where((tokens == 1) ^ self.broken, 200, 50).astype(np.uint8)
        return shades.repeat(8, axis=1).repeat(8, axis=2)[..., None].repeat(3, axis=3)


@pytest.mark.parametrize("noise", [2.0, 40.0])
def test_both_measures_are_those_of_scikit_image(noise: float) -> None:
    left = pictures()
    right = np.clip(left + rng_for(1, "noise").normal(0, noise, left.shape), 0, 255).astype(np.uint8)
    for at, (a, b) in enumerate(zip(left, right, strict=True)):
        assert psnr(left, right)[at] == pytest.approx(peak_signal_noise_ratio(a, b), abs=1e-9)
        expected = structural_similarity(a, b, channel_axis=2)
        assert ssim(left, right)[at] == pytest.approx(expected, abs=1e-9)


def test_an_equal_image_is_infinitely_near() -> None:
    same = pictures()
    assert np.isinf(psnr(same, same)).all()
    assert np.allclose(ssim(same, same), 1)


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        (np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 8, 9, 3), np.uint8), "cannot be compared"),
        (np.zeros((1, 8, 8, 3)), np.zeros((1, 8, 8, 3), np.uint8), "left images: images must be uint8"),
        (np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 8, 8), np.uint8), "right images: images must be"),
        (np.zeros((1, 6, 8, 3), np.uint8), np.zeros((1, 6, 8, 3), np.uint8), "8 x 6 are too small"),
    ],
)
def test_images_that_cannot_be_compared_are_refused(left: Any, right: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ssim(left, right)


def test_a_reconstruction_is_measured_with_its_bits() -> None:
    cells = np.array([[[0, 0], [0, 1]], [[1, 1], [1, 0]]], np.uint16)  # halves: one bit a token
    found = reconstruction(Grey(), Grey().decode(cells))
    assert found == {
        "images": 2, "psnr": 100.0, "ssim": 1.0, "codes": 2, "used": 2, "perplexity": 2.0, "bits_token": 1.0,
        "tokens_image": 4, "bits_image": 4.0,
    }  # fmt: skip
    worse = reconstruction(Grey(broken=True), Grey().decode(cells))
    assert worse["psnr"] < 10 and worse["ssim"] < 0.6 and worse["bits_image"] == 4.0
    assert reconstruction(Grey(), Grey().decode(cells[:, :1, :1] * 0))["perplexity"] == 1.0
    with pytest.raises(ConfigError, match="no images"):
        reconstruction(Grey(), np.empty((0, 8, 8, 3), np.uint8))
