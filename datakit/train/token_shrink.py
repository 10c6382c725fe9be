"""Pixels in few bytes: the rivals of tokens. Ladders of WebP and JPEG settings, and the best that a budget allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datakit.image import decode, encode, resize

Ints = NDArray[np.int64]
Pixels = NDArray[np.uint8]
Images = Callable[[Ints], list[Pixels]]

CHUNK = 64  # images held decoded at once
SIDES = (256, 192, 160, 128, 112, 96, 80, 64, 56, 48, 40, 32, 24, 16)  # px
WEBP_QUALITY = (
    10  # at a kilobyte a photograph, fewer pixels at this quality beat more at a lower one or at none
)
JPEG_QUALITIES = (90, 75, 60, 50, 40, 30, 25, 20, 15, 10, 7, 5, 3, 1)


@dataclass(frozen=True, kw_only=True)
class Shrunk:
    """How an image is stored: its side in px, its format and that format's quality."""

    side: int  # 0: as framed
    format: str
    quality: int

    @property
    def words(self) -> str:
        size = f"{self.side} px " if self.side else ""
        return f"{size}{self.format} q{self.quality}"

    def encoded(self, image_HWC: Pixels) -> bytes:
        small = resize(image_HWC, side=self.side) if self.side else image_HWC
        return encode(small, format=self.format, quality=self.quality)


def webp_small() -> Shrunk:
    """128 px WebP: about 1.1 kB and 25 dB of a photograph at 256 px, where tokens have 21 to 22 (spec, 3.3)."""
    return Shrunk(side=128, format="WEBP", quality=WEBP_QUALITY)


def webp_ladder() -> list[Shrunk]:
    """The largest first."""
    return [Shrunk(side=side, format="WEBP", quality=WEBP_QUALITY) for side in SIDES]


def jpeg_ladder() -> list[Shrunk]:
    """At full resolution, the best quality first."""
    return [Shrunk(side=0, format="JPEG", quality=quality) for quality in JPEG_QUALITIES]


def best_setting(
    ladder: Sequence[Shrunk], images: Images, order: Ints, allowed: int
) -> tuple[Shrunk, NDArray[np.int64]]:
    """The first setting of the ladder at which all images of `order` fit into `allowed` bytes, with the size of each;
    where none does, the last, of which the first images that fit are kept.

    A sample tells where to look; a setting counts only if all its images, each encoded, fit.
    """
    probe = images(order[:CHUNK])
    for shrunk in ladder[:-1]:
        mean = float(np.mean([len(shrunk.encoded(image)) for image in probe]))
        if mean * len(order) > 1.05 * allowed:
            continue
        sizes = sizes_of(shrunk, images, order)
        if sizes.sum() <= allowed:
            return shrunk, sizes
    return ladder[-1], sizes_of(ladder[-1], images, order)


def sizes_of(shrunk: Shrunk, images: Images, numbers: Ints) -> NDArray[np.int64]:
    """Bytes of each image."""
    found = [
        len(shrunk.encoded(image))
        for begin in range(0, len(numbers), CHUNK)
        for image in images(numbers[begin : begin + CHUNK])
    ]
    return np.asarray(found, np.int64)


def as_stored(images: Images, numbers: Ints, shrunk: Shrunk | None, side: int) -> Pixels:
    """uint8 (n, side, side, 3): what comes back of the stored images, scaled to what the network is trained at."""
    found = np.empty((len(numbers), side, side, 3), np.uint8)
    for begin in range(0, len(numbers), CHUNK):
        for at, image in enumerate(images(numbers[begin : begin + CHUNK])):
            kept = image if shrunk is None else decode(shrunk.encoded(image))
            found[begin + at] = resize(kept, side=side)
    return found
