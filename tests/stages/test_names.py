from __future__ import annotations

import pytest

from datakit.errors import ConfigError
from datakit.stages.names import canonical, collisions, normal_name


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ruffed Grouse", "ruffed_grouse"),
        ("T-shirt", "t shirts"),
        ("Citroën C3", "CITROEN C3"),
        ("ｋｅｓｔｒｅｌ", "kestrel"),
        ("straße", "STRASSE"),
        ("men's shoes", "mens shoe"),
        ("butterflies", "butterfly"),
        ("cookies", "cookie"),
        ("boxes", "box"),
        ("peaches", "peach"),
        ("tomatoes", "tomato"),
        ("buses", "bus"),
        ("houses", "house"),
        ("glasses", "glass"),
        ("birds of prey", "bird of prey"),
        ("bird #1", "Bird 1"),
        ("\u2600", "\u2600\ufe0f"),
        ("％", " %"),
    ],
)
def test_spellings_of_one_name_are_one(one: str, other: str) -> None:
    assert normal_name(one) == normal_name(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("737-300", "737-400"), ("BMW 1.5", "BMW 15"), ("cap", "cape"), ("C++", "C"), ("C#", "C"), ("C#", "C++"),
     ("\u2211", "\u222b"), ("%", "="), ("=", "\u2260"), ("\u2600", ""), ("bus", "bu"), ("か", "が"),
     ("glass", "gla"), ("iris", "iri")],
)  # fmt: skip
def test_different_names_stay_different(one: str, other: str) -> None:
    assert normal_name(one) != normal_name(other)


def test_collisions_are_listed_with_their_spellings() -> None:
    names = ["Sparrow", "sparrows", "hawk", "hawk", "buzzard"]
    assert collisions(names) == {"sparrow": ["Sparrow", "sparrows"]}
    assert collisions(names, [["hawk", "buzzard"]])["hawk"] == ["buzzard", "hawk"]


def test_synonyms_may_not_overlap() -> None:
    assert canonical([["sofa", "couch"]])("Couches") == "sofa"
    with pytest.raises(ConfigError, match="couch is in two groups"):
        canonical([["sofa", "couch"], ["settee", "couch"]])
