"""Images made smaller for a store that trains at one size."""

from __future__ import annotations

import xxhash

from datakit import codec as codecs
from datakit.image import EXTENSIONS, Header, Image, encode
from datakit.image_guard import check_size, format_of, jpeg_channels
from datakit.scaled import orientation
from datakit.stage import Sample, Stage, stage

KEPT = ("PNG", "WEBP")  # formats that stay what they are; all others become JPEG


def resize(*, short_side: int, quality: int = 90, codec: codecs.Codec = "auto") -> Stage[Sample]:
    """The shorter side at `short_side` px, encoded at `quality`; an upright image that is no larger stays as it is.

    Codecs differ in their last bits, so the one that `auto` means here goes into the fingerprint: a machine that lacks
    it makes other steps and never the rest of these. `codec="pillow"` gives equal bytes with and without the extra.
    """
    return resize_by(short_side=short_side, quality=quality, codec=codecs.chosen(codec))


@stage(version=2)
def resize_by(sample: Sample, *, short_side: int, quality: int, codec: codecs.Codec) -> Sample:
    """`resize` with its codec named.

    `changes` gains `resized` (and `bmp->jpg` and the like); `content`, `width`, `height`, `format` and `bytes` are the
    new image's. `mean_rgb` and the perceptual hashes stay those of the original: they are what finds its copies.
    """
    image: Image = sample["image"]
    format, (width, height), turned = _seen(image)
    if min(width, height) <= short_side and turned == 1:
        return sample
    changes = [*sample.get("changes", ()), "resized"]
    if format in KEPT:
        small = codecs.shrunk(image.array, short_side=short_side, codec=codec)
        made = Image(encode(small, format=format, quality=quality))
    else:
        data = image.encoded if format != "SVG" else encode(image.render(short_side), format="PNG")
        made = _jpeg(codecs.resized(data, short_side=short_side, quality=quality, codec=codec))
        if format != "JPEG":
            changes.append(f"{EXTENSIONS[format]}->jpg")
    return sample | {"image": made, "changes": changes} | _described(made)


def _seen(image: Image) -> tuple[str, tuple[int, int], int]:
    """Format, (width, height) in px and orientation: of a JPEG by its head alone, in a tenth of Pillow's time."""
    data = image.encoded
    if format_of(data[:16]) == "JPEG":
        return "JPEG", check_size(data), orientation(data)
    header = image.header
    return header.format, (header.width, header.height), header.orientation


def _jpeg(data: bytes) -> Image:
    """A JPEG of our own making."""
    width, height = check_size(data)
    mode = "L" if jpeg_channels(data) == 1 else "RGB"
    return Image.known(data, Header(format="JPEG", width=width, height=height, mode=mode))


def _described(image: Image) -> Sample:
    header, encoded = image.header, image.encoded
    return {
        "content": xxhash.xxh3_128_hexdigest(encoded),
        "width": header.width,
        "height": header.height,
        "format": header.format,
        "bytes": len(encoded),
    }
