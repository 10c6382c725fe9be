"""Images made smaller for a store that trains at one size."""

from __future__ import annotations

import xxhash

from datakit import codec as codecs
from datakit.image import EXTENSIONS, Image, encode
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
    header = image.header
    if min(header.width, header.height) <= short_side and header.orientation == 1:
        return sample
    changes = [*sample.get("changes", ()), "resized"]
    if header.format in KEPT:
        small = codecs.shrunk(image.array, short_side=short_side, codec=codec)
        made = Image(encode(small, format=header.format, quality=quality))
    else:
        data = image.encoded if header.format != "SVG" else encode(image.render(short_side), format="PNG")
        made = Image(codecs.resized(data, short_side=short_side, quality=quality, codec=codec))
        if header.format != "JPEG":
            changes.append(f"{EXTENSIONS[header.format]}->jpg")
    return sample | {"image": made, "changes": changes} | _described(made)


def _described(image: Image) -> Sample:
    header, encoded = image.header, image.encoded
    return {
        "content": xxhash.xxh3_128_hexdigest(encoded),
        "width": header.width,
        "height": header.height,
        "format": header.format,
        "bytes": len(encoded),
    }
