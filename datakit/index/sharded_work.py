"""The folder that a sharded build works in: the plan, and what jobs made of it, each with a record, written last.

A file holds arrays, one behind the other, to be mapped; its record says where each lies, which plan they are of, and
the digest of it all: what is of another plan, or was damaged since, is made again. So a build killed at any moment goes
on from what is whole, and two that run at once write the same bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from datakit.disk import digest_of, remove_orphans
from datakit.errors import ConfigError, EnvironmentProblem, StoreError
from datakit.index import folder, stream
from datakit.index.arrays import Floats
from datakit.index.base import axes_of
from datakit.index.basis import Axes
from datakit.index.build import Trained
from datakit.index.pack import libraries
from datakit.index.sharded_parts import Part, read_vectors
from datakit.index.spec import Spec
from datakit.index.spec_json import from_json
from datakit.manifest import read_record, write_record
from datakit.store.contents import canonical

PLAN = "plan.json"
MARK = ".datakit-index"  # says that the folder is ours, and what lies there may be taken away
KINDS = "wanted|held|sample|trained|axes|narrow|centroids|sums|part|range"
OURS = re.compile(rf"({KINDS})(-[0-9]+)*\.(json|bin)(\.part-.*)?")
ALIGNED = 64  # bytes, as Arrow lays them


def plan_of(
    parts: Iterable[Part], digests: Iterable[str], column: str, spec: Spec, dim: int
) -> dict[str, Any]:
    """What is built, in words. spec: settled; digests: of the vectors of each part."""
    cut = [asdict(part) | {"xxh3": digest} for part, digest in zip(parts, digests, strict=True)]
    return {
        "parts": cut,
        "column": column,
        "spec": spec.to_json(),
        "rows": sum(part["stop"] - part["start"] for part in cut),
        "dim": dim,
        "libraries": libraries(),
    }


def fingerprint(plan: Mapping[str, Any]) -> str:
    """Of what is built, not of where it lies: files may be moved, or be written anew with the same vectors."""
    what = {name: plan[name] for name in ("spec", "rows", "dim", "libraries")}
    parts = [[part["stop"] - part["start"], part["xxh3"]] for part in plan["parts"]]
    return xxhash.xxh3_128_hexdigest(canonical({**what, "parts": parts}))


@dataclass(frozen=True)
class Work:
    """The folder of a build, and its plan."""

    base: Path
    plan: Mapping[str, Any]

    @classmethod
    def begun(cls, base: Path, plan: Mapping[str, Any]) -> Work:
        """As the build goes about it, the first time or again. Raises ConfigError for a folder of somebody else's."""
        base.mkdir(parents=True, exist_ok=True)
        if not (base / MARK).exists():
            if any(base.iterdir()):
                raise ConfigError(f"{base} holds other files: name a new folder to work in")
            (base / MARK).touch()
        remove_orphans(base, ours=False)
        write_record(base / PLAN, plan)
        return cls(base, read_record(base / PLAN) or plan)

    @classmethod
    def opened(cls, base: str, print: str) -> Work:
        """As a job finds it. Raises StoreError where another build works there, EnvironmentProblem for other libraries
        than those that the build began with: they would give other bytes.
        """
        plan = read_record(Path(base) / PLAN)
        if plan is None or fingerprint(plan) != print:
            raise StoreError(
                f"{base} is worked in by another build, or its {PLAN} is damaged; begin the build again"
            )
        if plan["libraries"] != libraries():
            raise EnvironmentProblem(f"a worker has {libraries()}, and the build has {plan['libraries']}")
        return cls(Path(base), plan)

    @cached_property
    def print(self) -> str:
        return fingerprint(self.plan)

    @cached_property
    def spec(self) -> Spec:
        return from_json(self.plan["spec"])

    @cached_property
    def parts(self) -> list[Part]:
        names = ("path", "start", "stop", "first")
        return [Part(**{name: part[name] for name in names}) for part in self.plan["parts"]]

    def vectors(self, number: int) -> Floats:
        """Of a part. Raises StoreError for others than the build began with."""
        part, column = self.parts[number], self.plan["column"]
        vectors = read_vectors(part, column) if len(part) else np.empty((0, self.plan["dim"]), np.float32)
        if digest_of_vectors(vectors) != self.plan["parts"][number]["xxh3"]:
            raise StoreError(f"{part.path} changed since the build began; begin it again")
        return vectors

    def whole(self, name: str) -> dict[str, Any] | None:
        """The record of what is there as it was written; every byte is read."""
        record = read_record(self.base / f"{name}.json")
        if record is None or record.get("plan") != self.print:
            return None
        try:
            return record if digest_of(self.base / f"{name}.bin") == record["digest"] else None
        except OSError:
            return None

    @contextmanager
    def making(self, name: str, **said: Any) -> Iterator[Making]:
        """Arrays of one name; said: more for the record."""
        path, noted = self.base / f"{name}.bin", dict[str, dict[str, Any]]()
        with stream.written(path, noted) as write:
            making = Making(write)
            yield making
        found = {
            "plan": self.print,
            "digest": noted[path.name]["xxh3"],
            "arrays": making.arrays,
            "said": said,
        }
        write_record(self.base / f"{name}.json", found)

    def array(self, name: str, part: str) -> NDArray[Any]:
        """Mapped. Raises StoreError where it vanished since it was found whole."""
        path = self.base / f"{name}.bin"
        try:
            lies = (read_record(self.base / f"{name}.json") or {})["arrays"][part]
            shape, kind = tuple(lies["shape"]), np.dtype(lies["kind"])
            if 0 in shape:
                return np.empty(shape, kind)
            return np.memmap(path, kind, "r", lies["at"], shape)
        except folder.UNREADABLE as problem:
            raise StoreError(
                f"{path} vanished or is damaged: {problem}; give the same call again"
            ) from problem

    def put_learned(self, name: str, arrays: Mapping[str, NDArray[Any]], nested: bool) -> None:
        with self.making(name, nested=nested) as making:
            for part, array in arrays.items():
                making.array(part, array)

    def axes(self, name: str = "axes") -> Axes:
        """As they are known before anything else is learned, or after."""
        arrays = {part: np.array(self.array(name, part)) for part in ("center", "coarse", "codes")}
        record = read_record(self.base / f"{name}.json") or {}
        return axes_of(self.spec, arrays, {"dim": self.plan["dim"], **record.get("said", {})})

    @cached_property
    def trained(self) -> Trained:
        """What was learned, as any job finds it."""
        centroids, means, empty = (
            np.array(self.array("trained", part)) for part in ("centroids", "means", "empty")
        )
        return Trained(
            spec=self.spec,
            dim=self.plan["dim"],
            axes=self.axes("trained"),
            centroids=centroids,
            means=means,
            empty=empty.tobytes(),
        )

    def remove(self, *kinds: str) -> None:
        """What was made under names that begin so; all of it, if none is given. The plan stays."""
        for path in self.base.iterdir():
            found = OURS.fullmatch(path.name)
            if found and (found[1] in kinds or not kinds):
                path.unlink(missing_ok=True)


class Making:
    """Arrays on their way into a file."""

    def __init__(self, write: stream.Write) -> None:
        self._write, self._at, self.arrays = write, 0, dict[str, dict[str, Any]]()

    def array(self, part: str, array: NDArray[Any]) -> None:
        self.blocks(part, array.shape, array.dtype, [array])

    def blocks(self, part: str, shape: tuple[int, ...], kind: Any, blocks: stream.Blocks) -> None:
        """An array of this shape and numpy type, of blocks of rows."""
        kind, size = np.dtype(kind), 0
        for block in blocks:
            piece = np.ascontiguousarray(block, kind)
            self._write(piece.reshape(-1).view(np.uint8))
            size += piece.nbytes
        self.arrays[part] = {"kind": kind.str, "shape": list(shape), "at": self._at}
        if size != math.prod(shape) * kind.itemsize:
            raise StoreError(f"{part}: {size} bytes came for an array of {shape}")
        self._write(bytes(-size % ALIGNED))
        self._at += size + -size % ALIGNED


def digest_of_vectors(vectors: Floats) -> str:
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(vectors).reshape(-1).view(np.uint8).data)
