"""Training outliers that would give the test away: concepts that are, or lie under, a class of ours."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from datakit.stage import Ref, Rows, reduce
from datakit.stages.classes import SEP, joined_paths
from datakit.stages.columns import codes, read_columns
from datakit.stages.names import canonical, normal_name
from datakit.stages.wordnet import Nouns, read_nouns

GROUPS = ("identity_group", "variant_group")
Verdict = tuple[str | None, str | None]  # reason and root of a leak, or twice None
Same = Callable[[str], str]  # a name → its normal form


@reduce(version=2)
def leaky_outliers(
    rows: Rows,
    *,
    classes: Ref[pa.Table],
    roots: Sequence[str] = (),
    root_depth: int = 1,
    synonyms: Sequence[Sequence[str]] = (),
    wordnet: str = "",
) -> pa.Table:
    """The images of the pool `outliers` that no training may use: key, reason, root (what they fall under).

    Roots are all main, far and coarse classes (by name and by concept), their ancestors at level
    `root_depth` of the taxonomy (0: none), and `roots`: names, or wnids as n01503061. An outlier leaks if its
    concept, class or one of its taxonomy levels is a root (reason leaky_name) or descends from one
    (leaky_concept) over WordNet (`wordnet`: its dict folder).
    Where the concept is no wnid, each of these words counts with all its senses.
    An outlier of an identity or variant group of ours leaks too (kin).
    """
    same = canonical(synonyms)
    nouns = read_nouns(wordnet) if wordnet else Nouns(parents={}, senses={})
    names = _roots(classes.value, roots, root_depth)
    start = {node: name for name in names for node in _meanings(name, same, nouns)}
    under = _descendants(start, _children(nouns))
    table = read_columns(rows, "__key__", "pool", "concept", "class_name", "taxonomy", *GROUPS)
    ours, table = _by_side(table)
    kinds = pc.binary_join_element_wise(
        pc.fill_null(table["concept"], ""),
        pc.fill_null(table["class_name"], ""),
        joined_paths(table["taxonomy"]),
        SEP,
    )
    number, texts = codes(kinds)
    verdicts = [_verdict(text.split(SEP), start, under, same, nouns) for text in texts]
    kin = _kin(ours, table)
    leaks = [verdicts[at] if verdicts[at][0] else kin[row] for row, at in enumerate(number)]
    found = pa.table(
        {
            "key": table["__key__"],
            "reason": pa.array([reason for reason, _ in leaks], pa.string()),
            "root": pa.array([root for _, root in leaks], pa.string()),
        }
    )
    return found.filter(pc.is_valid(found["reason"]))


def _by_side(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The rows of ours, and the outliers."""
    outliers = pc.fill_null(pc.equal(table["pool"], "outliers"), False)
    return table.filter(pc.invert(outliers)), table.filter(outliers)


def _kin(ours: pa.Table, outliers: pa.Table) -> list[Verdict]:
    """Of each outlier the identity or variant group that it has in common with us."""
    found: list[Verdict] = [(None, None)] * outliers.num_rows
    for group in GROUPS:
        shared = set(pc.unique(ours[group]).to_pylist()) - {None}
        for row, value in enumerate(outliers[group].to_pylist()):
            if value in shared:
                found[row] = ("kin", value)
    return found


def _roots(classes: pa.Table, roots: Sequence[str], depth: int) -> list[str]:
    """Names and concept ids of everything that an outlier must not be, declared ones last."""
    ours = classes.filter(pc.not_equal(classes["pool"], "outliers"))
    levels = [path[depth - 1] for path in ours["taxonomy"].to_pylist() if len(path) >= depth > 0]
    concepts = [concept for concept in ours["concept"].to_pylist() if concept]
    return [*dict.fromkeys([*levels, *ours["class_name"].to_pylist(), *concepts, *roots])]


def _meanings(name: str, same: Same, nouns: Nouns) -> list[str]:
    """The nodes a name stands for: itself, and the concepts it may mean."""
    return [same(name), *nouns.senses.get(normal_name(name), ())]


def _children(nouns: Nouns) -> dict[str, list[str]]:
    """Concept → concepts one level down."""
    found = defaultdict[str, list[str]](list)
    for wnid, above in nouns.parents.items():
        for parent in above:
            found[parent].append(wnid)
    return found


def _descendants(start: Mapping[str, str], children: Mapping[str, list[str]]) -> dict[str, str]:
    """Every node at or under a start → the root it was reached from."""
    found, waiting = dict(start), list(start)
    while waiting:
        node = waiting.pop()
        for child in children.get(node, ()):
            if child not in found:
                found[child] = found[node]
                waiting.append(child)
    return found


def _verdict(
    kind: Sequence[str],
    start: Mapping[str, str],
    under: Mapping[str, str],
    same: Same,
    nouns: Nouns,
) -> Verdict:
    """(reason, root) for concept, class and levels; both None if they are clean."""
    concept, class_name, *levels = kind
    names = [name for name in (concept, class_name, *levels) if name]
    nodes = [same(name) for name in names]
    if concept not in nouns.parents:  # a wnid says which sense is meant; a bare word may mean any
        nodes += [node for name in names for node in nouns.senses.get(normal_name(name), ())]
    for node in nodes:
        if node in start:
            return "leaky_name", start[node]
    for node in nodes:
        if node in under:
            return "leaky_concept", under[node]
    return None, None
