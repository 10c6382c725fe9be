"""The stage that makes images smaller: what it changes, what it leaves, and that codecs never mix."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import xxhash
from PIL import Image as pil

from datakit import codec
from datakit.errors import MissingExtra, SampleError
from datakit.image import Image
from datakit.stages.resize import resize


def picture(width: int, height: int, format: str = "JPEG", **options: Any) -> Image:
    ramp = np.linspace(0, 255, width * height * 3).astype(np.uint8).reshape(height, width, 3)
    target = io.BytesIO()
    pil.fromarray(ramp).save(target, format, **options)
    return Image(target.getvalue())


def test_a_large_image_becomes_small_and_its_columns_are_the_new_ones() -> None:
    sample = {
        "__key__": "a",
        "image": picture(400, 300),
        "changes": ["cmyk"],
        "content": "old",
        "phash": "00",
    }
    made = resize(short_side=128)(sample)
    encoded = made["image"].encoded
    assert made["image"].array.shape == (128, 171, 3)
    assert made["changes"] == ["cmyk", "resized"]
    assert made["content"] == xxhash.xxh3_128_hexdigest(encoded)
    assert (made["width"], made["height"], made["bytes"]) == (171, 128, len(encoded))
    assert made["phash"] == "00"
    assert sample["changes"] == ["cmyk"]
    assert resize(short_side=128)(sample)["image"].encoded == encoded


def test_a_small_upright_image_stays_byte_for_byte() -> None:
    sample = {"__key__": "a", "image": picture(90, 128)}
    assert resize(short_side=128)(sample) is sample
    exif = pil.Exif()
    exif[0x0112] = 6
    turned = resize(short_side=128)(sample | {"image": picture(90, 60, exif=exif)})
    assert turned["image"].header.orientation == 1
    assert turned["image"].array.shape == (90, 60, 3)


@pytest.mark.parametrize(
    ("format", "kept", "changes"),
    [("PNG", "PNG", ["resized"]), ("WEBP", "WEBP", ["resized"]), ("BMP", "JPEG", ["resized", "bmp->jpg"])],
)
def test_formats_that_are_published_stay(format: str, kept: str, changes: list[str]) -> None:
    made = resize(short_side=50)({"__key__": "a", "image": picture(200, 100, format)})
    assert made["format"] == made["image"].header.format == kept
    assert made["changes"] == changes
    assert made["image"].array.shape == (50, 100, 3)


def test_a_broken_image_is_an_error_of_the_sample() -> None:
    broken = Image(picture(400, 300).encoded[:-500])
    with pytest.raises(SampleError):
        resize(short_side=64)({"__key__": "a", "image": broken})


def test_a_machine_without_the_codec_plans_other_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    here = resize(short_side=64)
    absent = {"torch"}
    monkeypatch.setattr(codec, "_found", lambda package: package not in absent)
    without_torch = resize(short_side=64)
    with pytest.raises(MissingExtra, match=r"datakit\[torch\]"):
        resize(short_side=64, codec="torch")
    absent.add("simplejpeg")
    there = resize(short_side=64)
    planned = [stage.keywords["codec"] for stage in (here, without_torch, there)]
    assert planned == ["torch", "simplejpeg", "pillow"]
    assert resize(short_side=64, codec="pillow").keywords == there.keywords
    with pytest.raises(MissingExtra, match=r"datakit\[fast\]"):
        resize(short_side=64, codec="simplejpeg")
    with pytest.raises(MissingExtra):  # planned elsewhere, run here
        here({"__key__": "a", "image": picture(400, 300)})


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_what_is_said_of_a_new_jpeg_is_what_a_reader_finds(mode: str) -> None:
    given = io.BytesIO()
    pil.new(mode, (401, 300)).save(given, "JPEG")
    made = resize(short_side=64)({"__key__": "a", "image": Image(given.getvalue())})
    assert made["image"].header == Image(made["image"].encoded).header
    assert (made["width"], made["height"], made["format"]) == (86, 64, "JPEG")
