"""Fault campaigns, one file a fault. A file `fNN_name.py` here is found by its name and has:

`TITLE`: what is done to datakit; `WANTED`: what must hold; `CASES`: how many cases a whole campaign has;
`SUITE`: how many the test suite runs (seconds, not minutes);
`run(cases, seed, work, tell) -> Outcome`: runs that many in the empty folder `work`, drawn by `seed`; `tell` says
how far it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a campaign came to. `failures`: a line for each case that did not hold; `figures`: what was measured."""

    cases: int
    failures: list[str] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)

    @property
    def held(self) -> int:
        return self.cases - len(self.failures)


def campaigns() -> dict[str, ModuleType]:
    """F1, F2 … → the module that runs it, in order."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("f[0-9][0-9]_*.py"))
    return {f"F{int(name[1:3])}": import_module(f"{__name__}.{name}") for name in names}
