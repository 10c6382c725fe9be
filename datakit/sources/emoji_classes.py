"""Which emoji are one class, and which classes are one thing under two names.

Short names say `runner` and `woman-running`, `cop` and `male-police-officer`; Unicode says that both are one
code point with or without a gender sign. Names make the classes; code points make the identity groups, so
that no split puts one thing on both sides.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

PEOPLE = "People & Body"
GENDERS = {"1F468": "man", "2642": "man", "1F469": "woman", "2640": "woman"}
GENDER_WORDS = {
    "man": "man",
    "male": "man",
    "men": "man",
    "woman": "woman",
    "female": "woman",
    "women": "woman",
}
LEFT_OUT = frozenset({"man", "woman", "male", "female", "adult", "person"})  # words, of a class's name
PERSON = "1F9D1"
PERSONS = frozenset({"1F468", "1F469", PERSON})  # man, woman, person
SIGNS = frozenset({"2640", "2642"})  # female, male; each after a joiner
JOINER, VARIATION = "200D", "FE0F"
TONES = frozenset({"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"})


def sequence_of(unified: str) -> str:
    """Code points as one spelling: upper case, no leading zeros, without variation selectors.

    The sets name their files each in its own way: `0023-FE0F-20E3.svg`, `23-20e3.svg`.
    """
    points = [point.upper().lstrip("0") or "0" for point in unified.split("-")]
    return "-".join(point for point in points if point != VARIATION)


def classes_of(table: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, object]]:
    """short name → `class_name`, `identity_group` (null where a class is the only one of its thing), `gender`.

    gender: `man`, `woman`, `mixed`, `person` (a person of none said) or `none` (hands, organs, all else).
    """
    table = list(table)
    people = [emoji for emoji in table if emoji["category"] == PEOPLE]
    places = {_plain(emoji): emoji["subcategory"] for emoji in table}
    names = {emoji["short_name"]: _class_name(emoji, places) for emoji in table}
    groups = _groups(people, names)
    shared = Counter(groups.values())
    neutral = {_without_gender(emoji["unified"]) for emoji in people if SIGNS & {*_points(emoji["unified"])}}
    return {
        emoji["short_name"]: {
            "class_name": (name := names[emoji["short_name"]]),
            "identity_group": groups[name] if name in groups and shared[groups[name]] > 1 else None,
            "gender": _gender(emoji, neutral) if emoji["category"] == PEOPLE else "none",
        }
        for emoji in table
    }


def _gender(emoji: Mapping[str, Any], neutral: Collection[str]) -> str:
    """By code points; by words only of what has no gendered form: `man_with_turban` is the neutral one of three."""
    points = _points(emoji["unified"])
    found = {GENDERS[point] for point in points if point in GENDERS}
    if not found and sequence_of(emoji["unified"]) not in neutral:
        found = {GENDER_WORDS[word] for word in _words(emoji) if word in GENDER_WORDS}
    if len(found) == 1:
        return found.pop()
    whole = emoji["subcategory"] == "family" or emoji["subcategory"].startswith("person")
    return "mixed" if found else "person" if whole else "none"


def _points(unified: str) -> list[str]:
    return sequence_of(unified).split("-")


def _words(emoji: Mapping[str, Any]) -> list[str]:
    """The words of the first short name that has any: of `+1` and `thumbsup` the second."""
    spoken = next((name for name in emoji["short_names"] if re.search("[a-z]", name)), emoji["short_name"])
    return re.split("[-_]", spoken)


def _plain(emoji: Mapping[str, Any]) -> str:
    return "-".join(_words(emoji))


def _class_name(emoji: Mapping[str, Any], places: Mapping[str, str]) -> str:
    """The short name; of people without gender words, and with the subcategory before it where that is something else.

    `ok_woman` would be the button `ok` of Symbols, a family of a woman and a boy would be `boy`.
    """
    if emoji["category"] != PEOPLE:
        return _plain(emoji)
    kept = [word for word in _words(emoji) if word not in LEFT_OUT]
    name = "-".join(kept) or _plain(emoji)
    taken = places.get(name, emoji["subcategory"]) != emoji["subcategory"]
    return f"{emoji['subcategory']}-{name}" if taken else name


def _groups(people: Iterable[Mapping[str, Any]], names: Mapping[str, str]) -> dict[str, str]:
    """class → its group: classes joined by a shared sequence, named after the first of them."""
    group = {name: {name} for name in names.values()}
    first: dict[str, str] = {}
    for emoji in people:
        name = names[emoji["short_name"]]
        for variant in (emoji, *emoji.get("skin_variations", {}).values()):
            other = first.setdefault(_without_gender(variant["unified"]), name)
            joined = group[name] | group[other]
            group.update(dict.fromkeys(joined, joined))
    return {names[emoji["short_name"]]: min(group[names[emoji["short_name"]]]) for emoji in people}


def _without_gender(unified: str) -> str:
    """The sequence without tones and gender signs, every person being PERSON."""
    points = [point for point in _points(unified) if point not in TONES]
    signed = [index for index, point in enumerate(points) if point in SIGNS and points[index - 1] == JOINER]
    left = [point for index, point in enumerate(points) if index not in signed and index + 1 not in signed]
    return "-".join(PERSON if point in PERSONS else point for point in left)
