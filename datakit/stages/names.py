"""One spelling for a class name, so that the same class is found under two names."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from datakit.errors import ConfigError

ACCENTS = re.compile("[\u0300-\u036f]")  # of Latin, Greek, Cyrillic; not the voicing marks of kana
POINT = re.compile(r"(?<=\d)[.,](?=\d)")  # 1.5 is not 15
GAP = re.compile(r"[\W_]+")
SHARP = re.compile(r"(?<=[^\W\d_])#(?!\w)")  # C# is not C, but bird #1 is bird 1
S_ENDING = re.compile(r"(?:ss|us|is)$")  # glass, bus, iris: no plurals
ENDINGS = (
    *(("ies", "y"), ("ie", "y"), ("ches", "ch"), ("che", "ch"), ("shes", "sh"), ("xes", "x")),
    *(("sses", "ss"), ("zzes", "zz"), ("buses", "bus"), ("shoes", "shoe"), ("oes", "o")),
)  # cookies and cookie, berries and berry; first match counts


def normal_name(name: str) -> str:
    """`name` without case, accents, width, punctuation, spaces and plural endings.

    "Ruffed Grouse", "ruffed_grouse" and "ruffed-grouses" give the same; "737-300" and "737-400" do not, nor do
    "C", "C#" and "C++". A name of signs alone keeps them: "∑" is not "∫".
    """
    plain = name if name.isascii() else ACCENTS.sub("", unicodedata.normalize("NFKD", name))
    plain = unicodedata.normalize("NFKC", plain).casefold()
    plain = SHARP.sub(" sharp ", POINT.sub("p", plain)).replace("+", " plus ")
    plain = plain.replace("'", "").replace("’", "")
    return "".join(_singular(word) for word in GAP.split(plain)) or _signs(name)


def canonical(synonyms: Sequence[Sequence[str]] = ()) -> Callable[[str], str]:
    """`normal_name`, with each group of synonyms given one name. Raises ConfigError if groups overlap."""
    first: dict[str, str] = {}
    for group in synonyms:
        known = [normal_name(name) for name in group]
        for name in known:
            if first.setdefault(name, known[0]) != known[0]:
                raise ConfigError(f"synonyms: {name} is in two groups; join them into one")
    return lambda name: first.get(normal_name(name), normal_name(name))


def collisions(names: Iterable[str], synonyms: Sequence[Sequence[str]] = ()) -> dict[str, list[str]]:
    """Normal name → the different names, sorted, that share it; only where there are two or more."""
    same, found = canonical(synonyms), defaultdict[str, set[str]](set)
    for name in names:
        found[same(name)].add(name)
    return {key: sorted(group) for key, group in sorted(found.items()) if len(group) > 1}


def _signs(name: str) -> str:
    """`name` without spaces and without the selector that makes a sign a coloured picture."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().replace("\ufe0f", "").split())


def _singular(word: str) -> str:
    """Wrong on rare words, but only for comparing: both forms of a word are to come out alike."""
    if len(word) > 4:
        for ending, singular in ENDINGS:
            if word.endswith(ending):
                return word.removesuffix(ending) + singular
    if len(word) > 3 and word.endswith("s") and not S_ENDING.search(word):
        return word[:-1]
    return word
