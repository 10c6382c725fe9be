"""F8: images of six formats and real-world oddities, damaged at random, decoded in a child."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as pil

from . import Outcome, Tell
from .reader_child import Child

TITLE = "5,000 mutants of images: JPEG, PNG, WebP, GIF, BMP, SVG and their oddities"
WANTED = "no crash, no hang; each is decoded or refused with one short reason; 1 GiB of memory at most"
CASES = 5000
SUITE = 250
LIMIT = 10.0  # seconds for one image
MEMORY = 1024  # MiB
REASONS = frozenset(
    [
        "empty",
        "not_an_image",
        "too_large",
        "too_many_pixels",
        "truncated",
        "undecodable",
        "outside_reference",
        "too_complex",
    ]
)
MUST_REFUSE = {"nothing": "empty", "page": "not_an_image", "eps": "not_an_image", "tiff": "not_an_image"}


def _pixels(mode: str = "RGB", size: tuple[int, int] = (61, 47)) -> pil.Image:
    ramp = np.linspace(0, 255, size[0] * size[1]).reshape(size[1], size[0]).astype(np.uint8)
    return pil.fromarray(np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=2)).convert(mode)


def _encoded(image: pil.Image, kind: str, **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, format=kind, **options)
    return target.getvalue()


def originals() -> dict[str, bytes]:
    """Images as they are met: every mode a format has, and what is called an image and is none."""
    rgb, deep = _pixels(), pil.fromarray((np.arange(1200).reshape(30, 40) * 50).astype(np.uint16))
    exif = pil.Exif()
    exif[0x0112], exif[0x010E] = 6, "a photograph"
    frames = [_pixels("P"), _pixels("L").convert("P")]
    return {
        "jpeg": _encoded(rgb, "JPEG"),
        "jpeg progressive": _encoded(rgb, "JPEG", progressive=True),
        "jpeg cmyk": _encoded(_pixels("CMYK"), "JPEG"),
        "jpeg grey": _encoded(_pixels("L"), "JPEG", restart_marker_blocks=2),
        "jpeg exif": _encoded(rgb, "JPEG", exif=exif, icc_profile=bytes(300)),
        "jpeg mpo": _encoded(rgb, "MPO", save_all=True, append_images=[rgb]),
        "jpeg 1x1": _encoded(_pixels(size=(1, 1)), "JPEG"),
        "png": _encoded(rgb, "PNG"),
        "png palette": _encoded(_pixels("P"), "PNG", transparency=3, exif=exif),
        "png 16": _encoded(deep, "PNG"),
        "png alpha": _encoded(_pixels("RGBA"), "PNG"),
        "png animated": _encoded(rgb, "PNG", save_all=True, append_images=[_pixels("L").convert("RGB")]),
        "png 1 bit": _encoded(_pixels("1"), "PNG"),
        "webp": _encoded(rgb, "WEBP"),
        "webp lossless": _encoded(_pixels("RGBA"), "WEBP", lossless=True),
        "webp animated": _encoded(rgb, "WEBP", save_all=True, append_images=[_pixels("L").convert("RGB")]),
        "gif": _encoded(_pixels("P"), "GIF"),
        "gif animated": _encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "bmp": _encoded(rgb, "BMP"),
        "bmp palette": _encoded(_pixels("P"), "BMP"),
        "svg": b'<?xml version="1.0"?><!-- art --><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">'
        b'<defs><g id="a"><rect width="4" height="9" fill="#f00"/></g></defs><use href="#a" opacity="0.5"/></svg>',
        "nothing": b"",
        "page": b"<!DOCTYPE html><html><body>404 not found</body></html>",
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "tiff": _encoded(rgb, "TIFF"),
    }


def mutant(data: bytes, rng: random.Random) -> bytes:
    """One to eight faults: bits, bytes, zeroed or copied runs, cuts; half of them in the header."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if not found:
            break
        at = rng.randrange(min(len(found), 64) if rng.random() < 0.5 else len(found))
        kind, length = rng.randrange(7), rng.choice((1, 2, 4, 16, 64))
        if kind < 2:
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            found[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF))
        elif kind == 3:
            found[at : at + length] = rng.randbytes(len(found[at : at + length]))
        elif kind == 4:
            other = rng.randrange(len(found))
            found[at : at + length] = found[other : other + length]
        elif kind == 5:
            del found[at : at + length]
        else:
            del found[rng.randrange(len(found)) :]
    return bytes(found)


def wrong(name: str, answer: dict[str, Any], untouched: bool) -> str:
    """What did not hold; empty if all did."""
    what = f"{name}: {answer['said']} {answer['reason']} {answer['detail'][:150]}"
    if answer["said"] not in ("ok", "refused") or answer["peak_mib"] > MEMORY:
        return f"{what}, peak {answer['peak_mib']} MiB"
    if answer["said"] == "refused" and answer["reason"] not in REASONS:
        return f"{what}: no known reason"
    if untouched and answer["reason"] != MUST_REFUSE.get(name, ""):
        return f"{what}: undamaged"
    return ""


def run(cases: int, seed: int, work: Path, tell: Tell) -> Outcome:
    rng, made = random.Random(seed), originals()
    failures: list[str] = []
    counts: dict[str, int] = {}
    peak, slowest = 0, 0.0
    with Child(LIMIT) as child:
        for case in range(cases):
            name, untouched = list(made)[case % len(made)], case < len(made)
            path = work / "image"
            path.write_bytes(made[name] if untouched else mutant(made[name], rng))
            answer = child.ask("image", path)
            reason = answer["reason"] or "decoded"
            counts[reason] = counts.get(reason, 0) + 1
            peak, slowest = max(peak, answer["peak_mib"]), max(slowest, answer["seconds"])
            if said := wrong(name, answer, untouched):
                failures.append(f"case {case}: {said}")
                tell(failures[-1])
    figures = {reason: str(count) for reason, count in sorted(counts.items())}
    figures |= {"peak": f"{peak} MiB", "slowest": f"{slowest:.2f} s"}
    return Outcome(cases=cases, failures=failures, figures=figures)
