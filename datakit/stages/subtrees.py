"""Holding out by the taxonomy: single leaves for the near tier, whole subtrees for the mid and the far tier."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from datakit.errors import ConfigError, did_you_mean
from datakit.stages.classes import Path
from datakit.stages.taxonomy import TIERS

SHARES = {"near": 0.6, "mid": 0.2, "far": 0.2}  # of the held-out classes


def draw_by_taxonomy(
    units: Sequence[Sequence[str]],
    taxonomy: Mapping[str, Sequence[str]],
    wanted: int,
    rng: np.random.Generator,
    shares: Mapping[str, float],
    keep_per_parent: int,
) -> set[str]:
    """Up to `wanted` held-out classes, whole units only, with `shares` of them meant for each tier.

    far: everything under the grandparent of some leaf, so that what stays is three levels away or nowhere.
    mid: everything under one parent whose own parent keeps ID classes elsewhere. near: single units, as long
    as each parent keeps `keep_per_parent` ID leaves. A subtree larger than what is left of its tier's share
    is passed over, and what mid and far do not use goes to near.
    """
    quota = _quotas(shares, wanted)
    paths = {name: tuple(taxonomy[name]) for unit in units for name in unit}
    below = _below(paths)
    unit_of = {name: frozenset(unit) for unit in units for name in unit}
    grandparents = {path[:-1] or path for path in paths.values() if path}
    parents = {path for path in paths.values() if len(path) > 1}
    taken: set[str] = set()

    def keeps_cousins(node: Path, members: set[str]) -> bool:
        return bool(below[node[:-1]] - taken - members)

    _take(grandparents, below, quota["far"], rng, taken, unit_of, lambda node, members: True)
    _take(parents, below, quota["mid"], rng, taken, unit_of, keeps_cousins)
    _take_leaves(units, paths, wanted, rng, taken, keep_per_parent)
    if len(taken) + max(len(unit) for unit in units) <= wanted:
        raise ConfigError(
            f"only {len(taken)} of {wanted} classes can be held out while each parent keeps "
            f"{keep_per_parent} ID leaves; lower n_ood or keep_per_parent, or give mid and far more of the shares"
        )
    return taken


def needed_known(
    units: Sequence[Sequence[str]],
    taxonomy: Mapping[str, Sequence[str]],
    held_out: set[str],
    rng: np.random.Generator,
    keep_per_parent: int,
) -> set[str]:
    """ID classes, whole units, without which a held-out class would be further away than it was drawn for.

    Of the siblings of a held-out class `keep_per_parent`, at least one; where it has none left, one cousin. To be
    far needs nothing.
    """
    paths = {name: tuple(taxonomy[name]) for unit in units for name in unit}
    rest = [set(unit) for unit in units if not held_out.intersection(unit)]
    left = {name: paths[name] for unit in rest for name in unit}
    below, siblings = _below(left), defaultdict[Path, set[str]](set)
    for name, path in left.items():
        siblings[path].add(name)
    parents = sorted({paths[name] for name in held_out}, key=lambda path: (-len(path), path))
    near = [(siblings[path], max(1, keep_per_parent)) for path in parents if path in siblings]
    alone = [path for path in parents if path not in siblings]
    nodes = {node for path in alone for node in [path if path in below else path[:-1]] if node in below}
    # What lies deeper first: it may serve what lies over it.
    other = [(below[node], 1) for node in sorted(nodes, key=lambda path: (-len(path), path))]
    return _cover([*near, *other], [rest[index] for index in rng.permutation(len(rest))])


def _cover(needs: Sequence[tuple[set[str], int]], units: Sequence[set[str]]) -> set[str]:
    """Whole units, small ones first and else in this order, that hold of each set as many as are needed."""
    order = sorted(units, key=len)
    rank = {name: at for at, unit in enumerate(order) for name in unit}
    taken: set[str] = set()
    for members, count in needs:
        for name in sorted(members, key=lambda name: rank[name]):
            if len(taken & members) < count:
                taken |= order[rank[name]]
    return taken


def _quotas(shares: Mapping[str, float], wanted: int) -> dict[str, int]:
    for tier, share in shares.items():
        if tier not in TIERS:
            raise ConfigError(f"shares: unknown tier {tier}{did_you_mean(tier, TIERS)}")
        if share < 0:
            raise ConfigError(f"shares: {tier} is {share}; a share is from 0 to 1")
    if not np.isclose(sum(shares.values()), 1):
        raise ConfigError(f"shares: they sum to {sum(shares.values()):g}; make them sum to 1")
    far = round(shares.get("far", 0) * wanted)
    # Two halves may both be rounded up.
    return {"mid": min(round(shares.get("mid", 0) * wanted), wanted - far), "far": far}


def _below(paths: Mapping[str, Path]) -> dict[Path, set[str]]:
    found = defaultdict[Path, set[str]](set)
    for name, path in paths.items():
        for depth in range(1, len(path) + 1):
            found[path[:depth]].add(name)
    return found


def _take(
    nodes: Iterable[Path],
    below: Mapping[Path, set[str]],
    quota: int,
    rng: np.random.Generator,
    taken: set[str],
    unit_of: Mapping[str, frozenset[str]],
    allowed: Callable[[Path, set[str]], bool],
) -> None:
    """Adds whole subtrees to `taken`, in random order, while they fit into `quota`."""
    everything = len(unit_of)
    left = quota
    for node in _shuffled(nodes, rng):
        members = below[node] - taken
        whole = all(unit_of[name] - taken <= members for name in members)
        fits = 0 < len(members) <= left and len(taken) + len(members) < everything
        if whole and fits and allowed(node, members):
            taken |= members
            left -= len(members)


def _take_leaves(
    units: Sequence[Sequence[str]],
    paths: Mapping[str, Path],
    wanted: int,
    rng: np.random.Generator,
    taken: set[str],
    keep: int,
) -> None:
    """Adds single units to `taken` up to `wanted` classes; each parent keeps `keep` ID leaves."""
    leaves = defaultdict[Path, int](int)
    for name, path in paths.items():
        leaves[path] += name not in taken
    for index in rng.permutation(len(units)):
        unit = set(units[index])
        if unit & taken or len(taken) + len(unit) > wanted:
            continue
        losing = [paths[name] for name in unit]
        if all(leaves[path] - losing.count(path) >= keep for path in losing):
            taken |= unit
            for path in losing:
                leaves[path] -= 1


def _shuffled(nodes: Iterable[Path], rng: np.random.Generator) -> list[Path]:
    ordered = sorted(nodes)
    return [ordered[index] for index in rng.permutation(len(ordered))]
