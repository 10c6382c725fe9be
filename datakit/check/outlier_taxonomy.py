"""No training outlier is, or descends from, anything that the test is about."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from datakit.check.finding import Finding, first_keys
from datakit.check.sides import Columns, count_of, only, read_split
from datakit.stage import Ref, Rows, reduce
from datakit.stages.names import canonical, normal_name
from datakit.stages.wordnet import Nouns, read_nouns

Same = Callable[[str], str]  # a name → its normal form
Kind = tuple[str, str, tuple[str, ...]]  # concept, class, taxonomy levels; "" for none


@reduce(version=2)
def check_outlier_taxonomy(
    rows: Rows,
    *,
    split: Ref[pa.Table],
    seed: int | None = None,
    roots: Sequence[str] = (),
    root_depth: int = 1,
    synonyms: Sequence[Sequence[str]] = (),
    wordnet: str = "",
) -> list[dict[str, Any]]:
    """From each outlier's concept, class and taxonomy levels up to the top, over WordNet:
    none of what is passed is an ID or OOD class, its concept, its ancestor at level `root_depth`, or
    one of `roots`. The climb goes up where `leaky_outliers` goes down.
    """
    columns = read_split(rows, split.value, "concept", "taxonomy")
    nouns = read_nouns(wordnet) if wordnet else Nouns(parents={}, senses={})
    same = canonical(synonyms)
    ours = only(columns, role=("id", "ood", "val_ood"))
    tops = {node for name in [*roots, *_roots(ours, root_depth)] for node in _nodes(name, same, nouns)}
    outliers = only(columns, role="outlier")
    leaky = defaultdict[str, list[str]](list)
    for kind, keys in _by_kind(outliers).items():
        hit = _climb(_starts(kind, same, nouns), nouns.parents) & tops
        if hit:
            leaky[f"{kind[1] or kind[0]} under {min(hit)}"] += keys
    count = sum(map(len, leaky.values()))
    return [
        Finding(
            id="outlier_taxonomy",
            severity="fail",
            passed=not count,
            count=count,
            keys=first_keys(key for keys in leaky.values() for key in keys),
            summary=f"{count_of(count, 'outlier shows', 'outliers show')} what the test is about: {min(leaky)}"
            if count
            else f"{count_of(len(outliers['key']), 'outlier')}, none under an ID or OOD class or root",
            detail={
                "roots": len(tops),
                "concepts": {name: len(keys) for name, keys in sorted(leaky.items())[:50]},
            },
            seed=seed,
        ).to_json()
    ]


def _roots(ours: Columns, depth: int) -> set[str]:
    """Classes, concepts and the ancestors at level `depth`."""
    levels = {path[depth - 1] for path in ours["taxonomy"] if path and len(path) >= depth > 0}
    return levels | set(ours["class_name"]) | {concept for concept in ours["concept"] if concept}


def _nodes(name: str, same: Same, nouns: Nouns) -> set[str]:
    return {same(name), *nouns.senses.get(normal_name(name), ())}


def _by_kind(outliers: Columns) -> dict[Kind, list[str]]:
    """(concept, class, levels) → keys."""
    found = defaultdict[Kind, list[str]](list)
    names = ("key", "concept", "class_name", "taxonomy")
    for key, concept, name, path in zip(*(outliers[column] for column in names), strict=True):
        found[concept or "", name or "", tuple(path or ())].append(key)
    return found


def _starts(kind: Kind, same: Same, nouns: Nouns) -> set[str]:
    concept, name, levels = kind
    words = [word for word in (concept, name, *levels) if word]
    # A wnid says which sense is meant; a bare word may mean any.
    if concept in nouns.parents:
        return {same(word) for word in words}
    return {node for word in words for node in _nodes(word, same, nouns)}


def _climb(starts: set[str], above: Mapping[str, Iterable[str]]) -> set[str]:
    """`starts` and everything over them."""
    seen, level = set(starts), set(starts)
    while level:
        level = {parent for node in level for parent in above.get(node, ())} - seen
        seen |= level
    return seen
