"""What the intake says of an image's pixels."""

from __future__ import annotations

import numpy as np

from datakit.stages.image import _described


def test_the_mean_colour_is_that_of_the_pixels() -> None:
    for height, width in ((1, 1), (7, 300), (301, 2)):
        image_HWC = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
        wanted = image_HWC.reshape(-1, 3).astype(float).mean(axis=0)
        assert np.allclose(_described(b"", image_HWC, "PNG")["mean_rgb"], wanted, atol=0.00501)
