"""The 64-bit perceptual hash of an image and of its mirror image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIDE = 32  # px the image is shrunk to
LOW = 8  # lowest frequencies kept along each axis: 8 x 8 = 64 bits

_k, _n = np.arange(LOW)[:, None], np.arange(SIDE)[None, :]
DCT = 2 * np.cos(np.pi * _k * (2 * _n + 1) / (2 * SIDE))  # type II, unnormalised, lowest rows
MIRROR = np.where(np.arange(LOW) % 2, -1.0, 1.0)  # a mirrored image has its odd columns negated


def phash64(image_HWC: NDArray[np.uint8]) -> tuple[int, int]:
    """(hash, hash of the left-right mirrored image), each below 2**64; write as f"{hash:016x}".

    image_HWC: uint8 (height, width, 3). Grey, shrunk to 32 x 32, cosine transform, bits above the median of
    the 8 x 8 lowest frequencies (Krawetz's pHash, with ImageHash's bit order). The mirror costs no second
    transform, so it can be searched for always: to the plain hash a mirror image is a stranger.
    """
    from PIL import Image

    grey = Image.fromarray(image_HWC).convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    low = DCT @ np.asarray(grey, dtype=np.float64) @ DCT.T
    return _bits(low), _bits(low * MIRROR)


def _bits(low: NDArray[np.float64]) -> int:
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")
