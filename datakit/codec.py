"""Images decoded at the size that is needed, and made smaller, by the fastest codec installed.

What is left to do after a decoding at the smallest scale that is enough (`datakit.scaled`) is done by antialiased
filters, Pillow's or torch's.

CPU ms and mean / lowest PSNR against whole decode + Lanczos, shorter side 256, quality 90 (40 photographs of 500x375 at
91 kB; 6 mosaics of 2000x1500 at 516 kB; the best of 7 on a busy machine):

                               500x375              2000x1500
    Pillow, whole, bicubic   4.7  37.5 / 34.1    37.8  32.1 / 31.3
    Pillow's draft, hamming  3.5  36.8 / 32.7     8.4  30.9 / 30.0    where simplejpeg is not
    simplejpeg, box          2.6  35.4 / 29.6     7.6  29.0 / 28.0
    simplejpeg, hamming      3.0  36.9 / 32.8     7.8  30.9 / 30.0    where torch is not
    simplejpeg, bicubic      3.9  37.6 / 34.2     8.6  31.7 / 30.8
    torch, bilinear          1.7  36.0 / 31.2     6.5  30.4 / 29.5
    torch, bicubic           1.8  37.6 / 34.2     6.5  31.7 / 30.8    the default; loading torch costs 2 s a worker
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Literal

from datakit.errors import MissingExtra
from datakit.memory import Scratch
from datakit.scaled import WHOLE, Box, Drawn, as_stored, draw, turned

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

Filter = Literal["box", "bilinear", "hamming", "bicubic", "lanczos"]
# torch: simplejpeg, and torch's filters to make JPEGs smaller
Chosen = Literal["pillow", "simplejpeg", "torch"]
Codec = Literal["auto", "pillow", "simplejpeg", "torch"]
# Of (height, width, 3) to the size of another (side, side, 3), antialiased; never kept, for its memory is used again.
Resize = Callable[["Pixels", "Pixels"], object]

FRESH_QUALITY = 90
_SCALED = Scratch()


def installed() -> Chosen:
    """The codec that `auto` means on this machine."""
    if not _found("simplejpeg"):
        return "pillow"
    return "torch" if _found("torch") else "simplejpeg"


def chosen(codec: Codec) -> Chosen:
    """The codec of that name. Raises MissingExtra where it is not installed."""
    if codec == "auto":
        return installed()
    if codec != "pillow" and not _found("simplejpeg"):
        raise MissingExtra("decoding with simplejpeg", "fast")
    if codec == "torch" and not _found("torch"):
        raise MissingExtra("torch's filters", "torch")
    return codec


def decode_rgb(data: bytes | memoryview, *, short_side: int | None = None, codec: Codec = "auto") -> Pixels:
    """uint8 (height, width, 3) RGB, upright, transparency on white; whole, or at the smallest scale that the codec
    knows whose shorter side is still at least `short_side` px. Raises SampleError as `datakit.image.decode`.
    """
    drawn = draw(
        data, WHOLE, (short_side, short_side) if short_side else None, fast=chosen(codec) != "pillow"
    )
    return turned(drawn.pixels, drawn.orientation)


def cover(
    data: bytes | memoryview,
    side: int,
    *,
    box: Box | None = None,
    filter: Filter = "bilinear",
    codec: Codec = "auto",
    resize: Resize | None = None,
    out: Pixels | None = None,
) -> Pixels:
    """uint8 (side, side, 3): the part `box` of the upright image, or its centre square, scaled to `side` px.

    Decoded at the smallest scale at which that part has `side` px both ways. PSNR against the whole decode and the
    same filter, mean over photographs: 43 dB and more; 52 dB where that scale leaves twice the size. Raises
    SampleError as `datakit.image.decode`, ValueError over a box that is none.

    resize: another's, in place of Pillow's `filter`; it is given the part in whole pixels, so it may be off by half of
    one.  out: where the pixels go, which is also what is returned.
    """
    import numpy as np

    if box is not None and not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise ValueError(f"box {box}: left < right and top < bottom, all in [0, 1]")
    # The centre square is as high or as wide as the whole: the same scale serves it.
    drawn = draw(data, box or WHOLE, (side, side), fast=chosen(codec) != "pillow", keep=False)
    stored = as_stored(box, drawn.orientation) if box else _centre(drawn.width, drawn.height)
    if resize is not None:
        found = np.empty((side, side, 3), np.uint8) if out is None or drawn.orientation != 1 else out
        resize(_cut(drawn, stored), found)
    else:
        found = np.asarray(_resized(drawn, stored, (side, side), filter).convert("RGB"))
    found = turned(found, drawn.orientation)
    if out is None or found is out:
        return found
    out[...] = found
    return out


def resized(
    data: bytes | memoryview,
    *,
    short_side: int,
    quality: int = FRESH_QUALITY,
    never_enlarge: bool = True,
    filter: Filter | None = None,
    codec: Codec = "auto",
) -> bytes:
    """A JPEG of the upright image with its shorter side at `short_side` px, or at its own where that is less and
    `never_enlarge`; grey stays grey. Same data, same libraries, same kind of processor: same bytes. Raises SampleError
    as `datakit.image.decode`.

    filter: None for the codec's own: `bicubic` of torch's, `hamming` of Pillow's.
    """
    codec = chosen(codec)
    drawn = draw(data, WHOLE, (short_side, short_side), fast=codec != "pillow", chroma="fast", keep=False)
    pixels = _smaller(drawn, _target(drawn, short_side, never_enlarge), filter, codec, keep=False)
    return _encoded(turned(pixels, drawn.orientation), quality, codec)


def shrunk(
    image_HWC: Pixels, *, short_side: int, filter: Filter | None = None, codec: Codec = "auto"
) -> Pixels:
    """Decoded pixels with the shorter side at `short_side` px, or at its own where that is less; as `resized`."""
    drawn = Drawn(image_HWC, image_HWC.shape[1], image_HWC.shape[0])
    return _smaller(drawn, _target(drawn, short_side, True), filter, chosen(codec), keep=True)[:, :, :3]


def _smaller(
    drawn: Drawn, size: tuple[int, int], filter: Filter | None, codec: Chosen, *, keep: bool
) -> Pixels:
    """(height, width), or with 3 channels, or with a fourth that says nothing; `size` is width first."""
    import numpy as np

    if codec == "torch" and filter in (None, "bilinear", "bicubic"):
        return _by_torch(drawn, size, bilinear=filter == "bilinear", keep=keep)
    picture = _resized(drawn, WHOLE, size, filter or "hamming")
    return np.asarray(picture) if codec == "pillow" else _lent(picture)


def _by_torch(drawn: Drawn, size: tuple[int, int], *, bilinear: bool, keep: bool) -> Pixels:
    """By torch's antialiased filters of 8 bits, which are vectorised: a sixth of the time of Pillow's."""
    import numpy as np
    import torch

    source = drawn.source if isinstance(drawn.source, np.ndarray) else np.asarray(drawn.source)
    wide, high = size
    if source.shape[:2] == (high, wide):
        return source
    shape = (high, wide, *source.shape[2:])
    room = None if keep else _SCALED.take(math.prod(shape))
    out = (
        np.empty(shape, np.uint8)
        if room is None
        else np.frombuffer(room, np.uint8, math.prod(shape)).reshape(shape)
    )
    given, found = (
        # Channels that lie together are what the vectorised kernel takes.
        torch.from_numpy(pixels[:, :, None] if pixels.ndim == 2 else pixels).permute(2, 0, 1)[None]
        for pixels in (np.require(source, requirements=["C", "W"]), out)
    )
    # What `interpolate` calls, which has no way to say where the result goes, nor that the last pixels are parts.
    across, down = drawn.width * drawn.scale, drawn.height * drawn.scale
    aten = torch.ops.aten
    scale = aten._upsample_bilinear2d_aa if bilinear else aten._upsample_bicubic2d_aa
    scale.out(given, [high, wide], False, high / down, wide / across, out=found)
    return out


def _target(drawn: Drawn, short_side: int, never_enlarge: bool) -> tuple[int, int]:
    """Width and height in px, as stored, with the shorter at `short_side`."""
    factor = short_side / min(drawn.width, drawn.height)
    factor = min(factor, 1.0) if never_enlarge else factor
    return max(1, round(drawn.width * factor)), max(1, round(drawn.height * factor))


def _resized(drawn: Drawn, part: Box, size: tuple[int, int], filter: Filter) -> PIL.Image.Image:
    from PIL import Image as pil

    picture = drawn.picture  # made here, of pixels: once
    wide, high = picture.size
    across, down = drawn.width * drawn.scale, drawn.height * drawn.scale
    box = (part[0] * across, part[1] * down, min(part[2] * across, wide), min(part[3] * down, high))
    if size == (wide, high) and box == (0, 0, wide, high):
        return picture
    return picture.resize(size, pil.Resampling[filter.upper()], box=box)


def _cut(drawn: Drawn, part: Box) -> Pixels:
    """A part in whole pixels of the scaled picture, at least one of them."""
    pixels = drawn.pixels
    high, wide = pixels.shape[:2]
    across, down = drawn.width * drawn.scale, drawn.height * drawn.scale
    left, top = min(int(part[0] * across + 0.5), wide - 1), min(int(part[1] * down + 0.5), high - 1)
    right, bottom = round(part[2] * across), round(part[3] * down)
    return pixels[top : max(top + 1, bottom), left : max(left + 1, right)]


def _centre(width: int, height: int) -> Box:
    """The largest square in the middle."""
    short = min(width, height)
    left, top = (width - short) / 2 / width, (height - short) / 2 / height
    return left, top, 1 - left, 1 - top


def _lent(picture: PIL.Image.Image) -> Pixels:
    """Pixels of an RGB picture where Pillow has them, four bytes each of which the last says nothing: (height, width,
    4). Its own way to an array makes three copies of them. Everything else, and with a Pillow below 11.3, as an array.
    """
    import numpy as np
    import pyarrow as pa

    if picture.mode != "RGB" or not hasattr(picture, "__arrow_c_array__"):
        return np.asarray(picture)
    try:
        found = pa.array(picture)
    except ValueError:  # in several blocks: of 16 MB and more
        return np.asarray(picture)
    pixels = np.frombuffer(found.values.buffers()[1], np.uint8, 4 * found.offset + 4 * len(found))
    return pixels[4 * found.offset :].reshape(picture.height, picture.width, 4)


def _encoded(pixels: Pixels, quality: int, codec: Chosen) -> bytes:
    """JPEG bytes, chroma at half the size as every camera and library does by default."""
    import numpy as np
    from PIL import Image as pil

    if codec != "pillow":
        import simplejpeg

        grey = pixels.ndim == 2
        rows = np.ascontiguousarray(pixels[:, :, None] if grey else pixels)
        space, sampling = ("GRAY", "Gray") if grey else ("RGBX"[: rows.shape[2]], "420")
        return bytes(simplejpeg.encode_jpeg(rows, quality, space, sampling))
    target = io.BytesIO()
    pil.fromarray(pixels).save(target, format="JPEG", quality=quality, subsampling=2)
    return target.getvalue()


@cache
def _found(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None
