"""An image as its file stores it, decoded at the smallest scale that is enough.

A JPEG can be decoded at n/8 of its size (scaled DCT). libjpeg-turbo, simplejpeg's own and Pillow's, has vectorised
code for n = 1, 2, 4, 8, and these are used; the others cost more than the whole. A scaled picture has
ceil(size · n / 8) pixels, so that its last row and column may stand for less than a whole one: places in it are
therefore counted in pixels of the original times n/8. Counting by its own size instead costs up to 10 dB.

The fast path is for JPEGs of 8 bits in YCbCr or grey that decode without a warning; whatever else comes is decoded
by `datakit.image`, which also says what is wrong with it. Both codecs release the interpreter's lock.
"""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from datakit import image as images
from datakit.image_guard import check_size, jpeg_head
from datakit.memory import Scratch

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

Box = tuple[float, float, float, float]  # left, top, right, bottom; shares of the upright image, in [0, 1]

# Decoding a 500x375 takes 0.76, 0.93, 1.04, 0.94, 1.39, 1.59, 1.89, 0.99 ms from 1/8 to 8/8.
EIGHTHS = (1, 2, 4, 8)
MIN_SCALED = 128  # px, of the shorter side: below, nothing is saved, and a size says not which scale made it
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
KEPT_BLOCKS = 4  # of 16 MB at most, which Pillow reuses instead of asking the kernel for fresh pages
_DECODED = Scratch()
# EXIF orientation → how stored pixels become upright: axes swapped first, then mirrored in x, in y.
UPRIGHT = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture decoded at `scale` of `width` × `height` px as stored; `orientation` is still to be applied."""

    source: PIL.Image.Image | Pixels
    width: int
    height: int
    scale: float = 1.0
    orientation: int = 1

    @property
    def picture(self) -> PIL.Image.Image:
        from PIL import Image as pil

        return self.source if isinstance(self.source, pil.Image) else pil.fromarray(self.source)

    @property
    def pixels(self) -> Pixels:
        """(height, width, 3); without a way through Pillow, which costs two copies, where they came as an array."""
        import numpy as np

        if isinstance(self.source, np.ndarray) and self.source.ndim == 3:
            return self.source
        return np.asarray(self.picture.convert("RGB"))


@dataclass(frozen=True, slots=True)
class Facts:
    """What a plain JPEG's header says."""

    width: int
    height: int
    grey: bool
    orientation: int


def draw(
    data: bytes | memoryview,
    part: Box,
    target: tuple[int, int] | None,
    *,
    fast: bool,
    chroma: Literal["smooth", "fast"] = "smooth",
    keep: bool = True,
) -> Drawn:
    """Decoded at the smallest scale at which `part` has `target` px both ways; None: whole.

    fast: by simplejpeg, not Pillow.  keep: False where the pixels are done with before this thread decodes again; then
    their memory is used again.
    """
    _keep_blocks()
    drawn = None
    if images.format_of(bytes(data[:16])) == "JPEG":
        check_size(data)
        drawn = _draw_fast(data, part, target, chroma, keep) if fast else _draw_draft(data, part, target)
    if drawn is None:
        whole = images.decode(bytes(data))
        drawn = Drawn(whole, whole.shape[1], whole.shape[0])
    return drawn


def _draw_fast(
    data: bytes | memoryview, part: Box, target: tuple[int, int] | None, chroma: str, keep: bool
) -> Drawn | None:
    """By simplejpeg; None for what is not its business, or not sound. `fast` chroma, not smoothed where it is enlarged,
    costs nothing in a picture whose chroma is halved again: 4 % faster, and 0.1 dB nearer to Lanczos.
    """
    import simplejpeg

    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if space not in ("YCbCr", "Gray"):
            return None
        facts = Facts(width, height, space == "Gray", orientation(data))
        eighths = _eighths(facts, part, target)
        high, wide = math.ceil(height * eighths / 8), math.ceil(width * eighths / 8)
        least = {"min_height": high, "min_width": wide} if eighths < 8 else {}
        room = None if keep else _DECODED.take(high * wide * (1 if facts.grey else 3))
        # strict: what libjpeg only warns of (data that end early, a marker out of place) raises here.
        space = "GRAY" if facts.grey else "RGB"
        rough = chroma == "fast"
        pixels = simplejpeg.decode_jpeg(data, space, fastupsample=rough, strict=True, buffer=room, **least)
    except ValueError:
        return None
    return Drawn(pixels[:, :, 0] if facts.grey else pixels, width, height, eighths / 8, facts.orientation)


def _draw_draft(data: bytes | memoryview, part: Box, target: tuple[int, int] | None) -> Drawn | None:
    """By Pillow's draft; None for what `datakit.image.decode` must see whole."""
    from PIL import JpegImagePlugin

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture: Any = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
        width, height = picture.size
        if picture.mode not in ("RGB", "L"):
            return None
        facts = Facts(width, height, picture.mode == "L", orientation(data))
        eighths = _eighths(facts, part, target)
        if eighths < 8:
            picture.draft(picture.mode, (width * eighths // 8, height * eighths // 8))
        picture.load()
    except images.BROKEN:
        return None
    return Drawn(picture, width, height, eighths / 8, facts.orientation)


def _eighths(facts: Facts, part: Box, target: tuple[int, int] | None) -> int:
    """The smallest scale at which `part` still has `target` px both ways; 8, the whole, if none."""
    if target is None or min(facts.width, facts.height) < MIN_SCALED:
        return 8
    box = as_stored(part, facts.orientation)
    swapped = UPRIGHT[facts.orientation][0]
    wide, high = target[::-1] if swapped else target
    columns, rows = (box[2] - box[0]) * facts.width, (box[3] - box[1]) * facts.height
    fitting = (n for n in EIGHTHS if columns * n >= 8 * wide and rows * n >= 8 * high)
    return next(fitting, 8)


def as_stored(box: Box, orientation: int) -> Box:
    """The part of the stored image that is `box` of the upright one."""
    swapped, flip_x, flip_y = UPRIGHT[orientation]
    left, top, right, bottom = box
    if flip_x:
        left, right = 1 - right, 1 - left
    if flip_y:
        top, bottom = 1 - bottom, 1 - top
    return (top, left, bottom, right) if swapped else (left, top, right, bottom)


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """Stored pixels, (height, width) and channels if any, upright."""
    import numpy as np

    if orientation == 1:
        return pixels
    swapped, flip_x, flip_y = UPRIGHT[orientation]
    turned = pixels.swapaxes(0, 1) if swapped else pixels
    turned = turned[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
    return np.ascontiguousarray(turned)


def orientation(data: bytes | memoryview) -> int:
    """As `datakit.image` reads it. Most JPEGs carry none, and a look at the head costs 1 % of what Pillow does."""
    head = jpeg_head(data)
    if b"Exif" not in head and b"Orientation" not in head:
        return 1
    return images.Image(data).header.orientation


@cache
def _keep_blocks() -> None:
    """Let Pillow keep freed pixels' memory: fresh pages from the kernel cost as much as decoding a small photo."""
    from PIL import _imaging

    if _imaging.get_blocks_max() < KEPT_BLOCKS:
        _imaging.set_blocks_max(KEPT_BLOCKS)
