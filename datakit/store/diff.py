"""Two published stores compared, sample by sample, by a join on keys and digests; no tree is walked.

A shard whose tar and metadata have the same sha256 on both sides is the same samples, and is not read: two versions
of a store cost what changed between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from datakit.store.diff_rows import Bools, Ints, Pairs, Side, changed_members, differing, join, renamed
from datakit.store.lines import plain
from datakit.store.metadata import KEY, LOCATION
from datakit.store.reader import Store

SHOWN = 20  # samples listed of each kind
IMAGE, MEMBERS = "image", "members"  # what may change beside columns


@dataclass(frozen=True, kw_only=True)
class RowsDiff:
    """How the samples of two tables differ. All counts are exact; the rows listed are the first ones.

    A renamed sample (the same image under another key) is neither added nor removed. A sample counts as `changed`
    and as `moved` where it is both. `fields`: how many samples differ in it; `image`: other bytes of the image;
    `members`: other bytes in the tar though no column differs.
    """

    added: int
    removed: int
    renamed: int
    changed: int
    moved: int
    same: int
    fields: Mapping[str, int] = field(default_factory=dict)
    moves: Mapping[str, int] = field(default_factory=dict)
    columns_added: tuple[str, ...] = ()
    columns_removed: tuple[str, ...] = ()
    columns_retyped: tuple[str, ...] = ()
    rows: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        counts = (self.added, self.removed, self.renamed, self.changed, self.moved)
        return not any((*counts, self.columns_added, self.columns_removed, self.columns_retyped))


@dataclass(frozen=True, kw_only=True)
class StoreDiff:
    """`a`, `b`: name, digest and number of samples of each. `identical`: every byte of both is the same."""

    a: Mapping[str, Any]
    b: Mapping[str, Any]
    samples: RowsDiff
    selections: Mapping[str, RowsDiff]
    selections_added: tuple[str, ...]
    selections_removed: tuple[str, ...]
    layout: tuple[str, ...]

    @property
    def identical(self) -> bool:
        return bool(self.a["digest"] == self.b["digest"])

    @property
    def equal(self) -> bool:
        """Whether samples, lists and layout are the same; texts such as the card's may differ."""
        lists = all(found.equal for found in self.selections.values())
        return (
            self.samples.equal
            and lists
            and not (self.selections_added or self.selections_removed or self.layout)
        )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "equal": self.equal, "identical": self.identical}


def diff(a: Store, b: Store, *, show: int = SHOWN) -> StoreDiff:
    """What B has otherwise than A. Raises StoreError where either is damaged."""
    shared = [name for name in a.selections if name in b.selections]
    layouts = asdict(a.layout), asdict(b.layout)
    return StoreDiff(
        a=_described(a),
        b=_described(b),
        samples=_samples(a, b, show),
        selections={name: _lists(a, b, name, show) for name in shared},
        selections_added=tuple(name for name in b.selections if name not in a.selections),
        selections_removed=tuple(name for name in a.selections if name not in b.selections),
        layout=tuple(name for name in layouts[0] if layouts[0][name] != layouts[1][name]),
    )


def _described(store: Store) -> dict[str, Any]:
    samples = sum(store.contents.counts.values())
    return {"store": store.files.name, "name": store.name, "digest": store.digest, "samples": samples}


def _samples(a: Store, b: Store, show: int) -> RowsDiff:
    both = _marks(a) & _marks(b)
    skipped = sum(
        entry.samples for entry in a.contents.entries if (entry.tar.sha256, entry.metadata.sha256) in both
    )
    one, other = (_side(store, both) for store in (a, b))
    pairs = join(one, other)
    old, new = renamed(one, other, pairs)
    found = _compare(one, other, pairs, (old, new), show)
    return replace(found, same=found.same + skipped)


def _marks(store: Store) -> set[tuple[str, str]]:
    return {(entry.tar.sha256, entry.metadata.sha256) for entry in store.contents.entries}


def _side(store: Store, without: set[tuple[str, str]]) -> Side:
    entries = store.contents.entries
    read = [entry for entry in entries if (entry.tar.sha256, entry.metadata.sha256) not in without]
    schema = store.schema(entries[0].metadata.path)
    return Side(store, [entry.metadata.path for entry in read], schema, sum(entry.samples for entry in read))


def _lists(a: Store, b: Store, name: str, show: int) -> RowsDiff:
    path = f"lists/{name}.parquet"
    one, other = (Side(store, [path], store.schema(path)) for store in (a, b))
    none = np.zeros(0, np.int64)
    return _compare(one, other, join(one, other), (none, none), show)


def _compare(a: Side, b: Side, pairs: Pairs, names: tuple[Ints, Ints], show: int) -> RowsDiff:
    """names: rows of A and of B that are one sample under two keys."""
    left, right = (
        np.concatenate([some, more]) for some, more in zip((pairs.left, pairs.right), names, strict=True)
    )
    gone, new = np.setdiff1d(pairs.only_left, names[0]), np.setdiff1d(pairs.only_right, names[1])
    fields = {name: unlike for name in _shared(a, b) if (unlike := differing(a, b, name, left, right)).any()}
    if "xxh3" in a.schema.names:
        fields |= _members(a, b, pairs, fields, len(left))
    changed = np.logical_or.reduce([np.zeros(len(left), bool), *fields.values()])
    moved = differing(a, b, "split", left, right)
    is_new_name = np.arange(len(left)) >= len(pairs.left)
    moves = _moves(a, b, left[moved], right[moved])
    return RowsDiff(
        added=len(new),
        removed=len(gone),
        renamed=len(names[0]),
        changed=int(changed.sum()),
        moved=int(moved.sum()),
        same=int((~changed & ~moved & ~is_new_name).sum()),
        fields={name: int(unlike.sum()) for name, unlike in fields.items()},
        moves=moves,
        columns_added=tuple(name for name in b.schema.names if name not in a.schema.names),
        columns_removed=tuple(name for name in a.schema.names if name not in b.schema.names),
        columns_retyped=tuple(name for name in _shared(a, b) if _type(a, name) != _type(b, name)),
        rows={
            "added": _rows(new[:show], {"key": b.keys, "split": b.column("split")}),
            "removed": _rows(gone[:show], {"key": a.keys, "split": a.column("split")}),
            "renamed": _both(names[0][:show], names[1][:show], a.keys, b.keys),
            "changed": _changes(b, right, changed, fields, show),
            "moved": _moved(a, b, left[moved][:show], right[moved][:show]),
        },
    )


def _members(a: Side, b: Side, pairs: Pairs, fields: Mapping[str, Bools], rows: int) -> dict[str, Bools]:
    """What columns do not tell. Renamed samples are of one image, and their columns tell the rest."""
    image, others = changed_members(a, b, pairs.left, pairs.right)
    told = np.logical_or.reduce([np.zeros(rows, bool), *fields.values()])
    missing = rows - len(image)
    found = {IMAGE: np.pad(image, (0, missing)), MEMBERS: np.pad(others, (0, missing)) & ~told}
    return {name: unlike for name, unlike in found.items() if unlike.any()}


def _shared(a: Side, b: Side) -> list[str]:
    own = {KEY, *LOCATION.names}
    return [name for name in a.schema.names if name in b.schema.names and name not in own]


def _type(side: Side, name: str) -> pa.DataType:
    return side.schema.field(name).type


def _moves(a: Side, b: Side, left: Ints, right: Ints) -> dict[str, int]:
    splits = {"old": a.column("split").take(pa.array(left)), "new": b.column("split").take(pa.array(right))}
    found = pa.table(splits).group_by(["old", "new"]).aggregate([([], "count_all")]).to_pylist()
    return dict(sorted((f"{row['old']} → {row['new']}", row["count_all"]) for row in found))


def _rows(rows: Ints, columns: Mapping[str, pa.ChunkedArray]) -> list[dict[str, Any]]:
    taken = {name: column.take(pa.array(rows)).to_pylist() for name, column in columns.items()}
    return [dict(zip(taken, values, strict=True)) for values in zip(*taken.values(), strict=True)]


def _both(left: Ints, right: Ints, one: pa.ChunkedArray, other: pa.ChunkedArray) -> list[dict[str, Any]]:
    old, new = one.take(pa.array(left)).to_pylist(), other.take(pa.array(right)).to_pylist()
    return [{"from": before, "to": after} for before, after in zip(old, new, strict=True)]


def _moved(a: Side, b: Side, left: Ints, right: Ints) -> list[dict[str, Any]]:
    splits = _both(left, right, a.column("split"), b.column("split"))
    keys = _rows(right, {"key": b.keys})
    return [{**key, **split} for key, split in zip(keys, splits, strict=True)]


def _changes(
    b: Side, right: Ints, changed: Bools, fields: Mapping[str, Bools], show: int
) -> list[dict[str, Any]]:
    at = np.flatnonzero(changed)[:show]
    rows = _rows(right[at], {"key": b.keys, "split": b.column("split")})
    return [
        {**row, "fields": [name for name, unlike in fields.items() if unlike[index]]}
        for row, index in zip(rows, at, strict=True)
    ]


def diff_text(found: StoreDiff) -> str:
    """For people: counts, then the first samples of each kind."""
    lines = [f"{side}  {plain(at['store'])}: {plain(at['name'])}, {at['samples']} samples" for side, at in
             (("A", found.a), ("B", found.b))]  # fmt: skip
    if found.identical:
        return "\n".join([*lines, "the same store: every file has the same digest"])
    if found.layout:
        lines.append(f"the layout differs in {', '.join(found.layout)}")
    lines += _counts(found.samples)
    for name in found.selections_added:
        lines.append(f"lists/{name}: only in B")
    for name in found.selections_removed:
        lines.append(f"lists/{name}: only in A")
    for name, rows in found.selections.items():
        lines += [f"lists/{name}: the same"] if rows.equal else [f"lists/{name}", *_counts(rows)]
    return "\n".join([*lines, "samples are the same" if found.equal else "the stores differ"])


def _counts(found: RowsDiff) -> list[str]:
    counted = {
        "added": "", "removed": "", "renamed": "",
        "changed": ", ".join(f"{name} {count}" for name, count in found.fields.items()),
        "moved": ", ".join(f"{move} {count}" for move, count in found.moves.items()),
    }  # fmt: skip
    lines = [f"  same      {found.same}"]
    for kind, how in counted.items():
        lines.append(f"  {kind:<8}  {getattr(found, kind)}{f'   ({how})' if how else ''}")
        shown = found.rows.get(kind, ())
        lines += [f"    {_row(row)}" for row in shown]
        if (more := getattr(found, kind) - len(shown)) > 0 and shown:
            lines.append(f"    … and {more} more")
    for what in ("added", "removed", "retyped"):
        if names := getattr(found, f"columns_{what}"):
            lines.append(f"  columns {what}: {', '.join(map(plain, names))}")
    return lines


def _row(row: Mapping[str, Any]) -> str:
    words = [row["key"]] if "key" in row else []
    words += [f"{row['from']} → {row['to']}"] if "from" in row else [f"in {row['split']}"]
    words += [", ".join(row["fields"])] if "fields" in row else []
    return plain("  ".join(words))
