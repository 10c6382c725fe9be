"""WordNet's nouns from its own files: which concepts lie above a concept, which a word may mean."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from datakit.errors import CatalogError
from datakit.stages.names import normal_name

HYPERNYM = ("@", "@i")  # kind of, instance of


@dataclass(frozen=True, kw_only=True)
class Nouns:
    """parents: wnid → wnids one level up. senses: normal name → wnids, sorted.

    A wnid is n and the synset's offset in eight digits, as ImageNet writes it; offsets are those of the
    release that was read (ImageNet's are of WordNet 3.0).
    """

    parents: Mapping[str, tuple[str, ...]]
    senses: Mapping[str, tuple[str, ...]]


def read_nouns(folder: str | Path) -> Nouns:
    """`data.noun` of a WordNet dict folder, parsed. Raises CatalogError naming the file and the line.

    A line: offset, file number, type, word count (hex), word and its id …, pointer count, then for each
    pointer its symbol, offset, part of speech and source/target; a gloss after a bar. See wndb(5WN).
    """
    file = Path(folder) / "data.noun"
    parents: dict[str, tuple[str, ...]] = {}
    senses = defaultdict[str, list[str]](list)
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.startswith("  "):  # the licence
                    continue
                wnid, lemmas, above = _synset(line, f"{file}, line {number}")
                parents[wnid] = above
                for name in {normal_name(lemma) for lemma in lemmas}:
                    senses[name].append(wnid)
    except OSError as problem:
        raise CatalogError(f"no WordNet at {folder}: {problem}") from problem
    sorted_senses = {name: tuple(sorted(found)) for name, found in senses.items()}
    return Nouns(parents=parents, senses=sorted_senses)


def _synset(line: str, where: str) -> tuple[str, list[str], tuple[str, ...]]:
    """(wnid, lemmas, wnids one level up)"""
    parts = line.partition("|")[0].split()
    try:
        start = 4 + 2 * int(parts[3], 16)
        lemmas = [word.replace("_", " ") for word in parts[4:start:2]]
        pointers = [parts[start + 1 + 4 * i : start + 5 + 4 * i] for i in range(int(parts[start]))]
        above = tuple(f"n{int(p[1]):08d}" for p in pointers if p[0] in HYPERNYM and p[2] == "n")
        return f"n{int(parts[0]):08d}", lemmas, above
    except (IndexError, ValueError) as problem:
        raise CatalogError(f"{where} is not a WordNet noun: {line[:60]!r}") from problem
