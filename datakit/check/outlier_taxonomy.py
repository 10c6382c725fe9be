"""No training outlier is, or descends from, anything that the test is about."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from datakit.check.finding import Finding, first_keys
from datakit.check.sides import Columns, count_of, only, read_split
from datakit.stage import Ref, Rows, reduce
from datakit.stages.names import canonical, normal_name
from datakit.stages.wordnet import Nouns, read_nouns

Same = Callable[[str], str]  # a name → its normal form
Kind = tuple[str, str, tuple[str, ...]]  # concept, class, taxonomy levels; "" for none


@reduce(version=1)
def check_outlier_taxonomy(
    rows: Rows,
    *,
    split: Ref[pa.Table],
    seed: int | None = None,
    roots: Sequence[str] = (),
    root_depth: int = 1,
    synonyms: Sequence[Sequence[str]] = (),
    edges: Ref[pa.Table] | None = None,
    wordnet: str = "",
) -> list[dict[str, Any]]:
    """From each outlier's concept, class and taxonomy levels up to the top, over `edges` (child, parent) and
    WordNet: none of what is passed is an ID or OOD class, its concept, its ancestor at level `root_depth`, or
    one of `roots`. The climb goes up where `leaky_outliers` goes down.
    """
    columns = read_split(rows, split.value, "concept", "taxonomy")
    nouns = read_nouns(wordnet) if wordnet else Nouns(parents={}, senses={}, words={})
    same = canonical(synonyms)
    ours = only(columns, role=("id", "ood", "val_ood"))
    tops = {node for name in [*roots, *_roots(ours, root_depth)] for node in _nodes(name, same, nouns)}
    above = _parents(edges.value if edges else None, same, nouns)
    outliers = only(columns, role="outlier")
    leaky = defaultdict[str, list[str]](list)
    for kind, keys in _by_kind(outliers).items():
        hit = _climb(_starts(kind, same, nouns), above) & tops
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
    starts = {same(word) for word in (concept, name, *levels) if word}
    # A concept says which sense is meant; a bare word may mean any.
    return starts if concept in nouns.parents or not name else starts | _nodes(name, same, nouns)


def _parents(edges: pa.Table | None, same: Same, nouns: Nouns) -> dict[str, set[str]]:
    """Node → nodes one level up."""
    found = defaultdict[str, set[str]](set)
    for wnid, above in nouns.parents.items():
        found[wnid].update(above)
    if edges is not None:
        for child, parent in zip(edges["child"].to_pylist(), edges["parent"].to_pylist(), strict=True):
            found[same(child)].add(same(parent))
    return found


def _climb(starts: set[str], above: Mapping[str, set[str]]) -> set[str]:
    """`starts` and everything over them."""
    seen, level = set(starts), set(starts)
    while level:
        level = {parent for node in level for parent in above.get(node, ())} - seen
        seen |= level
    return seen
