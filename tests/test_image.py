"""Images from outside: each oddity is mended and counted, or refused with one reason."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as pil

from datakit.blob import Blob
from datakit.errors import SampleError
from datakit.image import Image
from datakit.stage import Drop, Ref, Sample
from datakit.stages.image import common_format, intake, shrink


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> pil.Image:
    ramp = np.linspace(0, 255, size[0] * size[1]).reshape(size[1], size[0]).astype(np.uint8)
    return pil.fromarray(np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=2)).convert(mode)


def encoded(image: pil.Image, format: str, **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, format=format, **options)
    return target.getvalue()


def take(data: bytes, format: str = "JPEG", **options: Any) -> Sample:
    result = intake(format=Ref.of(format), **options)({"__key__": "k", "image": Image(data)})
    assert isinstance(result, dict)
    return result


def rotated() -> bytes:
    exif = pil.Exif()
    exif[0x0112] = 6
    return encoded(picture(), "JPEG", exif=exif)


def deep() -> bytes:
    return encoded(pil.fromarray((np.arange(1200).reshape(30, 40) * 50).astype(np.uint16)), "PNG")


def animated() -> bytes:
    return encoded(picture(), "GIF", save_all=True, append_images=[picture("L").convert("RGB")])


def test_an_untouched_image_keeps_its_bytes() -> None:
    data = encoded(picture(), "JPEG", quality=80)
    sample = take(data)
    assert sample["image"].encoded == data and sample["changes"] == []


@pytest.mark.parametrize(
    ("data", "changes", "size"),
    [
        (rotated(), ["exif_rotated"], (30, 40)),
        (encoded(picture("CMYK"), "JPEG"), ["cmyk"], (40, 30)),
        (deep(), ["16bit", "png->jpg"], (40, 30)),
        (animated(), ["animated", "gif->jpg"], (40, 30)),
        (encoded(picture("RGBA"), "PNG"), ["alpha", "png->jpg"], (40, 30)),
        (encoded(picture(), "BMP"), ["bmp->jpg"], (40, 30)),
    ],
)
def test_what_readers_decode_differently_is_encoded_once_and_counted(
    data: bytes, changes: list[str], size: tuple[int, int]
) -> None:
    sample = take(data)
    assert sample["changes"] == changes
    assert (sample["width"], sample["height"]) == size
    header = sample["image"].header
    assert (header.format, header.mode, header.orientation, header.frames) == ("JPEG", "RGB", 1, 1)


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    bright = take(deep(), "PNG")["image"].array
    assert bright.min() == 0 and 200 < bright.max() < 255 and len(np.unique(bright)) > 100


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>not found</html>", "not_an_image"),
        (b'{"error": 404}', "not_an_image"),
        (encoded(picture(size=(400, 300)), "JPEG")[:2000], "truncated"),
        (encoded(picture(size=(400, 300)), "PNG")[:900], "truncated"),
        (encoded(picture(), "TIFF"), "not_an_image"),
    ],
)
def test_broken_bytes_have_one_short_reason(data: bytes, reason: str) -> None:
    with pytest.raises(SampleError) as caught:
        take(data)
    assert caught.value.reason == reason


def test_a_bomb_is_refused_by_its_header() -> None:
    with pytest.raises(SampleError) as caught:
        take(encoded(pil.new("1", (20_000, 20_000)), "PNG"))
    assert caught.value.reason == "too_many_pixels"


def test_a_file_that_is_gone_or_became_shorter_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    with pytest.raises(SampleError, match=r"missing_file.*a\.jpg"):
        _ = Image(Blob(str(path), 0, 10)).encoded
    path.write_bytes(b"short")
    with pytest.raises(SampleError, match="truncated"):
        _ = Image(Blob(str(path), 0, 10)).encoded
    with pytest.raises(SampleError, match="unreadable_file"):
        _ = Image(Blob(str(tmp_path), 0, 10)).encoded


def test_too_small_is_policy() -> None:
    result = intake(format=Ref.of("JPEG"), min_side=64)(
        {"__key__": "k", "image": Image(encoded(picture(), "JPEG"))}
    )
    assert result == Drop("too_small", 30.0, 64.0)


def test_a_drawing_is_rendered_on_white() -> None:
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><rect width="4" height="8" fill="#f00"/></svg>'
    sample = take(svg, "PNG", svg_side=32)
    assert sample["changes"] == ["svg->png"] and sample["image"].array.shape == (32, 32, 3)
    assert tuple(sample["image"].array[16, 4]) == (255, 0, 0) and tuple(sample["image"].array[16, 28]) == (
        255,
        255,
        255,
    )


def test_shrink_pads_on_white_and_keeps_the_proportions() -> None:
    sample = shrink(side=16)({"image": Image(encoded(pil.new("RGB", (40, 20)), "PNG"))})
    small = sample["pixels"].reshape(16, 16, 3)
    assert (small[0] == 255).all() and (small[8] == 0).all()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_mutant_of_an_image_does_worse_than_a_sample_error(data: st.DataObject) -> None:
    source = data.draw(st.sampled_from([rotated(), animated(), deep(), encoded(picture("RGBA"), "WEBP")]))
    mutant = bytearray(source)
    for _ in range(data.draw(st.integers(1, 8))):
        mutant[data.draw(st.integers(0, len(mutant) - 1))] = data.draw(st.integers(0, 255))
    try:
        take(bytes(mutant[: data.draw(st.integers(0, len(mutant)))]))
    except SampleError as problem:
        assert problem.reason.isidentifier()


def test_a_jpeg_with_further_pictures_behind_it_is_a_jpeg(tmp_path: Path) -> None:
    """Phones write them; Pillow calls them MPO."""
    path = tmp_path / "phone.mpo"
    picture().save(path, format="MPO", save_all=True, append_images=[picture("L").convert("RGB")])
    data = path.read_bytes()
    with pil.open(path) as seen:
        assert seen.format == "MPO"
    sample = take(data)
    assert sample["image"].encoded == data and sample["changes"] == [] and sample["format"] == "JPEG"
    assert np.abs(sample["image"].array.astype(int) - np.asarray(picture()).astype(int)).mean() < 8


def deep_rgb() -> bytes:
    """A 16-bit RGB PNG by hand: Pillow writes none."""
    rows = b"".join(b"\0" + bytes(range(24)) for _ in range(4))  # no filter; 4 px of 6 bytes

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_sixteen_bits_of_colour_are_mended_too() -> None:
    sample = take(deep_rgb(), "PNG")
    assert sample["changes"] == ["16bit"] and sample["image"].header.depth == 8


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_eight_bits_or_fewer_are_left_as_they_are(mode: str) -> None:
    data = encoded(picture(mode), "PNG")
    assert take(data, "PNG")["image"].encoded == data


@pytest.mark.parametrize(
    "drawing",
    [
        '<image href="{secret}" width="96" height="96"/>',
        '<image xlink:href="file://{secret}" width="96" height="96"/>',
        '<image hr&#101;f="{secret}" href="&#47;{secret}" width="96" height="96"/>',
        '<use href="other.svg#a"/>',
        '<image href="data:image/svg+xml;base64,AAAA" width="9" height="9"/>',
    ],
)
def test_a_drawing_draws_nothing_from_outside(tmp_path: Path, drawing: str) -> None:
    secret = tmp_path / "secret.png"
    pil.new("RGB", (8, 8), (1, 200, 3)).save(secret)
    space = (
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 96 96"'
    )
    with pytest.raises(SampleError, match=r"outside_reference|undecodable"):
        take(f"<svg {space}>{drawing.format(secret=secret)}</svg>".encode(), "PNG")


def test_a_drawing_may_link_and_refer_to_itself() -> None:
    space = 'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 96 96"'
    body = '<a href="https://example.org/"><rect id="r" width="96" height="96"/></a><use href="#r"/>'
    assert take(f"<svg {space}>{body}</svg>".encode(), "PNG")["width"] == 96


def test_the_published_format_is_told_by_the_bytes(tmp_path: Path) -> None:
    """Images out of shards and tables have names without endings."""
    photograph, drawing = encoded(picture(), "JPEG"), encoded(picture(), "PNG")
    webp = encoded(picture(), "WEBP")
    for found, wanted in [
        ([photograph, drawing], "JPEG"), ([drawing, webp], "PNG"), ([webp, webp, b"<html>"], "WEBP"),
        ([b""], "PNG"),
    ]:  # fmt: skip
        assert common_format()(Named([Image(data) for data in found])) == wanted
    gone = Image(Blob(str(tmp_path / "gone"), 0, 9))
    assert common_format()(Named([gone, Image(photograph)])) == "JPEG"


class Named:
    """Rows of the main pool whose names say nothing."""

    def __init__(self, images: list[Image]) -> None:
        self._images = images

    def table(self, columns: list[str]) -> pa.Table:
        assert columns == ["pool"]
        return pa.table({"pool": ["main"] * len(self._images)})

    def images(self) -> list[Image]:
        return self._images
