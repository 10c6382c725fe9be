"""SVG drawn to pixels. A drawing is a program: its parts are counted, as drawn, before anything is drawn.

Refused: what lies outside of the file, entities within entities, nesting deeper than a renderer's stack, elements
that multiply by reference (`<use>`, patterns, masks, filters), embedded pictures beyond their limits.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from datakit.errors import MissingExtra, SampleError
from datakit.image_guard import check_size

LOOK = 1 << 16  # bytes within which the drawing must begin: comments and a DOCTYPE may stand before
MAX_BYTES = 16 << 20
MAX_BYTES_WITH_ENTITIES = 1 << 20
MAX_ENTITIES = 64  # editors declare namespaces so
MAX_ENTITY = 1024  # characters of one
MAX_DEPTH = 128  # elements within each other
MAX_CHAIN = 400  # elements within each other as drawn, references followed
MAX_WORK = 200_000  # elements as drawn, each counted as often as it is referred to
EFFECT_WORK = 100  # elements that one filter primitive, or one layer to be blended, counts for
PIXELS_OF_WORK = 400  # pixels of an embedded picture that count for one element
MAX_EMBEDDED = 16_000_000  # pixels of an embedded picture
MAX_NUMBER = 10  # octaves of noise; side of a convolution

_START = re.compile(
    rb"(?:\xef\xbb\xbf)?+(?>\s+|<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^\[>]*+(?:\[.*?\]\s*+)?+>)*+"
    rb"<(?:[A-Za-z_][\w.-]*+:)?+svg[\s/>]",
    re.DOTALL,
)
_LAYERS = frozenset(("opacity", "mask", "clip-path", "filter", "mix-blend-mode"))
_LAYER = re.compile(r"(?<![\w-])(?:opacity|mask|clip-path|filter|mix-blend-mode)\s*:")
_RULE = re.compile(r"([^{}]*)\{([^{}]*)\}")
_CLASS = re.compile(r"\.([\w-]+)\s*$")
_REFERENCE = re.compile(r"url\(\s*['\"]?#([^)'\"\s]+)")
_EMBEDDED = re.compile(r"data:image/(?:png|jpeg|jpg|webp)(;base64)?,", re.IGNORECASE)


@dataclass(slots=True)
class _Element:
    name: str
    attributes: Mapping[str, str]
    children: list[_Element] = field(default_factory=list)
    text: list[str] = field(default_factory=list)  # of `style` only
    work: int = -1  # not known yet


def looks_like_svg(data: bytes) -> bool:
    """Whether these bytes begin as a drawing, also after a BOM, comments and a DOCTYPE."""
    return data[:1] in b"<\xef \t\r\n" and bool(_START.match(data[:LOOK]))


def render_svg(data: bytes, side: int) -> bytes:
    """The drawing as PNG bytes, `side` px along its longer edge.

    Raises SampleError `outside_reference`, `too_complex`, `too_large`, `undecodable`; MissingExtra.
    """
    try:
        import resvg_py
    except ImportError as problem:
        raise MissingExtra("drawing SVG", "demo") from problem
    _check(_parsed(data))
    try:
        text = data.decode("utf-8-sig")
        return bytes(resvg_py.svg_to_bytes(svg_string=text, width=side, height=side))
    except (ValueError, UnicodeDecodeError) as problem:
        raise SampleError("undecodable", f"SVG: {problem}") from problem


def _parsed(data: bytes) -> _Element:
    from xml.parsers import expat

    if len(data) > MAX_BYTES:
        raise SampleError("too_large", f"SVG: {len(data)} bytes, {MAX_BYTES} at most")
    root = _Element("", {})
    tree, entities = _Tree(root), _Entities(len(data))
    parser = expat.ParserCreate()
    parser.StartElementHandler = tree.open
    parser.EndElementHandler = tree.close
    parser.CharacterDataHandler = tree.say
    parser.EntityDeclHandler = entities.declare
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError) as problem:
        raise SampleError("undecodable", f"SVG: {problem}") from problem
    return root


class _Tree:
    """Elements as the parser meets them."""

    def __init__(self, root: _Element) -> None:
        self._above = [root]
        self._count = 0

    def open(self, name: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if self._count > MAX_WORK:
            raise SampleError("too_complex", f"SVG: more than {MAX_WORK} elements")
        if len(self._above) > MAX_DEPTH:
            raise SampleError("too_complex", f"SVG: more than {MAX_DEPTH} elements within each other")
        element = _Element(name.rpartition(":")[2], attributes)
        self._above[-1].children.append(element)
        self._above.append(element)

    def say(self, text: str) -> None:
        if self._above[-1].name == "style":
            self._above[-1].text.append(text)

    def close(self, name: str) -> None:
        self._above.pop()


class _Entities:
    """Those that the drawing declares: short texts, as editors write them for namespaces."""

    def __init__(self, size: int) -> None:
        self._size, self._count = size, 0

    def declare(self, name: str, is_parameter: bool, value: str | None, *where: object) -> None:
        self._count += 1
        if value is None:
            raise SampleError("outside_reference", f"SVG: the entity {name[:80]} lies outside of it")
        large = self._size > MAX_BYTES_WITH_ENTITIES or len(value) > MAX_ENTITY or self._count > MAX_ENTITIES
        if is_parameter or large or "&" in value or "%" in value:
            raise SampleError("too_complex", f"SVG: the entity {name[:80]}, of entities or too long")


@dataclass(slots=True)
class _Drawing:
    """What references lead to: elements by id, and the declarations of style sheets by class (`*`: any element)."""

    ids: dict[str, _Element] = field(default_factory=dict)
    rules: dict[str, list[str]] = field(default_factory=dict)

    def styles(self, element: _Element) -> list[str]:
        names = ["*", *element.attributes.get("class", "").split()] if self.rules else []
        found = [body for name in names for body in self.rules.get(name, ())]
        return [*found, element.attributes.get("style", "")]


def _check(root: _Element) -> None:
    drawing = _Drawing()
    waiting = list(root.children)
    while waiting:
        element = waiting.pop()
        drawing.ids.setdefault(element.attributes.get("id", ""), element)
        for selectors, body in _RULE.findall("".join(element.text)):
            for selector in selectors.split(","):
                named = _CLASS.search(selector)
                drawing.rules.setdefault(named[1] if named else "*", []).append(body)
        waiting += element.children
    if _work(root, drawing, 0) > MAX_WORK:
        raise SampleError("too_complex", f"SVG: more than {MAX_WORK} elements, each as often as it is drawn")


def _work(element: _Element, drawing: _Drawing, depth: int) -> int:
    """How many elements are drawn for this one; stops counting above the limit."""
    if element.work >= 0:
        return element.work
    if depth > MAX_CHAIN:
        raise SampleError("too_complex", f"SVG: a chain of more than {MAX_CHAIN} references")
    element.work = 0  # what refers to itself is not drawn again
    styles = drawing.styles(element)
    total = _own_work(element) + EFFECT_WORK * any(map(_LAYER.search, styles))
    named = [drawing.ids[name] for name in _references(element, styles) if name in drawing.ids]
    for other in [*element.children, *named]:
        total += _work(other, drawing, depth + 1)
        if total > MAX_WORK:
            break
    element.work = total
    return total


def _own_work(element: _Element) -> int:
    work = 1
    for name, value in element.attributes.items():
        if name in ("numOctaves", "order") and not _is_small(value):
            raise SampleError("too_complex", f"SVG: {element.name} with {name}={value[:20]}")
        # A link draws nothing.
        if name.rpartition(":")[2] == "href" and element.name != "a":
            work += _embedded(value.strip()) // PIXELS_OF_WORK
    costly = element.name.startswith("fe") or not _LAYERS.isdisjoint(element.attributes)
    return work + EFFECT_WORK * costly


def _is_small(value: str) -> bool:
    return all(part.isdecimal() and len(part) < 9 and int(part) <= MAX_NUMBER for part in value.split())


def _references(element: _Element, styles: Iterable[str]) -> list[str]:
    found = [name for style in styles if "url(" in style for name in _REFERENCE.findall(style)]
    for name, value in element.attributes.items():
        if name.rpartition(":")[2] == "href" and value.strip().startswith("#"):
            found.append(value.strip()[1:])
        elif "url(" in value and name != "style":
            found += _REFERENCE.findall(value)
    return found


def _embedded(value: str) -> int:
    """Pixels of what a `href` draws from the file itself. Raises SampleError where that lies outside of it."""
    if not value or value.startswith("#"):
        return 0
    start = _EMBEDDED.match(value)
    if not start:
        raise SampleError("outside_reference", f"SVG: it refers to {value[:80]!r}")
    body = unquote_to_bytes(value[start.end() :])
    try:
        width, height = check_size(binascii.a2b_base64(body) if start[1] else body)
    except binascii.Error as problem:
        raise SampleError("undecodable", f"SVG: a picture in it: {problem}") from problem
    if width * height > MAX_EMBEDDED:
        raise SampleError("too_many_pixels", f"SVG: a picture of {width} x {height} in it")
    return width * height
