"""Placeholder until the filter language lands."""

from __future__ import annotations

from typing import Any


def matches(table: Any, text: str) -> Any:
    raise NotImplementedError
