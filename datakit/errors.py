"""The tree of errors: what the user can act on, told apart by what is at fault.

DatakitError            exit 1 unless a subclass says otherwise
├── ConfigError         the words of the command                      exit 2
├── CatalogError        the source: a path, a table, a taxonomy       exit 2
├── SampleError         this one sample; survivable, bounded, counted
├── StageError          our code, or a recipe's; chained, with where  exit 1
├── StoreError          bytes differ from their manifest              exit 3
├── GateError           a check failed                                exit 3
├── FailureLimit        more samples failed than the build accepts    exit 4
├── MissingExtra        an optional dependency is not installed       exit 5
└── EnvironmentProblem  disk full, no permission, a dead worker       exit 5
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable


class Stopped(SystemExit):
    """A signal asks this process to end; any other SystemExit is of code that has no business to end it."""


class DatakitError(Exception):
    """What went wrong, in one sentence, and what to do about it."""

    exit_code = 1


class ConfigError(DatakitError):
    """The words given to a command are wrong."""

    exit_code = 2


class CatalogError(DatakitError):
    """A source is not what its catalog says."""

    exit_code = 2


class SampleError(DatakitError):
    """One sample is broken. `reason` is a short constant, so that counts stay few."""

    exit_code = 4

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[SampleError], tuple[str, str]]:
        # Exceptions cross from worker to parent; the default would lose `reason`.
        return type(self), (self.reason, self.detail)


class StageError(DatakitError):
    """Code of a stage raised something it did not plan for."""


class StoreError(DatakitError):
    """Stored bytes differ from what their manifest says."""

    exit_code = 3


class GateError(DatakitError):
    """A check of severity `fail` did not hold."""

    exit_code = 3


class FailureLimit(DatakitError):
    """More samples failed than the build was told to accept."""

    exit_code = 4


class MissingExtra(DatakitError):
    """An optional dependency is needed and absent."""

    exit_code = 5

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f'{what} needs an optional part: pip install "datakit[{extra}]"')
        self.what = what
        self.extra = extra

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str]]:
        return type(self), (self.what, self.extra)


class EnvironmentProblem(DatakitError):
    """The machine cannot do it: disk, permission, memory, a dead worker."""

    exit_code = 5


def need(what: str, extra: str, modules: Iterable[str]) -> None:
    """Raise MissingExtra now, before any work, if one of `modules` is not installed; imports none of them."""
    if any(importlib.util.find_spec(module) is None for module in modules):
        raise MissingExtra(what, extra)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean x?` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
