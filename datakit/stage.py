"""Stages: plain functions on one sample, with their keywords bound.

A stage is never a loop: the runner owns the loop, so errors, counts, timing and batching are written once, and a
stage's test is one call on a dict. Four shapes: `@stage` sample → sample or Drop, `@batch_stage` a list of them
(models), `@source` shard number → samples, `@reduce` all rows → one small result; given `partial` and `merge`, a
reduce runs as a tree, and no job of it sees more than one shard.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypeVar,
    overload,
)

from datakit.codehash import code_hash
from datakit.image import Image

if TYPE_CHECKING:
    import pyarrow as pa

    from datakit.recipe import Step

__all__ = [
    "Drop",
    "Files",
    "Image",
    "Ref",
    "Rows",
    "Sample",
    "Stage",
    "batch_stage",
    "reduce",
    "source",
    "stage",
]

P = ParamSpec("P")
Q = ParamSpec("Q")
T = TypeVar("T")
V = TypeVar("V")
T_co = TypeVar("T_co", covariant=True)

Sample: TypeAlias = dict[str, Any]
"""`__key__` and fields. `image` is an Image; the rest are what Arrow can hold: str, int, float, bool, lists, arrays."""

Shape = Literal["map", "batch", "source", "reduce"]


@dataclass(frozen=True, slots=True)
class Drop:
    """A sample left out by policy: counted, expected. `reason` is a short constant."""

    reason: str
    value: float | None = None
    threshold: float | None = None


class Files(dict[str, Any]):
    """A result that is several files: name → bytes, as a reduce gives it; name → Path, as it is read back."""


class Rows(Protocol):
    """All samples of a step, in order. Columns come as Arrow and never touch image bytes."""

    def __len__(self) -> int: ...

    @property
    def columns(self) -> list[str]: ...

    @property
    def outcomes(self) -> pa.Table:
        """What left on the way here: __key__, name, outcome, step, reason, value, threshold, detail."""
        ...

    @property
    def catalogs(self) -> Sequence[Mapping[str, Any]]:
        """Where the rows come from: name, title, homepage, citation, licence, taxonomy, classes, test, checksum."""
        ...

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The named columns of all rows, `__key__` among them only if named; images are left out."""
        ...

    def images(self, indices: Sequence[int] | None = None) -> Iterator[Image]:
        """The images of these rows (all, if None), lazily, in the order asked for."""
        ...


@dataclass(frozen=True)
class Ref(Generic[T_co]):
    """The result of another step: a promise while the plan is made, a value while a stage runs.

    Passing one as a keyword is the dependency.
    """

    step: Step | None = None
    loaded: T_co | None = None

    @classmethod
    def of(cls, value: T) -> Ref[T]:
        """A Ref that already has its value; for calling a stage directly."""
        return Ref[T](loaded=value)

    @property
    def value(self) -> T_co:
        if self.loaded is None:
            raise RuntimeError("a Ref has its value only while a stage runs")
        return self.loaded


@dataclass(frozen=True, kw_only=True)
class Stage(Generic[T_co]):
    """A function with its keywords bound, its name and its version. Calling it runs it."""

    shape: Shape
    function: Callable[..., Any]
    version: int
    keywords: Mapping[str, Any] = field(default_factory=dict)
    size: int = 1  # samples a call, for `batch`
    partial: Callable[..., Any] | None = None  # of a reduce that runs as a tree: rows of one shard → value
    merge: Callable[[list[Any]], Any] | None = None  # values → value

    @property
    def name(self) -> str:
        return f"{self.function.__module__}.{self.function.__qualname__}"

    @property
    def short_name(self) -> str:
        return self.function.__name__

    def __call__(self, *args: Any) -> Any:
        """The function's result. A tree's rows pass through `partial` first, as if they were of one shard."""
        if self.partial is not None:
            return self.finished(self.of_shard(*args))
        return self.function(*args, **self.keywords)

    def of_shard(self, rows: Rows) -> Any:
        """A tree's `partial` of one shard's rows, with those of the keywords that it names."""
        assert self.partial is not None
        named = list(inspect.signature(self.partial).parameters)[1:]
        return self.partial(rows, **{name: self.keywords[name] for name in named})

    def finished(self, value: Any) -> Any:
        """A tree's result, of its last merged value."""
        return self.function(value, **self.keywords)

    @cached_property
    def code(self) -> str:
        """A hash of the syntax trees of the function, its parts, and of what they name in their own modules."""
        parts = [part for part in (self.partial, self.merge) if part is not None]
        return "-".join(code_hash(function) for function in (self.function, *parts))


def _binder(
    shape: Shape,
    function: Callable[..., Any],
    version: int,
    size: int = 1,
    *,
    partial: Callable[..., Any] | None = None,
    merge: Callable[[list[Any]], Any] | None = None,
) -> Callable[..., Stage[Any]]:
    signature = inspect.signature(function)
    skipped = next(iter(signature.parameters), "")
    if partial is not None:
        named = set(list(inspect.signature(partial).parameters)[1:])
        if unknown := sorted(named - set(signature.parameters) | named & {skipped}):
            raise TypeError(
                f"{partial.__name__} names {', '.join(unknown)}, no keyword of {function.__name__}"
            )

    def bind(*args: Any, **keywords: Any) -> Stage[Any]:
        # Python itself names the misspelt or missing keyword, here and not in a worker hours later.
        bound = signature.bind(None, *args, **keywords)
        bound.apply_defaults()
        bound.arguments.pop(skipped)
        keywords = bound.arguments
        return Stage(
            shape=shape,
            function=function,
            version=version,
            keywords=keywords,
            size=size,
            partial=partial,
            merge=merge,
        )

    bind.__doc__ = function.__doc__
    bind.__name__ = function.__name__
    bind.__module__ = function.__module__
    return bind


def stage(
    *, version: int
) -> Callable[[Callable[Concatenate[Sample, P], Sample | Drop]], Callable[P, Stage[Sample]]]:
    """A stage of one sample: `f(sample, *, ...) -> Sample | Drop`. A new `version` makes its steps anew."""
    return lambda function: _binder("map", function, version)


def batch_stage(
    *, version: int, size: int
) -> Callable[[Callable[Concatenate[list[Sample], P], Sequence[Sample | Drop]]], Callable[P, Stage[Sample]]]:
    """A stage of `size` samples a call, for models. A failing batch is run again one by one."""
    return lambda function: _binder("batch", function, version, size)


def source(
    *, version: int
) -> Callable[[Callable[Concatenate[int, P], Iterator[Sample]]], Callable[P, Stage[Sample]]]:
    """A stage that makes samples: `f(shard, *, ...) -> Iterator[Sample]`."""
    return lambda function: _binder("source", function, version)


@overload
def reduce(*, version: int) -> Callable[[Callable[Concatenate[Rows, P], T]], Callable[P, Stage[T]]]: ...


@overload
def reduce(
    *, version: int, partial: Callable[Concatenate[Rows, Q], V], merge: Callable[[list[V]], V]
) -> Callable[[Callable[Concatenate[V, P], T]], Callable[P, Stage[T]]]: ...


def reduce(
    *,
    version: int,
    partial: Callable[..., Any] | None = None,
    merge: Callable[[list[Any]], Any] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Stage[Any]]]:
    """A stage over all rows: `f(rows, *, ...) -> result`; the result is JSON, an Arrow table, text, bytes or Files.

    With `partial(rows of one shard) -> value` and `merge([value, ...]) -> value` it runs as a tree, and the
    function makes the result of the last value: `f(value, *, ...)`. A value is what a result may be, and is small.
    `partial` takes those of the function's keywords that it names. `merge` gets values in the order of their
    shards, a few neighbours at a time, none where there is one shard: it must not matter how they are grouped.
    """
    if (partial is None) != (merge is None):
        raise TypeError("a reduce that runs as a tree needs both partial and merge")
    return lambda function: _binder("reduce", function, version, partial=partial, merge=merge)
