"""One lazy image, and the only code that decodes or encodes one.

Bytes stay bytes until somebody asks for pixels; an image whose pixels nobody replaced is written as it
was read. Untrusted bytes: only listed formats, the header's size is checked before any decoding,
a truncated file is an error and never a grey half.
"""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from datakit.blob import Blob
from datakit.drawing import looks_like_svg, render_svg
from datakit.errors import SampleError
from datakit.image_guard import MAX_ENCODED, check_pixels
from datakit.image_guard import check_size as check_size
from datakit.image_guard import format_of as format_of

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # what Pillow may open; no EPS, FITS, TIFF
EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "SVG": "svg"}
DEEP = ("I", "F")  # Pillow's modes of more than 8 bits begin so
SVG_SIDE = 96  # px, where the caller names no size
EXIF_ORIENTATION = 0x0112
# Orientation → what Pillow calls the turn that undoes it.
UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
# What its plugins let through when headers lie; found by mutating files.
BROKEN: tuple[type[Exception], ...] = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
)
BROKEN += (MemoryError, struct.error, zlib.error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What an image says of itself before it is decoded. width, height in px as stored (EXIF not applied)."""

    format: str
    width: int
    height: int
    mode: str
    frames: int = 1  # 2 for two or more
    orientation: int = 1
    alpha: bool = False
    depth: int = 8  # bits a channel, as stored


class Image:
    """An encoded image, decoded on first use.

    `encoded` bytes as found, `header` from the first bytes, `array` uint8 (height, width, 3) RGB with the EXIF
    orientation applied and transparency laid on white. Raises SampleError with the reason `empty`,
    `missing_file`, `unreadable_file`, `not_an_image`, `too_large`, `too_many_pixels`, `truncated`, `undecodable`; of a
    drawing also `outside_reference`, `too_complex`.
    """

    def __init__(self, data: bytes | memoryview | Blob) -> None:
        """data: a view is of memory that nobody writes to while the image is there."""
        self._data = data

    @classmethod
    def from_array(cls, image_HWC: Pixels, *, format: str = "PNG", quality: int = 95) -> Image:
        """An image of these pixels, encoded now; PNG keeps them exactly."""
        return cls(encode(image_HWC, format=format, quality=quality))

    @classmethod
    def known(cls, data: bytes, header: Header) -> Image:
        """An image of which the header is known to whoever made it: nobody need read it again."""
        image = cls(data)
        image.__dict__["header"] = header  # where `cached_property` would put it
        return image

    @property
    def blob(self) -> Blob | None:
        """Where the bytes lie on disk, if they do."""
        return self._data if isinstance(self._data, Blob) else None

    @cached_property
    def encoded(self) -> bytes:
        data = self.buffer
        if isinstance(data, memoryview):
            data = self._data = bytes(data)  # lets go of what it was a view of
        return data

    @property
    def buffer(self) -> bytes | memoryview:
        """The same without a copy, where a loader gave a view of what it read."""
        data = _read(self._data) if isinstance(self._data, Blob) else self._data
        if not data:
            raise SampleError("empty", "the file has 0 bytes")
        return data

    @cached_property
    def header(self) -> Header:
        if looks_like_svg(self.encoded):
            return Header(format="SVG", width=SVG_SIDE, height=SVG_SIDE, mode="RGBA")
        with _decoding(), _open(self.encoded) as picture:
            # MPO is what Pillow calls a JPEG with further pictures behind it, as phones write: to every JPEG decoder
            # the first picture and nothing else.
            several = picture.format == "MPO"
            return Header(
                format="JPEG" if several else str(picture.format),
                width=picture.width,
                height=picture.height,
                mode=picture.mode,
                frames=1 if several else _frames(picture),
                orientation=_orientation(picture),
                alpha=_has_alpha(picture),
                depth=_depth(picture, self.encoded),
            )

    @cached_property
    def array(self) -> Pixels:
        return self.render(SVG_SIDE) if self.header.format == "SVG" else decode(self.encoded)

    def render(self, side: int) -> Pixels:
        """The drawing on white at `side` px along its longer edge; for SVG only."""
        return decode(render_svg(self.encoded, side))

    def __repr__(self) -> str:
        return f"Image({self._data!r})" if self.blob else f"Image({len(self.buffer)} bytes)"

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which cannot have a view of this one's memory."""
        data = bytes(self._data) if isinstance(self._data, memoryview) else self._data
        return {**self.__dict__, "_data": data}


def decode(data: bytes) -> Pixels:
    """uint8 (height, width, 3) RGB, upright, transparency on white, first frame of an animation."""
    import numpy as np
    from PIL import Image as pil

    with _decoding(), _open(data) as picture:
        picture.load()
        turn = UPRIGHT.get(_orientation(picture))
        # Not by ImageOps.exif_transpose, which writes the EXIF block anew and so stumbles over a broken one.
        upright = picture if turn is None else picture.transpose(pil.Transpose(turn))
        return np.asarray(_to_rgb(upright))


def encode(image_HWC: Pixels, *, format: str, quality: int = 95) -> bytes:
    """`image_HWC` uint8 (height, width, 3) as JPEG (4:4:4 from quality 90 on), PNG or WEBP bytes."""
    from PIL import Image as pil

    options: dict[str, Any] = {"PNG": {"compress_level": 6}, "WEBP": {"quality": quality}}.get(
        format, {"quality": quality, "subsampling": 0 if quality >= 90 else 2}
    )
    target = io.BytesIO()
    pil.fromarray(image_HWC).save(target, format=format, **options)
    return target.getvalue()


def resize(image_HWC: Pixels, *, side: int, fit: str = "cover") -> Pixels:
    """uint8 (side, side, 3). `cover`: shorter side scaled, centre cropped; `pad`: longer side scaled, on white."""
    import numpy as np
    from PIL import Image as pil
    from PIL import ImageOps

    picture = pil.fromarray(image_HWC)
    if fit == "cover":
        return np.asarray(ImageOps.fit(picture, (side, side), pil.Resampling.BICUBIC))
    padded = ImageOps.pad(picture, (side, side), pil.Resampling.BICUBIC, color=(255, 255, 255))
    return np.asarray(padded)


def _read(blob: Blob) -> bytes:
    if blob.size > MAX_ENCODED:
        raise SampleError("too_large", f"{blob.path}: {blob.size} bytes, {MAX_ENCODED} at most")
    try:
        return blob.read()
    except FileNotFoundError as problem:
        raise SampleError("missing_file", blob.path) from problem
    except EOFError as problem:
        raise SampleError("truncated", str(problem)) from problem
    except OSError as problem:
        raise SampleError("unreadable_file", f"{blob.path}: {problem.strerror}") from problem


@contextlib.contextmanager
def _decoding() -> Iterator[None]:
    """Whatever Pillow's plugins raise over broken bytes, as one SampleError."""
    try:
        yield
    except BROKEN as problem:
        short = "truncated" in str(problem) or "not enough" in str(problem)
        raise SampleError("truncated" if short else "undecodable", str(problem)) from problem


def _open(data: bytes) -> PIL.Image.Image:
    """The picture with only its header read; its size is checked here, before a pixel is decoded."""
    from PIL import Image as pil
    from PIL import UnidentifiedImageError

    if format_of(data[:16]):
        check_size(data)
    try:
        with warnings.catch_warnings():
            # Pillow warns of what we refuse below with our own limit.
            warnings.simplefilter("ignore")
            picture = pil.open(io.BytesIO(data), formats=FORMATS)
    except pil.DecompressionBombError as problem:
        raise SampleError("too_many_pixels", str(problem)) from problem
    except UnidentifiedImageError as problem:
        raise SampleError("not_an_image", _what_it_is(data)) from problem
    check_pixels(
        picture.width, picture.height, len(data)
    )  # a GIF's first frame may be larger than its screen
    return picture


def _frames(picture: PIL.Image.Image) -> int:
    """1 of a still picture, 2 of any other: to count a GIF's frames is to read them all, and there may be millions."""
    return 2 if getattr(picture, "is_animated", False) else 1


def _orientation(picture: PIL.Image.Image) -> int:
    """EXIF orientation 1–8; 1 where the EXIF block itself is broken, since the pixels are not."""
    try:
        value = picture.getexif().get(EXIF_ORIENTATION, 1)
    except BROKEN:
        return 1
    return int(value) if value in range(1, 9) else 1


def _depth(picture: PIL.Image.Image, data: bytes) -> int:
    """Bits a channel. Pillow shows a 16-bit RGB PNG as RGB; its header (IHDR, byte 24 of the file) says better."""
    if picture.format == "PNG" and len(data) > 24:
        return data[24]
    return 16 if picture.mode.startswith(DEEP) else 8


def _has_alpha(picture: PIL.Image.Image) -> bool:
    return picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info


def _to_rgb(picture: PIL.Image.Image) -> PIL.Image.Image:
    import numpy as np
    from PIL import Image as pil

    if picture.mode.startswith(DEEP):
        # 16-bit: Pillow's own conversion clips at 255 instead of scaling.
        deep = np.asarray(picture).astype(np.float64)
        return pil.fromarray((deep / max(deep.max(), 65535.0) * 255 + 0.5).astype(np.uint8)).convert("RGB")
    if _has_alpha(picture):
        drawn = picture.convert("RGBA")
        return pil.alpha_composite(pil.new("RGBA", drawn.size, "white"), drawn).convert("RGB")
    return picture.convert("RGB")


def _what_it_is(data: bytes) -> str:
    """A word for bytes that are no image: half of all such files are error pages saved as .jpg."""
    head = data[:512].lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<head")):
        return "an HTML page"
    if head.startswith((b"{", b"[")):
        return "JSON text"
    return f"starts with {data[:8].hex()}"
