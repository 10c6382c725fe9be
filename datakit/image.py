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
from datakit.errors import MissingExtra, SampleError

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

SIGNATURES = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"BM": "BMP"}
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # what Pillow may open; no EPS, FITS, TIFF
EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "SVG": "svg"}
DEEP = ("I", "F")  # Pillow's modes of more than 8 bits begin so
MAX_PIXELS = 100_000_000  # of one frame, before decoding; a 50,000 x 50,000 PNG is 40 kB on disk
SVG_SIDE = 96  # px, where the caller names no size
EXIF_ORIENTATION = 0x0112
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
    frames: int = 1
    orientation: int = 1
    alpha: bool = False
    depth: int = 8  # bits a channel, as stored


class Image:
    """An encoded image, decoded on first use.

    `encoded` bytes as found, `header` from the first bytes, `array` uint8 (height, width, 3) RGB with the EXIF
    orientation applied and transparency laid on white. Raises SampleError with the reason `empty`,
    `missing_file`, `unreadable_file`, `not_an_image`, `too_many_pixels`, `truncated` or `undecodable`.
    """

    def __init__(self, data: bytes | Blob) -> None:
        self._data = data

    @classmethod
    def from_array(cls, image_HWC: Pixels, *, format: str = "PNG", quality: int = 95) -> Image:
        """An image of these pixels, encoded now; PNG keeps them exactly."""
        return cls(encode(image_HWC, format=format, quality=quality))

    @property
    def blob(self) -> Blob | None:
        """Where the bytes lie on disk, if they do."""
        return self._data if isinstance(self._data, Blob) else None

    @cached_property
    def encoded(self) -> bytes:
        data = _read(self._data) if isinstance(self._data, Blob) else self._data
        if not data:
            raise SampleError("empty", "the file has 0 bytes")
        return data

    @cached_property
    def header(self) -> Header:
        if _looks_like_svg(self.encoded):
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
                frames=1 if several else int(getattr(picture, "n_frames", 1)),
                orientation=_orientation(picture),
                alpha=_has_alpha(picture),
                depth=_depth(picture, self.encoded),
            )

    @cached_property
    def array(self) -> Pixels:
        return self.render(SVG_SIDE) if self.header.format == "SVG" else decode(self.encoded)

    def render(self, side: int) -> Pixels:
        """The drawing on white at `side` px along its longer edge; for SVG only."""
        return _render_svg(self.encoded, side)

    def __repr__(self) -> str:
        return f"Image({self._data!r})" if self.blob else f"Image({len(self.encoded)} bytes)"


def format_of(head: bytes) -> str | None:
    """The format that the first 16 bytes of a file are of, if it is one of ours; SVG is none, being text."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return next((name for start, name in SIGNATURES.items() if head.startswith(start)), None)


def decode(data: bytes) -> Pixels:
    """uint8 (height, width, 3) RGB, upright, transparency on white, first frame of an animation."""
    import numpy as np
    from PIL import ImageOps

    with _decoding(), _open(data) as picture:
        picture.load()
        upright = ImageOps.exif_transpose(picture) if _orientation(picture) != 1 else picture
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

    try:
        with warnings.catch_warnings():
            # Pillow warns of what we refuse below with our own limit.
            warnings.simplefilter("ignore")
            picture = pil.open(io.BytesIO(data), formats=FORMATS)
    except pil.DecompressionBombError as problem:
        raise SampleError("too_many_pixels", str(problem)) from problem
    except UnidentifiedImageError as problem:
        raise SampleError("not_an_image", _what_it_is(data)) from problem
    if picture.width * picture.height > MAX_PIXELS:
        raise SampleError("too_many_pixels", f"{picture.width} x {picture.height}")
    return picture


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


def _looks_like_svg(data: bytes) -> bool:
    head = data[:256].lstrip()
    return head.startswith(b"<svg") or (head.startswith(b"<?xml") and b"<svg" in data[:1024])


def _render_svg(data: bytes, side: int) -> Pixels:
    try:
        import resvg_py
    except ImportError as problem:
        raise MissingExtra("drawing SVG", "demo") from problem
    _refuse_references(data)
    try:
        drawn = resvg_py.svg_to_bytes(svg_string=data.decode(), width=side, height=side)
    except (ValueError, UnicodeDecodeError) as problem:
        raise SampleError("undecodable", f"SVG: {problem}") from problem
    return decode(bytes(drawn))


def _refuse_references(data: bytes) -> None:
    """A drawing that would draw other files of this machine into itself is no image of the source."""
    from xml.etree import ElementTree

    try:
        tree = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError) as problem:
        raise SampleError("undecodable", f"SVG: {problem}") from problem
    for element in tree.iter():
        if str(element.tag).rpartition("}")[2] == "a":
            continue  # a link draws nothing
        for name, value in element.attrib.items():
            inside = value.strip().startswith(("#", "data:image/png", "data:image/jpeg", "data:image/webp"))
            if name.rpartition("}")[2] == "href" and value.strip() and not inside:
                raise SampleError("outside_reference", f"SVG: it refers to {value.strip()[:80]!r}")


def _what_it_is(data: bytes) -> str:
    """A word for bytes that are no image: half of all such files are error pages saved as .jpg."""
    head = data[:512].lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<head")):
        return "an HTML page"
    if head.startswith((b"{", b"[")):
        return "JSON text"
    return f"starts with {data[:8].hex()}"
