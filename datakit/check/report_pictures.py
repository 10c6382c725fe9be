"""Contact sheets: many small pictures as one WebP sprite inside one SVG, re-encoded by us."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from datakit.check.charts import el, svg
from datakit.check.report_words import clean
from datakit.errors import SampleError
from datakit.image import Image, decode, encode, resize

if TYPE_CHECKING:
    from datakit.check.report_data import Picture
    from datakit.image import Pixels

INSET = 0.02  # of a tile's side: the gap between tiles
ROUND = 0.06  # of a tile's side: the corners
NAMED = 12  # captions read aloud for one sheet; the rest are counted
BROKEN_GREY = 160


def strip_plan(classes: int) -> tuple[int, int, int]:
    """(pictures a class row, px a side, WebP quality), so that the rows of any build stay within ~4 MB."""
    for most, plan in ((60, (6, 80, 76)), (320, (5, 64, 72)), (700, (4, 52, 66)), (1200, (3, 48, 60))):
        if classes <= most:
            return plan
    return (1, 40, 60)


class Album:
    """The pool of pictures, and a count of those that could not be drawn, by reason."""

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self._pictures = pictures
        self._sheets = 0
        self.broken: dict[str, int] = {}

    def sheet(
        self, indices: Sequence[int], *, columns: int, side: int, quality: int = 78, role: str = "",
        what: str = "pictures",
    ) -> Markup:  # fmt: skip
        """The pictures laid out in rows of `columns`, `side` px each, filled or not; hovering names each.

        Nothing where there are none. Raises ValueError on an index outside the pool or pixels that are
        no uint8 (height, width, 3).
        """
        if not indices:
            return Markup("")
        self._sheets += 1
        width, height = columns * side, -(-len(indices) // columns) * side
        corners = [(at % columns * side, at // columns * side) for at in range(len(indices))]
        clip = f"sheet{self._sheets}"
        sprite = self._sprite(indices, corners, (height, width), side, quality)
        return svg(
            el("clipPath", *(_tile(x, y, side) for x, y in corners), id=clip),
            el("image", href=sprite, width=width, height=height, clip_path=f"url(#{clip})"),
            *(el("g", el("title", self.caption(index)), _tile(x, y, side, class_="hit"))
              for index, (x, y) in zip(indices, corners, strict=True)),
            label=self._read_aloud(indices, what),
            class_=f"sheet r-{role}" if role else "sheet",
            viewBox=f"0 0 {width} {height}", width=width, height=height,
        )  # fmt: skip

    def caption(self, index: int) -> str:
        """What a picture is called: its caption, its key, or its number."""
        picture = self._at(index)
        words = [clean(word) for word in (picture.caption, picture.key) if word]
        return " · ".join(words) or f"picture {index}"

    def _at(self, index: int) -> Picture:
        if not 0 <= index < len(self._pictures):
            raise ValueError(f"picture {index} is named but the report has {len(self._pictures)} pictures")
        return self._pictures[index]

    def _read_aloud(self, indices: Sequence[int], what: str) -> str:
        names = dict.fromkeys(clean(self._at(i).caption or self._at(i).key) for i in indices)
        known = [name for name in names if name]
        more = f" and {len(known) - NAMED} more" if len(known) > NAMED else ""
        return f"{len(indices)} {what}" + (f": {', '.join(known[:NAMED])}{more}" if known else "")

    def _sprite(
        self, indices: Sequence[int], corners: Sequence[tuple[int, int]], size: tuple[int, int],
        side: int, quality: int,
    ) -> str:  # fmt: skip
        """A data URI of the tiles on white."""
        canvas = np.full((*size, 3), 255, dtype=np.uint8)
        for index, (x, y) in zip(indices, corners, strict=True):
            canvas[y : y + side, x : x + side] = self._thumbnail(index, side)
        data = encode(canvas, format="WEBP", quality=quality)
        return "data:image/webp;base64," + base64.b64encode(data).decode("ascii")

    def _thumbnail(self, index: int, side: int) -> Pixels:
        picture = self._at(index)
        try:
            return resize(_pixels(picture.image, side), side=side)
        except SampleError as problem:
            # One bad picture is shown as one and counted at the foot of the page.
            self.broken[problem.reason] = self.broken.get(problem.reason, 0) + 1
            return _crossed(side)


def _pixels(image: Pixels | Image, side: int) -> Pixels:
    """uint8 (height, width, 3), not kept: a page of thousands of pictures must not hold them all decoded."""
    if isinstance(image, Image):
        return image.render(side) if image.header.format == "SVG" else decode(image.encoded)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"a picture must be uint8 (height, width, 3), not {image.dtype} {image.shape}")
    return image


def _crossed(side: int) -> Pixels:
    """A grey tile with a cross."""
    tile = np.full((side, side, 3), BROKEN_GREY, dtype=np.uint8)
    diagonal = np.arange(side)
    tile[diagonal, diagonal] = tile[diagonal, diagonal[::-1]] = 255
    return tile


def _tile(x: int, y: int, side: int, class_: str | None = None) -> Markup:
    inset, corner, inner = side * INSET, side * ROUND, side * (1 - 2 * INSET)
    return el("rect", x=x + inset, y=y + inset, width=inner, height=inner, rx=corner, class_=class_)
