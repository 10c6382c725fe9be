"""What a text of `where` says, as a tree: written by `where_text.py`, given a meaning by `where.py`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Value:
    value: str | int | float | bool | None
    at: int


@dataclass(frozen=True)
class Name:
    parts: tuple[str, ...]
    at: int


@dataclass(frozen=True)
class Compare:
    """sign: =, !=, <, <=, > or >=."""

    left: Name
    sign: str
    right: Value | Name


@dataclass(frozen=True)
class In:
    name: Name
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Like:
    name: Name
    pattern: Value


@dataclass(frozen=True)
class Contains:
    name: Name
    value: Value


@dataclass(frozen=True)
class Null:
    name: Name


@dataclass(frozen=True)
class Truth:
    """A column of true and false by itself."""

    name: Name


@dataclass(frozen=True)
class Not:
    part: Node


@dataclass(frozen=True)
class Both:
    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Either:
    parts: tuple[Node, ...]


Node = Compare | In | Like | Contains | Null | Truth | Not | Both | Either
