"""What a check found: one claim about a build, whether it holds, and which samples say otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["fail", "warn", "info"]
MAX_KEYS = 50  # samples named in a finding; `count` has them all


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One claim, measured.

    id: of the check. severity: what not passing means. count: violations. keys: samples (or classes, where
    the claim is about classes), at most 50. value, limit: the measure and its bound, where there is one.
    summary: one sentence. detail: JSON-able, for the report. seed: of the split, where one was looked at.
    """

    id: str
    severity: Severity
    passed: bool
    summary: str
    count: int = 0
    keys: tuple[str, ...] = ()
    value: float | None = None
    limit: float | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"keys": list(self.keys[:MAX_KEYS]), "detail": dict(self.detail)}


def at_most(severity: Severity, findings: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The findings, those that would fail the build made as severe as `severity`: of claims that are not the build's
    but an encoder's, say.
    """
    return [one | {"severity": severity} if one["severity"] == "fail" else one for one in findings]


def first_keys(keys: Iterable[str]) -> tuple[str, ...]:
    """The first 50 different keys, sorted."""
    return tuple(sorted(set(keys))[:MAX_KEYS])
