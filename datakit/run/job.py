"""A job: one shard of one step, in words; and the plan that its worker makes of them.

If that plan has no step of the asked fingerprint, the worker's code is not the driver's, and it refuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from datakit import catalog as catalogs
from datakit.errors import StageError
from datakit.find import make_recipe
from datakit.recipe import CatalogUse, Plan
from datakit.store.listing import Listing
from datakit.store.steps import Steps


@dataclass(frozen=True, kw_only=True)
class Job:
    """Words and numbers only, so that a job can go anywhere. `listings`: (use id, checksum, root, samples)."""

    recipe: str
    words: tuple[str, ...]
    listings: tuple[tuple[str, str, str, int], ...]
    root: str
    step: str
    shard: int
    lineage: str = ""  # of the step, as the driver's code has it
    out: str = ""
    kind: Literal["step", "publish"] = "step"
    phase: str = ""  # of the step, if it has several (run/phases.py); `shard` is then the number of a part
    span: tuple[int, int] = (0, 0)  # what the part takes
    # What earlier attempts came to, as `place.Judged` has it.
    refused: tuple[tuple[str, str, str, str], ...] = ()
    alone: tuple[tuple[str, str], ...] = ()


@cache
def open_steps(
    recipe: str, words: tuple[str, ...], listings: tuple[tuple[str, str, str, int], ...], root: str
) -> Steps:
    """The plan of these words, made once a process."""
    plan = Plan(make_recipe(recipe, words), {use: checksum for use, checksum, _, _ in listings})
    uses = {use.id: use for step in plan.steps.values() for use in step.uses}
    return Steps(
        root=Path(root),
        plan=plan,
        listings={row[0]: _listing(uses[row[0]], row, Path(root)) for row in listings if row[0] in uses},
    )


def _listing(use: CatalogUse, row: tuple[str, str, str, int], root: Path) -> Listing:
    return Listing(
        use=use,
        catalog=catalogs.load(use.name),
        checksum=row[1],
        root=row[2],
        folder=root / "listings",
        samples=row[3],
    )


def other_code(what: str) -> StageError:
    return StageError(
        f"a worker's code {what}: the recipe changed while this build ran, or the worker has another one. Run the "
        "same command again (workers of your own scheduler: start them anew, with the same files)"
    )
