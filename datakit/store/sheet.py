"""A contact sheet: images of a split in a grid, the class of each under it, as one PNG."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from datakit.errors import SampleError
from datakit.image import Image

BOX, GAP, ACROSS = 144, 12, 6  # px, px, images in a row
HEAD, LINE, SMALL = 34, 17, 13  # px: title, a line of a class name, the line of the key
NAME_LINES = 2
INK, GREY, GROUND, PAPER, RED = (24, 24, 27), (113, 113, 122), (238, 238, 240), (255, 255, 255), (185, 28, 28)
ENLARGED = 2  # times at most: a larger small image says no more


@dataclass(frozen=True)
class Entry:
    """One image and the words under it; `name` is empty where the image is of no class."""

    image: Image
    name: str
    key: str


def contact_sheet(title: str, entries: Sequence[Entry]) -> tuple[bytes, int]:
    """The sheet as PNG, and how many images did not decode; each of these says why in its place."""
    from PIL import Image as pil
    from PIL import ImageDraw

    cell = BOX + NAME_LINES * LINE + SMALL + GAP
    across = max(1, min(ACROSS, len(entries)))
    rows = -(-len(entries) // across)
    # Four across at least, so that the title fits.
    size = (GAP + max(across, 4) * (BOX + GAP), HEAD + GAP + rows * cell)
    sheet = pil.new("RGB", size, PAPER)
    pen = _Pen(ImageDraw.Draw(sheet))
    pen.line((GAP, GAP), title, 16, INK, size[0] - 2 * GAP)
    broken = 0
    for number, entry in enumerate(entries):
        x, y = GAP + number % across * (BOX + GAP), HEAD + GAP + number // across * cell
        pen.draw.rectangle((x, y, x + BOX - 1, y + BOX - 1), fill=GROUND)
        try:
            small = _fitted(entry.image)
            sheet.paste(small, (x + (BOX - small.width) // 2, y + (BOX - small.height) // 2))
        except SampleError as problem:
            broken += 1
            pen.line((x + 6, y + BOX // 2 - 8), problem.reason, 13, RED, BOX - 12)
        pen.words((x, y + BOX + 2), entry.name or "no class", 13, INK if entry.name else GREY)
        pen.line((x, y + BOX + 2 + NAME_LINES * LINE), entry.key, 10, GREY, BOX)
    target = io.BytesIO()
    sheet.save(target, format="PNG")
    return target.getvalue(), broken


def _fitted(image: Image) -> Any:
    """Whole, in its own proportions, at most BOX px wide and high."""
    from PIL import Image as pil

    picture = pil.fromarray(image.array)
    scale = min(BOX / picture.width, BOX / picture.height, ENLARGED)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, pil.Resampling.LANCZOS)


class _Pen:
    """Text that stays in its place, whatever it holds."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self._fonts: dict[int, Any] = {}

    def line(
        self, at: tuple[int, int], text: str, size: int, colour: tuple[int, int, int], width: int
    ) -> None:
        """One line; what does not fit is cut, with an ellipsis."""
        self.draw.text(
            at, self._cut(self._drawable(text, size), size, width), font=self._font(size), fill=colour
        )

    def words(self, at: tuple[int, int], text: str, size: int, colour: tuple[int, int, int]) -> None:
        """NAME_LINES lines, broken between words where that fits."""
        for number, line in enumerate(self._broken(self._drawable(text, size), size)):
            self.line((at[0], at[1] + number * LINE), line, size, colour, BOX)

    def _broken(self, text: str, size: int) -> Iterator[str]:
        rest = text
        for _ in range(NAME_LINES - 1):
            fits = self._fits(rest, size, BOX)
            if fits == len(rest):
                break
            ends = max((rest.rfind(mark, 0, fits) for mark in " -_/"), default=-1) + 1
            at = ends if ends > fits // 3 else fits
            yield rest[:at].rstrip()
            rest = rest[at:].lstrip()
        yield rest

    def _cut(self, text: str, size: int, width: int) -> str:
        if self._fits(text, size, width) == len(text):
            return text
        return text[: self._fits(text, size, width - self._length("…", size))].rstrip() + "…"

    def _fits(self, text: str, size: int, width: float) -> int:
        """How many letters from the start fit; at least one."""
        low, high = 0, min(len(text), 400)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._length(text[:middle], size) <= width else (low, middle - 1)
        return max(1, low)

    def _length(self, text: str, size: int) -> float:
        return float(self._font(size).getlength(text))

    def _font(self, size: int) -> Any:
        from PIL import ImageFont

        if size not in self._fonts:
            self._fonts[size] = ImageFont.load_default(size)
        return self._fonts[size]

    def _drawable(self, text: str, size: int) -> str:
        """The text on one line; letters that the font lacks, and what is no letter, as their code."""
        font, missing = self._font(size), bytes(self._font(size).getmask("\U0010ffff"))
        return "".join(
            letter if letter == " " or (letter.isprintable() and bytes(font.getmask(letter)) != missing)
            else letter.encode("unicode_escape").decode()
            for letter in text
        )  # fmt: skip
