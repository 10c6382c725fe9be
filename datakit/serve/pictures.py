"""Pictures of a page: small ones drawn anew by us, whatever came in; nothing of a file but its pixels goes out."""

from __future__ import annotations

from datakit.codec import installed, resized, shrunk
from datakit.image import Image, encode

SIDE = 320  # px, of the shorter side
QUALITY = 90
JPEG = "image/jpeg"


def small(data: bytes) -> bytes:
    """A JPEG of an encoded image of a store. Raises SampleError."""
    # Not torch, which a server would load for its thumbnails alone.
    codec = "pillow" if installed() == "pillow" else "simplejpeg"
    return resized(data, short_side=SIDE, quality=QUALITY, codec=codec)  # type: ignore[arg-type]


def small_of_any(data: bytes) -> bytes:
    """The same of what somebody sent, drawings too. Raises SampleError, MissingExtra."""
    codec = "pillow" if installed() == "pillow" else "simplejpeg"
    return encode(shrunk(Image(data).array, short_side=SIDE, codec=codec), format="JPEG", quality=QUALITY)  # type: ignore[arg-type]
