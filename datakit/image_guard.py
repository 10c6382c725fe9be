"""What an encoded image claims, read before any decoder sees it: its size, its chunks, its scans.

A few bytes can ask a decoder for gigabytes or hours: a header of 50,000 x 50,000, a blank picture of 100 megapixels
in 300 bytes, a million chunks of text, a JPEG drawn over by thousands of scans. Each is refused here, in
microseconds, whichever decoder comes after.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError

from datakit.errors import SampleError

SIGNATURES = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"BM": "BMP"}
MAX_PIXELS = 100_000_000  # of one frame; a 50,000 x 50,000 PNG is 40 kB on disk
FREE_PIXELS = 20_000_000  # up to here any number of bytes will do: decoding costs at most 11 bytes a pixel
PIXELS_A_BYTE = 128  # above that; photographs have 1 to 50, a blank JPEG has 170
MAX_ENCODED = 256 << 20  # bytes of an encoded image
MAX_SEGMENTS = 4096  # of a JPEG before its pixels; a colour profile has 255 at most
MAX_PADDING = 1024  # bytes before a marker of a JPEG
MAX_SCANS = 1000  # of a JPEG; encoders write 10
FREE_SCANS = 12
SCAN_PIXELS = 1_000_000_000  # scans x pixels, for a JPEG of more scans than FREE_SCANS
FREE_CHUNKS = 1000  # of a PNG; more only where they have CHUNK_BYTES each
CHUNK_BYTES = 512
MAX_TEXT = 16 << 20  # bytes of a PNG's text chunks; Pillow has them twice in memory

_TEXTS = frozenset((b"tEXt", b"zTXt", b"iTXt"))
_NOT_FRAMES = frozenset((0xC4, 0xC8, 0xCC))  # tables between the markers of frames, C0 to CF
_BARE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a length
_FRAME = Struct(">HHB").unpack_from  # height, width, components
_CHUNK = Struct(">I4s").unpack_from
_PNG_SIZE = Struct(">II").unpack_from
_SMALL = Struct("<HH").unpack_from
_SIGNED = Struct("<ii").unpack_from


def format_of(head: bytes) -> str | None:
    """The format that the first 16 bytes of a file are of, if it is one of ours; SVG is none, being text."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return next((name for start, name in SIGNATURES.items() if head.startswith(start)), None)


def check_size(data: bytes | memoryview) -> tuple[int, int]:
    """(width, height) in px as stored, by the header alone: 3 µs for a JPEG.

    For every decoder of foreign bytes: nothing may be decoded that did not go through here. Raises SampleError:
    `empty`, `too_large` (bytes), `not_an_image`, `too_many_pixels`, `truncated` (no size in it), `undecodable`.
    """
    if not data:
        raise SampleError("empty", "the file has 0 bytes")
    if len(data) > MAX_ENCODED:
        raise SampleError("too_large", f"{len(data)} bytes, {MAX_ENCODED} at most")
    if data[:3] == b"\xff\xd8\xff":
        (width, height), *_ = _jpeg(data)
    else:
        data = bytes(data)
        kind = format_of(data[:16])
        if kind is None:
            raise SampleError("not_an_image", f"starts with {data[:8].hex()}")
        try:
            width, height = _READERS[kind](data)
        except (IndexError, ValueError, StructError) as problem:
            raise SampleError("truncated", f"{kind}: the file ends within its header") from problem
    check_pixels(width, height, len(data))
    return width, height


def check_pixels(width: int, height: int, size: int) -> None:
    """Raise SampleError for a picture that is too large, or too large for its `size` in bytes to be one."""
    pixels = width * height
    if width <= 0 or height <= 0:
        raise SampleError("undecodable", f"a picture of {width} x {height}")
    if pixels > MAX_PIXELS:
        raise SampleError("too_many_pixels", f"{width} x {height}, {MAX_PIXELS} pixels at most")
    if pixels > FREE_PIXELS and pixels > size * PIXELS_A_BYTE:
        raise SampleError("too_many_pixels", f"{width} x {height} out of {size} bytes")


def jpeg_head(data: bytes | memoryview) -> bytes:
    """What stands before the first scan of a JPEG: all that it says of itself. Raises as `check_size`."""
    return bytes(data[: _jpeg(data)[1]])


def jpeg_channels(data: bytes | memoryview) -> int:
    """1 of a grey JPEG, 3 of most others, 4 of CMYK. Raises as `check_size`."""
    return _jpeg(data)[2]


def _jpeg(data: bytes | memoryview) -> tuple[tuple[int, int], int, int]:
    """(width, height), where the first scan begins, and the channels: walks the segments up to there."""
    at, size, frame, parts = 2, (0, 0), 0, 0
    try:
        for _ in range(MAX_SEGMENTS):
            if data[at] != 0xFF:
                raise SampleError("undecodable", f"JPEG: no marker at byte {at}")
            marker = data[at + 1]
            if marker == 0xFF:  # padding
                filled = bytes(data[at : at + MAX_PADDING])
                at += len(filled) - len(filled.lstrip(b"\xff")) - 1
                marker = data[at + 1]
            if marker == 0xDA:
                break
            if marker in (0x00, 0xFF):
                raise SampleError("undecodable", f"JPEG: no marker at byte {at}")
            if marker in _BARE:
                at += 2
                continue
            if 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES:
                height, width, parts = _FRAME(data, at + 5)
                size, frame = (width, height), marker
            at += 2 + (data[at + 2] << 8 | data[at + 3])
        else:
            raise SampleError("undecodable", f"JPEG: more than {MAX_SEGMENTS} segments before its pixels")
        drawn = data[at + 4]
    except (IndexError, StructError) as problem:
        raise SampleError("truncated", "JPEG: the file ends within its header") from problem
    if not frame:
        raise SampleError("undecodable", "JPEG: pixels before their size")
    if frame not in (0xC0, 0xC1) or drawn < parts:  # else the first scan is all of it
        _check_scans(bytes(data), size)
    return size, at, parts


def _check_scans(data: bytes, size: tuple[int, int]) -> None:
    # Within pixels FF is never followed by DA: what is counted beside scans is in thumbnails and texts.
    scans = data.count(b"\xff\xda")
    if scans > FREE_SCANS and (scans > MAX_SCANS or scans * size[0] * size[1] > SCAN_PIXELS):
        raise SampleError("undecodable", f"JPEG: {scans} scans over {size[0]} x {size[1]} pixels")


def _png(data: bytes) -> tuple[int, int]:
    size: tuple[int, int] = _PNG_SIZE(data, 16)
    at, chunks, texts, end = 8, 0, 0, len(data) - 8
    allowed = FREE_CHUNKS + len(data) // CHUNK_BYTES
    while at <= end:
        length, kind = _CHUNK(data, at)
        chunks += 1
        if kind in _TEXTS:
            texts += length
        if chunks > allowed or texts > MAX_TEXT:
            what = f"{texts} bytes of text" if texts > MAX_TEXT else f"more than {allowed} chunks"
            raise SampleError("undecodable", f"PNG: {what}")
        if kind == b"IEND":
            break
        at += 12 + length
    return size


def _gif(data: bytes) -> tuple[int, int]:
    size: tuple[int, int] = _SMALL(data, 6)
    return size


def _bmp(data: bytes) -> tuple[int, int]:
    old = data[14] == 12  # OS/2
    width, height = _SMALL(data, 18) if old else _SIGNED(data, 18)
    return width, abs(height)  # negative: from the top down


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = _SMALL(data, 26)
    return width & 0x3FFF, height & 0x3FFF


_READERS = {"PNG": _png, "GIF": _gif, "BMP": _bmp, "WEBP": _webp}
