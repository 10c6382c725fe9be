"""What an image claims is checked before a decoder sees it; what a drawing would draw, before it is drawn."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image as pil

from datakit import image_guard
from datakit.blob import Blob
from datakit.drawing import looks_like_svg
from datakit.errors import SampleError
from datakit.image import Image, check_size

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8">{}</svg>'


def encoded(kind: str, size: tuple[int, int] = (70, 40), **options: Any) -> bytes:
    target = io.BytesIO()
    pil.new("RGB", size, "red").save(target, kind, **options)
    return target.getvalue()


def reason(data: bytes) -> str:
    with pytest.raises(SampleError) as caught:
        _ = Image(data).array
    return caught.value.reason


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True, "exif": b"Exif\0\0" + bytes(60_000), "icc_profile": bytes(200_000)}),
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0" + bytes(30)}),
    ],
)
def test_the_size_is_read_without_a_decoder(kind: str, options: dict[str, Any]) -> None:
    assert check_size(encoded(kind, **options)) == (70, 40)


def test_every_cut_of_an_image_has_a_size_or_a_reason() -> None:
    for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP"):
        data = encoded(kind)
        for end in range(0, 200):
            try:
                assert check_size(data[:end]) == (70, 40)
            except SampleError as problem:
                assert problem.reason.isidentifier()


def test_large_pictures_need_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    blank = encoded("PNG", (300, 200))
    assert check_size(blank) == (300, 200)
    monkeypatch.setattr(image_guard, "FREE_PIXELS", 50_000)
    monkeypatch.setattr(image_guard, "PIXELS_A_BYTE", 300 * 200 / len(blank) - 1)
    assert reason(blank) == "too_many_pixels"
    monkeypatch.setattr(image_guard, "PIXELS_A_BYTE", 300 * 200 / len(blank) + 1)
    assert check_size(blank) == (300, 200)


def test_scans_chunks_and_segments_are_counted() -> None:
    data = encoded("JPEG", (800, 800), progressive=True)
    last = data.rindex(b"\xff\xda")
    assert reason(data[:-2] + data[last:-2] * 2000 + data[-2:]) == "undecodable"
    assert reason(data[:2] + b"\xff\xfe\0\2" * 5000 + data[2:]) == "undecodable"
    assert reason(data[:2] + b"\xff" * 5000 + data[2:]) == "undecodable"
    chunk = struct.pack(">I", 3) + b"tEXta\0b" + struct.pack(">I", zlib.crc32(b"tEXta\0b"))
    png = encoded("PNG")
    assert check_size(png[:33] + chunk * 900 + png[33:]) == (70, 40)
    assert reason(png[:33] + chunk * 2000 + png[33:]) == "undecodable"


def test_an_animation_is_told_by_its_second_frame_alone() -> None:
    frames = [pil.new("RGB", (9, 9), colour) for colour in ("red", "blue", "green")]
    for kind in ("GIF", "PNG", "WEBP"):
        target = io.BytesIO()
        frames[0].save(target, kind, save_all=True, append_images=frames[1:])
        assert Image(target.getvalue()).header.frames == 2
        assert Image(encoded(kind)).header.frames == 1


def test_more_bytes_than_an_image_may_have_are_not_even_read() -> None:
    with pytest.raises(SampleError, match="too_large"):
        _ = Image(Blob("nowhere", 0, image_guard.MAX_ENCODED + 1)).encoded


def test_every_orientation_is_undone_even_where_the_rest_of_the_exif_is_broken() -> None:
    from PIL import ImageOps

    ramp = np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3)
    for orientation in range(1, 9):
        # A second entry that points outside of the block.
        entries = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0) + struct.pack(
            "<HHII", 0x8769, 4, 1, 0xFFFFFF
        )
        exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + entries + bytes(4)
        target = io.BytesIO()
        pil.fromarray(ramp).save(target, "PNG", exif=exif)
        plain = pil.fromarray(ramp)
        plain.getexif()[0x0112] = orientation
        assert (Image(target.getvalue()).array == np.asarray(ImageOps.exif_transpose(plain))).all()


@pytest.mark.parametrize(
    "head",
    [
        "\ufeff",
        "<!-- <html> -->",
        '<?xml version="1.0"?>\n<!-- a -->\n<!-- b -->',
        '<!DOCTYPE svg PUBLIC "a" "b">',
        "\n ",
    ],
)
def test_a_drawing_may_begin_with_a_bom_comments_and_a_doctype(head: str) -> None:
    drawing = SVG.format('<rect width="8" height="8" fill="#f00"/>')
    assert tuple(Image((head + drawing).encode()).array[9, 9]) == (255, 0, 0)


@pytest.mark.parametrize(
    "data", [b"<!DOCTYPE html><html><svg/>", b"<!-- " + b"-" * 100_000, b"<p>", b"<svgs/>", b"{"]
)
def test_other_markup_is_no_drawing(data: bytes) -> None:
    assert not looks_like_svg(data)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("<g>" * 200 + "</g>" * 200, "too_complex"),
        (
            "".join(f"<g id='a{n + 1}'>" + f"<use href='#a{n}'/>" * 10 + "</g>" for n in range(9)),
            "too_complex",
        ),
        ("<rect mask='url(#m)'/>" * 2500, "too_complex"),
        ("<filter><feTurbulence numOctaves='99'/></filter>", "too_complex"),
        ("<style>.a{mask:url(#m)}</style><mask id='m'>" + "<g class='b'/>" * 9 + "</mask><g class='a'/>", ""),
        ("<g id='a'><use href='#a'/></g>", ""),
        ("<image href='data:image/png;base64,AAAA'/>", "not_an_image"),
        ("<image href='data:image/svg+xml,x'/>", "outside_reference"),
    ],
)
def test_what_a_drawing_would_draw_is_counted_first(body: str, why: str) -> None:
    data = SVG.format(body).encode()
    assert (reason(data) == why) if why else Image(data).array.shape == (96, 96, 3)


def test_entities_are_short_texts_or_none_at_all() -> None:
    plain = '<!DOCTYPE svg [<!ENTITY red "#f00">]>' + SVG.format('<rect width="8" height="8" fill="&red;"/>')
    assert tuple(Image(plain.encode()).array[9, 9]) == (255, 0, 0)
    for entity, why in (
        ('b "&a;&a;"', "too_complex"),
        ('b SYSTEM "file:///etc/passwd"', "outside_reference"),
    ):
        text = f'<!DOCTYPE svg [<!ENTITY a "x"><!ENTITY {entity}>]>' + SVG.format("")
        assert reason(text.encode()) == why
