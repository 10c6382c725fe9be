"""Images on their way in: made fit to publish, measured, shrunk."""

from __future__ import annotations

from collections import Counter

import numpy as np
import xxhash

from datakit.errors import SampleError
from datakit.image import EXTENSIONS, Header, Image, format_of, resize
from datakit.stage import Drop, Ref, Rows, Sample, reduce, stage
from datakit.stages.phash import phash64

SAFE_MODES = ("L", "RGB", "P", "1")  # modes that every decoder shows alike


def _formats(rows: Rows) -> dict[str, int]:
    """How many images of the main pool are of each format; drawings and broken files are not counted."""
    pools = rows.table(["pool"])["pool"].to_pylist()
    found = (_format(image) for image, pool in zip(rows.images(), pools, strict=True) if pool == "main")
    return dict(Counter(format for format in found if format))


def _sum(counts: list[dict[str, int]]) -> dict[str, int]:
    return dict(sum((Counter(one) for one in counts), Counter[str]()))


@reduce(version=3, partial=_formats, merge=_sum)
def common_format(formats: dict[str, int]) -> str:
    """The format to publish in: JPEG if any image of the main pool is one, WEBP if all are, else PNG.

    By the first bytes: images out of shards and tables have names without endings. One member name for every
    sample is what all readers need; a photograph is not blown up to PNG for the sake of a few drawings among
    thousands.
    """
    if "JPEG" in formats:
        return "JPEG"
    return "WEBP" if list(formats) == ["WEBP"] else "PNG"


def _format(image: Image) -> str | None:
    try:
        return format_of(image.blob.head(16) if image.blob else image.encoded[:16])
    except (OSError, SampleError):
        return None  # the intake counts it as missing, unreadable or empty


@stage(version=2)
def intake(
    sample: Sample, *, format: Ref[str], quality: int = 95, svg_side: int = 96, min_side: int = 1
) -> Sample | Drop:
    """An image that every reader decodes alike, or the reason why not.

    Left byte for byte as found if it is of the published `format`, upright, of at most 8 bits a channel, still,
    opaque, and RGB, grey, bilevel or with a palette.
    Otherwise decoded and encoded once (JPEG and WEBP at `quality`), with what was done in `changes`: `exif_rotated`
    (readers disagree on applying the tag), `cmyk`, `16bit`, `animated` (first frame), `alpha` (on white),
    `png->jpg` and the like. Drawings (SVG) are rendered at `svg_side` px on white. SampleError: `empty`,
    `missing_file`, `not_an_image`, `outside_reference` (SVG), `truncated`, `undecodable`,
    `too_many_pixels`. Drop: `too_small` in px.
    """
    image: Image = sample["image"]
    changes = _changes(image.header, format.value)
    pixels = image.render(svg_side) if image.header.format == "SVG" else image.array
    short_side = min(pixels.shape[:2])
    if short_side < min_side:
        return Drop("too_small", float(short_side), float(min_side))
    if changes:
        image = Image.from_array(pixels, format=format.value, quality=quality)
    # Measured here, where the pixels are at hand: a second decoding costs as much as all the rest.
    return (
        sample | {"image": image, "changes": changes} | _described(image.encoded, pixels, image.header.format)
    )


def _changes(header: Header, format: str) -> list[str]:
    reasons = {
        "exif_rotated": header.orientation != 1,
        "cmyk": header.mode == "CMYK",
        "16bit": header.depth > 8,
        "animated": header.frames > 1,
        "alpha": header.alpha,
        f"{EXTENSIONS[header.format]}->{EXTENSIONS[format]}": header.format != format,
    }
    found = [reason for reason, holds in reasons.items() if holds]
    return found or ([] if header.mode in SAFE_MODES else [f"mode_{header.mode.lower()}"])


def _described(
    encoded: bytes, image_HWC: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], format: str
) -> Sample:
    height, width = image_HWC.shape[:2]
    upright, flipped = phash64(image_HWC)
    # Row by row in integers: the same numbers as a mean over the pixels, in a twentieth of its time.
    total_C = image_HWC.sum(axis=0, dtype=np.uint64).sum(axis=0)
    return {
        "content": xxhash.xxh3_128_hexdigest(encoded),
        "width": width,
        "height": height,
        "format": format,
        "bytes": len(encoded),
        "mean_rgb": [round(float(value), 2) for value in total_C / (height * width)],
        "phash": f"{upright:016x}",
        "phash_flip": f"{flipped:016x}",
    }


@stage(version=1)
def shrink(sample: Sample, *, side: int, fit: str = "pad") -> Sample:
    """`pixels`: uint8 (side · side · 3,) of the image at `side` px, for small loops and contact sheets."""
    return sample | {"pixels": resize(sample["image"].array, side=side, fit=fit).reshape(-1)}
