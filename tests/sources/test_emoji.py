"""The embedded catalog: the counts that its TOML and the spec state, and drawings that are what they say."""

from __future__ import annotations

from collections import Counter, defaultdict
from importlib.util import find_spec
from typing import Any

import pytest

from datakit import catalog
from datakit.blob import Blob
from datakit.errors import CatalogError, MissingExtra
from datakit.image import Image
from datakit.sources import emoji
from datakit.sources.emoji_classes import classes_of, sequence_of
from datakit.sources.entry import Entry, Problem
from datakit.stages.names import normal_name

pytest.importorskip("resvg_py")
CATALOG = catalog.load("emoji")


def entries_of(**options: Any) -> list[Entry]:
    return [item for item in emoji.scan(None, **options) if isinstance(item, Entry)]


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    return entries_of()


def in_pool(entries: list[Entry], pool: str) -> list[Entry]:
    """As the engine chooses: by the first pool that holds, less the classes that are too small for it."""
    here = [entry for entry in entries if CATALOG.pool_of(entry.fields) == pool]
    counts = Counter(entry.fields["class_name"] for entry in here)
    return [entry for entry in here if counts[entry.fields["class_name"]] >= CATALOG.pools[pool].min_images]


def test_pools_have_the_sizes_that_the_catalog_states(entries: list[Entry]) -> None:
    main = in_pool(entries, "main")
    assert len(main) == CATALOG.classes["images"]
    assert len({entry.fields["class_name"] for entry in main}) == CATALOG.classes["classes"]
    assert {pool: len(in_pool(entries, pool)) for pool in ("far", "outliers", "coarse")} == {
        "far": 576,
        "outliers": 1130,
        "coarse": 984,
    }


def test_with_mixed_tones_the_main_and_far_pools_have_the_size_of_the_spec() -> None:
    everything = entries_of(mixed_tones=True)
    tried = 4980  # pictures, by specs/embedded.md; its rule for names is not known to the letter
    found = len(in_pool(everything, "main")) + len(in_pool(everything, "far"))
    assert abs(found - tried) <= 10
    assert len(everything) == 2 * (1903 + 1615 + 260)


def test_both_styles_draw_every_emoji(entries: list[Entry]) -> None:
    by_style = defaultdict(set)
    for entry in entries:
        style, _, points = entry.name.partition("/")
        by_style[style].add(points)
        assert entry.fields["style"] == style
        assert isinstance(entry.data, Blob)
    assert by_style["openmoji"] == by_style["twemoji"]
    assert len(by_style["twemoji"]) * 2 == len(entries)


def test_every_class_of_the_main_pool_has_images_in_each_tone(entries: list[Entry]) -> None:
    tones = defaultdict(Counter)
    for entry in in_pool(entries, "main"):
        tones[entry.fields["class_name"]][entry.fields["skin_tone"]] += 1
    assert all(set(counts) == {"none", *emoji.TONES.values()} for counts in tones.values())


def test_what_differs_in_tone_alone_is_one_variant_group(entries: list[Entry]) -> None:
    groups = defaultdict(list)
    for entry in in_pool(entries, "main"):
        groups[entry.fields["variant_group"]].append(entry.fields)
    for group in groups.values():
        assert len(group) == 6
        assert len({fields["skin_tone"] for fields in group}) == 6
        for name in ("class_name", "gender", "style", "short_name"):
            assert len({fields[name] for fields in group}) == 1


def test_a_class_has_one_place_and_one_spelling(entries: list[Entry]) -> None:
    places, groups, spellings = defaultdict(set), defaultdict(set), defaultdict(set)
    for entry in entries:
        name = str(entry.fields["class_name"])
        places[name].add((*entry.fields["taxonomy"],))  # type: ignore[misc]
        groups[name].add(entry.fields["identity_group"])
    for entry in in_pool(entries, "main"):
        spellings[normal_name(str(entry.fields["class_name"]))].add(entry.fields["class_name"])
    assert all(len(found) == 1 for found in [*places.values(), *groups.values(), *spellings.values()])


def test_one_thing_under_two_names_is_one_identity_group(entries: list[Entry]) -> None:
    groups = {str(e.fields["class_name"]): e.fields["identity_group"] for e in entries}
    for names in (
        ("runner", "running"),
        ("cop", "police-officer"),
        ("doctor", "health-worker"),
        ("man", "woman"),
    ):
        assert len({groups[name] for name in names}) == 1
        assert groups[names[0]] is not None
    assert groups["cook"] is None  # the class is the only one of its thing
    main = {str(e.fields["class_name"]) for e in in_pool(entries, "main")}
    assert len({groups[name] or name for name in main}) == 154


def test_names_lose_their_gender_word_and_nothing_else(entries: list[Entry]) -> None:
    told = {e.name: (e.fields["class_name"], e.fields["gender"], e.fields["skin_tone"]) for e in entries}
    assert told["openmoji/1F468-1F3FE-200D-1F373"] == ("cook", "man", "medium-dark")
    assert told["openmoji/1F9D1-200D-1F373"] == ("cook", "person", "none")
    assert told["twemoji/1F64B-1F3FB-200D-2640-FE0F"] == ("raising-hand", "woman", "light")
    assert told["twemoji/1F44D"] == ("thumbsup", "none", "none")
    assert told["twemoji/1F646"] == (
        "person-gesture-ok",
        "person",
        "none",
    )  # short name ok_woman; `ok` is a button
    assert told["twemoji/1F473"] == ("with-turban", "person", "none")  # short name man_with_turban
    assert told["twemoji/1F475-1F3FF"] == ("older", "woman", "dark")
    assert told["openmoji/1F197"] == ("ok", "none", "none")
    assert told["openmoji/1F46B-1F3FD"][1] == "mixed"
    assert told["openmoji/1F9D1-1F3FB-200D-1F91D-200D-1F9D1-1F3FB"] == (
        "people-holding-hands",
        "person",
        "light",
    )


def test_drawings_are_drawn(entries: list[Entry]) -> None:
    by_name = {entry.name: entry for entry in entries}
    pictures = [Image(by_name[name].data).render(32) for name in ("openmoji/1F34E", "twemoji/1F34E")]
    for picture in pictures:
        assert picture.shape == (32, 32, 3)
        red, green = picture[12:24, 12:20].reshape(-1, 3).mean(axis=0)[:2]
        assert red > 150 > green  # an apple
    assert by_name["twemoji/1F34E"].fields["licence"] == "CC-BY-4.0"
    assert by_name["openmoji/1F34E"].fields["licence"] == "CC-BY-SA-4.0"


def test_mixed_pairs_are_left_out_and_counted() -> None:
    left = [item for item in emoji.scan(None) if isinstance(item, Problem)]
    assert {(item.reason, item.dropped) for item in left} == {("mixed_skin_tones", True)}
    assert len(left) == 520


def test_names_in_other_languages_come_if_asked_for() -> None:
    if find_spec("emoji") is None:
        with pytest.raises(MissingExtra, match="emoji names"):
            list(emoji.scan(None, languages=["de"]))
        pytest.skip("the package emoji is not installed")
    apple = next(
        e for e in entries_of(styles=["twemoji"], languages=["en", "de", "fr"]) if e.name == "twemoji/1F34E"
    )
    assert apple.fields["captions"] == ["red apple", "roter apfel", "pomme rouge"]
    with pytest.raises(CatalogError, match=r"has no xx; it has .*de"):
        list(emoji.scan(None, languages=["xx"]))


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emoji, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r'the emoji catalog .*pip install "datakit\[demo\]"'):
        list(emoji.scan(None))


def test_an_unknown_style_is_refused() -> None:
    with pytest.raises(CatalogError, match="noto is none of openmoji, twemoji"):
        list(emoji.scan(None, styles=["noto"]))


def test_a_style_that_lacks_a_drawing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = emoji._drawings("twemoji")
    monkeypatch.setattr(emoji, "_drawings", lambda style: {k: v for k, v in whole.items() if k != "1F34E"})
    problems = [item for item in emoji.scan(None, styles=["twemoji"]) if isinstance(item, Problem)]
    assert [(p.name, p.reason) for p in problems if p.reason != "mixed_skin_tones"] == [
        ("twemoji/1F34E", "missing_file")
    ]


def test_sequences_have_one_spelling() -> None:
    assert sequence_of("0023-FE0F-20E3") == sequence_of("23-20e3") == "23-20E3"
    assert sequence_of("1f468-200d-2764-fe0f-200d-1f468") == "1F468-200D-2764-200D-1F468"


def test_groups_join_what_code_points_join() -> None:
    def person(short_name: str, unified: str, *tones: str) -> dict[str, Any]:
        return {
            "short_name": short_name,
            "short_names": [short_name],
            "unified": unified,
            "category": "People & Body",
            "subcategory": "person-activity",
            "skin_variations": {tone: {"unified": f"{unified}-{tone}"} for tone in tones},
        }

    found = classes_of(
        [
            person("hopper", "1F3C3", "1F3FB"),
            person("woman-hopping", "1F3C3-200D-2640-FE0F"),
            person("male-baker", "1F468-200D-1F35E"),
            person("baker", "1F9D1-200D-1F35E"),
            person("woman", "1F469"),
        ]
    )
    assert {short: of["class_name"] for short, of in found.items()} == {
        "hopper": "hopper",
        "woman-hopping": "hopping",
        "male-baker": "baker",
        "baker": "baker",
        "woman": "woman",
    }
    assert found["hopper"]["identity_group"] == found["woman-hopping"]["identity_group"] == "hopper"
    assert found["baker"]["identity_group"] is found["woman"]["identity_group"] is None


def test_without_tones_each_name_is_drawn_once_by_each_style_and_the_rest_is_counted() -> None:
    found = list(emoji.scan(None, tones=False))
    kept = [item.fields for item in found if isinstance(item, Entry)]
    assert Counter(fields["style"] for fields in kept) == {"openmoji": 1903, "twemoji": 1903}
    assert len({fields["short_name"] for fields in kept}) == 1903
    left = Counter(item.reason for item in found if isinstance(item, Problem))
    assert left["skin_tone"] == 2 * (1615 + 260), "and none of them vanished"
