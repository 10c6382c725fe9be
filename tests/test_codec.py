"""Pixels of the fast path: those of the whole decode within a bound, or the same error."""

from __future__ import annotations

import io
import threading
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as pil

from datakit import codec, image, scaled
from datakit.errors import SampleError

Pixels = NDArray[np.uint8]
CODECS: tuple[codec.Codec, ...] = ("pillow", "simplejpeg", "torch")


def photo(width: int = 500, height: int = 375, seed: int = 0) -> pil.Image:
    """Smooth noise at several scales, as in photographs; no side or corner is like another."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells in (3, 9, 27, 81):
        # Colour changes slowly: JPEG halves its resolution.
        colours = 3 if cells < 10 else 1
        coarse = np.broadcast_to(rng.integers(0, 256, (cells, cells, colours), np.uint8), (cells, cells, 3))
        layer = pil.fromarray(coarse).resize((width, height), pil.Resampling.BICUBIC)
        total += np.asarray(layer, np.float64) / 4
    return pil.fromarray(total.astype(np.uint8))


def jpeg(picture: pil.Image, **options: Any) -> bytes:
    target = io.BytesIO()
    picture.save(target, "JPEG", **{"quality": 92} | options)
    return target.getvalue()


def psnr(one: Pixels, other: Pixels) -> float:
    error = float(((one.astype(float) - other) ** 2).mean())
    return 99.0 if error == 0 else 10 * float(np.log10(255**2 / error))


def whole(data: bytes, side: int, box: tuple[float, float, float, float]) -> Pixels:
    """The reference: everything decoded, then Pillow's filter."""
    picture = pil.fromarray(image.decode(data))
    width, height = picture.size
    place = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
    return np.asarray(picture.resize((side, side), pil.Resampling.BILINEAR, box=place))


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_is_the_same_part_upright_at_any_scale(name: codec.Codec, orientation: int) -> None:
    exif = pil.Exif()
    exif[0x0112] = orientation
    data = jpeg(photo(501, 373), exif=exif)  # sides that no eighth divides
    for box in ((0.1, 0.2, 0.7, 0.95), (0.1, 0.2, 0.35, 0.95)):
        for side in (40, 60, 90, 130, 300):
            found = codec.cover(data, side, box=box, codec=name)
            assert found.shape == (side, side, 3)
            assert psnr(found, whole(data, side, box)) > 40
    assert np.array_equal(codec.decode_rgb(data, codec=name), image.decode(data))


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("size", [(500, 375), (375, 500), (333, 777), (65, 64), (20, 9)])
def test_the_centre_square_is_the_whole_decodes(name: codec.Codec, size: tuple[int, int]) -> None:
    data, (width, height) = jpeg(photo(*size)), size
    across, down = (min(size) / width, min(size) / height)
    box = ((1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2)
    for side in (32, 100, 224):
        assert psnr(codec.cover(data, side, codec=name), whole(data, side, box)) > 40


@pytest.mark.parametrize("name", CODECS)
def test_a_scaled_decode_keeps_the_side_it_was_asked_for(name: codec.Codec) -> None:
    data = jpeg(photo(1000, 700))
    for wanted in (80, 100, 180, 350, 351, 700, 900):
        found = min(codec.decode_rgb(data, short_side=wanted, codec=name).shape[:2])
        assert min(wanted, 700) <= found <= 700
    assert codec.decode_rgb(data, short_side=350, codec=name).shape == (350, 500, 3)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("mode", ["L", "CMYK", "progressive", "RGB"])
def test_other_jpegs_decode_as_ever(name: codec.Codec, mode: str) -> None:
    picture = photo()
    options: dict[str, Any] = {"progressive": {"progressive": True}, "RGB": {"keep_rgb": True}}.get(mode, {})
    data = jpeg(picture.convert(mode) if mode in ("L", "CMYK") else picture, **options)
    assert np.array_equal(codec.decode_rgb(data, codec=name), image.decode(data))
    assert psnr(codec.cover(data, 96, box=scaled.WHOLE, codec=name), whole(data, 96, scaled.WHOLE)) > 40


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF"])
def test_other_formats_are_read_too(format: str) -> None:
    target = io.BytesIO()
    photo().convert("RGBA").save(target, format)
    data = target.getvalue()
    assert np.array_equal(codec.decode_rgb(memoryview(data), short_side=50), image.decode(data))
    assert codec.cover(data, 64).shape == (64, 64, 3)


@pytest.mark.parametrize("name", CODECS)
def test_cut_data_are_an_error_wherever_they_are_cut(name: codec.Codec) -> None:
    for options in ({}, {"progressive": True}):
        data = jpeg(photo(), **options)
        for end in (len(data) * 9 // 10, len(data) // 2, len(data) // 5, len(data) - 200, 300):
            for side in (None, 64):
                with pytest.raises(SampleError):
                    codec.decode_rgb(data[:end], short_side=side, codec=name)


@pytest.mark.parametrize("name", CODECS)
def test_a_bomb_is_refused_by_its_header(name: codec.Codec) -> None:
    data = bytearray(jpeg(photo(64, 64)))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = (60000).to_bytes(2, "big") * 2
    before = time.process_time()
    with pytest.raises(SampleError, match="too_many_pixels"):
        codec.cover(bytes(data), 64, codec=name)
    assert time.process_time() - before < 0.5


@pytest.mark.parametrize("name", CODECS)
def test_no_broken_byte_lets_another_exception_through(name: codec.Codec) -> None:
    data, rng, failed = jpeg(photo(120, 90)), np.random.default_rng(1), 0
    for _ in range(400):
        mutant = bytearray(data)
        for _ in range(3):
            mutant[int(rng.integers(len(data)))] = int(rng.integers(256))
        try:
            found = codec.cover(bytes(mutant), 48, codec=name)
        except SampleError:
            failed += 1
        else:
            assert found.shape == (48, 48, 3)
    assert 0 < failed < 400


@pytest.mark.parametrize("name", CODECS)
def test_a_smaller_jpeg_is_close_to_lanczos_and_the_same_each_time(name: codec.Codec) -> None:
    data = jpeg(photo(1000, 700))
    made = codec.resized(data, short_side=256, codec=name)
    assert made == codec.resized(data, short_side=256, codec=name)
    size = (366, 256)
    best = pil.fromarray(image.decode(data)).resize(size, pil.Resampling.LANCZOS)
    assert pil.open(io.BytesIO(made)).size == size
    assert psnr(image.decode(made), np.asarray(best)) > 35


def test_nothing_is_enlarged_unless_asked_for() -> None:
    data = jpeg(photo(120, 90))
    assert image.decode(codec.resized(data, short_side=256)).shape == (90, 120, 3)
    assert image.decode(codec.resized(data, short_side=180, never_enlarge=False)).shape == (180, 240, 3)
    grey = codec.resized(jpeg(photo(120, 90).convert("L")), short_side=64)
    assert pil.open(io.BytesIO(grey)).mode == "L"


def test_a_box_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match="left < right"):
        codec.cover(jpeg(photo(64, 64)), 32, box=(0.5, 0, 0.4, 1))


@pytest.mark.parametrize("name", CODECS)
def test_other_threads_run_while_one_decodes(name: codec.Codec) -> None:
    """A decode that held the interpreter would leave the counter where it was until it ended."""
    data, ticks, done = jpeg(photo(3000, 2000), quality=95), 0, threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not done.wait(0.001):
            ticks += 1

    thread = threading.Thread(target=tick)
    thread.start()
    codec.decode_rgb(data, codec=name)
    before, start = ticks, time.perf_counter()
    for _ in range(3):
        codec.decode_rgb(data, codec=name)
    passed = time.perf_counter() - start
    done.set()
    thread.join()
    assert ticks - before > passed * 100  # of 1,000 a second on an idle machine


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_resizer_of_ones_own_is_given_the_part(orientation: int) -> None:
    seen: list[tuple[int, ...]] = []

    def by_pillow(image_HWC: Pixels, out_HWC: Pixels) -> None:
        seen.append(image_HWC.shape)
        out_HWC[...] = pil.fromarray(image_HWC).resize(out_HWC.shape[:2], pil.Resampling.BILINEAR)

    exif = pil.Exif()
    exif[image.EXIF_ORIENTATION] = orientation
    target = io.BytesIO()
    photo(640, 480).save(target, "JPEG", quality=95, exif=exif)
    data = target.getvalue()
    for box in (None, (0.1, 0.2, 0.7, 0.9)):
        for name in CODECS:
            ours = codec.cover(data, 96, box=box, codec=name, resize=by_pillow).astype(float)
            theirs = codec.cover(data, 96, box=box, codec=name).astype(float)
            assert ours.shape == (96, 96, 3)
            # Half a pixel of the scaled picture, no more: a part turned or taken elsewhere is far from it.
            assert np.abs(ours - theirs).mean() < 4
    assert all(shape[2] == 3 for shape in seen)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("resize", [False, True])
@pytest.mark.parametrize("orientation", [1, 6])
def test_pixels_given_stay_as_they_are_whatever_is_decoded_next(
    name: codec.Codec, resize: bool, orientation: int
) -> None:
    def taken(image_HWC: Pixels, out_HWC: Pixels) -> None:
        out_HWC[...] = image_HWC[: out_HWC.shape[0], : out_HWC.shape[1]]

    exif = pil.Exif()
    exif[image.EXIF_ORIENTATION] = orientation
    hook = taken if resize else None
    datas = [jpeg(photo(300, 300, seed), exif=exif) for seed in range(3)]
    grey = [jpeg(photo(300, 300, seed).convert("L")) for seed in range(3)]
    for kind in (datas, grey):
        covers = [codec.cover(data, 300, codec=name, resize=hook) for data in kind]
        wholes = [codec.decode_rgb(data, codec=name) for data in kind]
        for data, cover, plain in zip(kind, covers, wholes, strict=True):
            assert np.array_equal(cover, codec.cover(data, 300, codec=name, resize=hook))
            assert np.array_equal(plain, codec.decode_rgb(data, codec=name))
        assert not np.array_equal(covers[0], covers[1]) and not np.array_equal(wholes[0], wholes[1])


@pytest.mark.parametrize("name", CODECS)
def test_pixels_go_where_they_are_wanted(name: codec.Codec) -> None:
    exif = pil.Exif()
    exif[image.EXIF_ORIENTATION] = 8
    for data in (jpeg(photo()), jpeg(photo(), exif=exif), image.encode(np.asarray(photo()), format="PNG")):
        out = np.zeros((64, 64, 3), np.uint8)
        assert codec.cover(data, 64, codec=name, out=out) is out
        assert np.array_equal(out, codec.cover(data, 64, codec=name))


@pytest.mark.parametrize("name", CODECS)
def test_a_view_is_as_good_as_bytes(name: codec.Codec) -> None:
    exif = pil.Exif()
    exif[image.EXIF_ORIENTATION] = 6
    broken = jpeg(photo())[:2000]
    for data in (
        jpeg(photo(), exif=exif),
        jpeg(photo(), progressive=True),
        image.encode(np.asarray(photo()), format="WEBP"),
    ):
        view = memoryview(bytearray(b"before" + data + b"after"))[6 : 6 + len(data)].toreadonly()
        assert np.array_equal(codec.cover(view, 64, codec=name), codec.cover(data, 64, codec=name))
        assert np.array_equal(codec.decode_rgb(view, codec=name), codec.decode_rgb(data, codec=name))
        assert codec.resized(view, short_side=64, codec=name) == codec.resized(
            data, short_side=64, codec=name
        )
    with pytest.raises(SampleError, match="truncated"):
        codec.cover(memoryview(broken), 64, codec=name)


def test_only_scales_with_fast_code_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    import simplejpeg

    shapes: list[tuple[int, ...]] = []
    decode = simplejpeg.decode_jpeg

    def seen(*given: Any, **named: Any) -> Any:
        pixels = decode(*given, **named)
        shapes.append(pixels.shape[:2])
        return pixels

    monkeypatch.setattr(simplejpeg, "decode_jpeg", seen)
    for width, height in ((800, 640), (801, 643), (131, 128)):
        data = jpeg(photo(width, height))
        for side in range(16, 128, 7):
            shapes.clear()
            codec.cover(data, side, codec="simplejpeg")
            scales = [(-(-height * n // 8), -(-width * n // 8)) for n in (1, 2, 4, 8)]
            # Once, and not given up for want of room.
            assert len(shapes) == 1 and shapes[0] in scales and min(shapes[0]) >= side


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_torchs_filter_takes_the_part_that_pillows_takes(
    mode: str, filter: codec.Filter, orientation: int
) -> None:
    """The last row and column of a scaled picture stand for a part of a pixel, here an eighth and three eighths."""
    exif = pil.Exif()
    exif[image.EXIF_ORIENTATION] = orientation
    data = jpeg(photo(1601, 1203).convert(mode), exif=exif, quality=98)
    ours, theirs = (
        pil.open(io.BytesIO(codec.resized(data, short_side=128, quality=98, filter=filter, codec=name)))
        for name in ("torch", "simplejpeg")
    )
    assert ours.mode == theirs.mode == mode
    assert ours.size == theirs.size == ((170, 128) if orientation == 1 else (128, 170))
    assert psnr(np.asarray(ours), np.asarray(theirs)) > 44


def test_a_filter_that_torch_does_not_have_is_pillows() -> None:
    data = jpeg(photo(1000, 700))
    assert codec.resized(data, short_side=64, filter="lanczos") == codec.resized(
        data, short_side=64, filter="lanczos", codec="simplejpeg"
    )
