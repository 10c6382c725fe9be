from __future__ import annotations

from typing import Any

import imagehash
import numpy as np
import pytest
from PIL import Image as pil

from datakit.image import decode, encode
from datakit.rng import rng_for
from datakit.stages.phash import phash64

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def picture(seed: int, width: int = 120, height: int = 90) -> Pixels:
    grid = rng_for(seed, "picture").integers(0, 256, (9, 12, 3)).astype(np.uint8)
    return np.asarray(pil.fromarray(grid).resize((width, height), pil.Resampling.BICUBIC))


def apart(one: int, other: int) -> int:
    return (one ^ other).bit_count()


@pytest.mark.parametrize("seed", range(12))
def test_it_equals_imagehash_within_four_bits(seed: int) -> None:
    image = picture(seed, width=100 + 13 * seed)
    upright, flipped = phash64(image)
    assert apart(upright, int(str(imagehash.phash(pil.fromarray(image))), 16)) <= 4
    mirror = pil.fromarray(np.ascontiguousarray(image[:, ::-1]))
    assert apart(flipped, int(str(imagehash.phash(mirror)), 16)) <= 4


@pytest.mark.parametrize("seed", range(6))
def test_a_copy_stays_within_six_bits_and_a_mirror_image_needs_the_flipped_hash(seed: int) -> None:
    image = picture(seed)
    upright, flipped = phash64(image)
    copies = [
        decode(encode(image, format="JPEG", quality=50)),
        np.asarray(pil.fromarray(image).resize((60, 45))),
        np.clip(image.astype(int) + 20, 0, 255).astype(np.uint8),
    ]
    assert max(apart(upright, phash64(copy)[0]) for copy in copies) <= 6
    mirror = phash64(np.ascontiguousarray(image[:, ::-1]))
    assert apart(upright, mirror[0]) > 6
    assert apart(flipped, mirror[0]) <= 4 and apart(upright, mirror[1]) <= 4


def test_different_pictures_are_far_apart() -> None:
    words = [phash64(picture(seed))[0] for seed in range(20)]
    assert min(apart(a, b) for i, a in enumerate(words) for b in words[:i]) > 10


def test_edge_cases_are_hashed_too() -> None:
    for shape in ((1, 1, 3), (1, 500, 3), (7, 2, 3)):
        assert 0 <= phash64(np.full(shape, 200, np.uint8))[0] < 2**64
