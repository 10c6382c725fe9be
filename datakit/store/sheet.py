"""A contact sheet: images of a split in a grid, the class of each under it, as one PNG."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from datakit.errors import SampleError
from datakit.image import Image

BOX, GAP, ACROSS = 144, 12, 6  # px, px, images in a row
HEAD, LINE, SMALL = 34, 17, 16  # px: title, a line of a class name, the line of the key
NAME_LINES = 2
INK, GREY, PAPER, RED = (24, 24, 27), (113, 113, 122), (255, 255, 255), (185, 28, 28)
GROUND, EDGE = (
    (238, 238, 240),
    (212, 212, 216),
)  # of a cell: beside an image that is not square, and around any
_PLAIN = {
    "–": "-",
    "—": "-",
    "ß": "ss",
    "æ": "ae",
    "Æ": "AE",
    "ø": "o",
    "Ø": "O",
    "ł": "l",
    "Ł": "L",
    "đ": "d",
}
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

    lines = max((_Pen(None).lines(entry.name, 13) for entry in entries), default=1)
    cell = BOX + 4 + lines * LINE + SMALL + GAP
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
        pen.draw.rectangle((x - 1, y - 1, x + BOX, y + BOX), outline=EDGE)
        end = pen.words((x, y + BOX + 4), entry.name or "no class", 13, INK if entry.name else GREY)
        pen.line((x, end), entry.key, 10, GREY, BOX)
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

    def words(self, at: tuple[int, int], text: str, size: int, colour: tuple[int, int, int]) -> int:
        """NAME_LINES lines at most, broken between words where that fits; where they end."""
        x, y = at
        for line in self._broken(self._drawable(text, size), size):
            self.line((x, y), line, size, colour, BOX)
            y += LINE
        return y

    def lines(self, text: str, size: int) -> int:
        return len(list(self._broken(self._drawable(text, size), size)))

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
        """The text on one line, in letters that the font has: without their accents where those are missing, or else
        as their code, as what is no letter.

        Pillow's own font has ASCII and little more; one of this machine would make other bytes on the next.
        """
        return "".join(self._letter(letter, size) for letter in text)

    def _letter(self, letter: str, size: int) -> str:
        plain = "".join(
            part for part in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(part)
        )
        for form in (letter, _PLAIN.get(letter, plain)):
            if form and all(self._has(part, size) for part in form):
                return form
        return letter.encode("unicode_escape").decode()

    def _has(self, letter: str, size: int) -> bool:
        font = self._font(size)
        if letter == " " or not letter.isprintable():
            return letter == " "
        return bytes(font.getmask(letter)) != bytes(font.getmask("\U0010ffff"))
