"""Examples of what is looked for — texts, images, keys, vectors — as points of an index, and one query out of several.

All of it happens where the index compares: centred as it is, of length one under cosine. A query of several examples
is their mean there, less a part of the mean of those it should not be like:

    query = mean(plus) - GAMMA * mean(minus)

as in J. J. Rocchio, "Relevance feedback in information retrieval", in Salton (ed.), The SMART Retrieval System (1971),
where both weigh 1. GAMMA is a third, as the .75 and .25 of Salton and Buckley (1990). Measured, embedded encoder, 340
grocery photographs told which of their first ten are of their class: of the next ten are, at a gamma of 0, .15, 1/3,
.5, .75 and 1: 55, 62, 67, 69, 60 and 35 %; of 392 emoji by subcategory 30, 32, 34, 34, 30 and 18 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datakit.errors import ConfigError, SampleError
from datakit.image import Image
from datakit.index.arrays import Floats, floats, unit
from datakit.index.opened import Index

GAMMA = 1 / 3  # weight of the minus examples beside 1 of the others
MAX_EXAMPLES = 256  # of one query
MAX_TEXT = 10_000  # letters of one; encoders read some hundreds
CANCELLED = 1e-6  # length, of 1, under which a query has no direction


@dataclass(frozen=True, kw_only=True)
class Examples:
    """texts; encoded images; keys of the index; vectors (dim,) as the encoder gives them."""

    text: tuple[str, ...] = ()
    image: tuple[bytes, ...] = ()
    key: tuple[str, ...] = ()
    vector: tuple[NDArray[Any], ...] = ()

    def __post_init__(self) -> None:
        for name in ("text", "image", "key", "vector"):
            if isinstance(getattr(self, name), str | bytes | np.ndarray):
                raise ConfigError(f"{name} is a list of examples, not one: give ({name},)")
        if len(self) > MAX_EXAMPLES:
            raise ConfigError(f"a query takes {MAX_EXAMPLES} examples at most, not {len(self)}")
        if long := next((text for text in self.text if len(text) > MAX_TEXT), None):
            raise ConfigError(f"a text of {len(long)} letters is too long to ask with; {MAX_TEXT} at most")
        if not all(text.strip() for text in self.text):
            raise ConfigError("an empty text asks for nothing; write what to look for")

    def __len__(self) -> int:
        return len(self.text) + len(self.image) + len(self.key) + len(self.vector)

    @property
    def kinds(self) -> set[str]:
        """Of text, image, key, vector: what there are examples of."""
        return {name for name in ("text", "image", "key", "vector") if getattr(self, name)}


def points_of(index: Index, examples: Examples, *, trusted: bool = False) -> Floats:
    """float32 (N, dim): texts, then images, keys and vectors, as the index compares them.

    Raises ConfigError: a key that is not there, an image that does not decode, a vector of another length, an encoder
    that the index does not name or whose weights are not those it was built with; MissingExtra. trusted: run an
    encoder that is a program.
    """
    parts = [np.empty((0, index.dim), np.float32)]
    if examples.text:
        parts.append(_compared(index, _model(index, "text", trusted)(list(examples.text)), "text"))
    if examples.image:
        model = _model(index, "image", trusted)
        # One at a time: pixels of many large photographs would be gigabytes.
        vectors = [model([_pixels(data, number)]) for number, data in enumerate(examples.image)]
        parts.append(_compared(index, np.concatenate(vectors), "image"))
    if examples.key:
        parts.append(index.points(index.rows(examples.key)))
    if examples.vector:
        rows = [floats(np.atleast_2d(vector), index.dim, "vector") for vector in examples.vector]
        parts.append(_compared(index, np.concatenate(rows), "vector"))
    return np.concatenate(parts)


def rocchio(plus_ND: Floats, minus_ND: Floats, *, gamma: float = GAMMA) -> Floats:
    """float32 (dim,): the mean of N points, 1 at least, less gamma times the mean of M that should be far, or none."""
    found = plus_ND.mean(axis=0, dtype=np.float64)
    if len(minus_ND):
        found -= gamma * minus_ND.mean(axis=0, dtype=np.float64)
    combined: Floats = found.astype(np.float32)
    return combined


def as_queries(index: Index, points: Floats) -> Floats:
    """What `index.search` takes, to look from these points (Q, dim). Raises ConfigError where a cosine has none."""
    center = index.base.axes.center
    if metric_of(index) == "cosine":
        if (np.linalg.norm(points, axis=1) < CANCELLED).any():
            raise ConfigError("the examples cancel each other out: nothing is left to look for")
        points = unit(points)
    return points + center if len(center) else points


def metric_of(index: Index) -> str:
    """cosine, ip or l2."""
    return index.base.spec.space.metric


def _compared(index: Index, vectors: Any, what: str) -> Floats:
    points = index.base.axes.points(floats(vectors, index.dim, what))
    if metric_of(index) == "cosine" and not points.any(axis=1).all():
        raise ConfigError(f"{what}: a vector is zero, which has no direction to look in")
    return points


def _pixels(data: bytes, number: int) -> NDArray[np.uint8]:
    try:
        return Image(data).array
    except SampleError as problem:
        raise ConfigError(f"image {number + 1} of the query does not decode: {problem}") from problem


def _model(index: Index, kind: str, trusted: bool) -> Any:
    """The encoder that the index names, if it is the one it was built with."""
    from datakit.models import encoder, text

    named: Mapping[str, str] | None = index.encoders.get(kind)
    if named is None:
        raise ConfigError(f"the index {index.name} names no encoder of a {kind}; ask by key or vector")
    name, owner = named["name"], text if kind == "text" else encoder
    if name.startswith("torchscript:") and not trusted:
        raise ConfigError(
            f"the index {index.name} was built with {name}, a program, which is run with all that you may do; "
            "say trusted=true if you know who made it"
        )
    before = owner.weights_of(name)  # of a file: compared before anything of it is loaded
    model = None if before and before != named["weights"] else owner.load(name)
    if model is None or model.weights != named["weights"]:
        here = before if model is None else model.weights
        raise ConfigError(
            f"the index {index.name} was built with {name} of the weights {named['weights'][:12]}…, and here it has "
            f"{here[:12]}…: its vectors would mean something else; build the index again, or get those weights"
        )
    if model.dim != index.dim:
        raise ConfigError(f"{name} gives vectors of {model.dim} and the index {index.name} holds {index.dim}")
    return model


def same_rows(index: Index, keys: Sequence[str]) -> set[int]:
    """Rows of the index that have these keys."""
    return {int(row) for row in index.rows(keys)}
