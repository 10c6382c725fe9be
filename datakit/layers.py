"""Words of lower rank than those typed: user file, project `datakit.toml`, environment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from datakit.config import keys, read, to_words
from datakit.errors import ConfigError
from datakit.texts import load_toml


def layered(schema: type[Any], table: str, words: Iterable[str], prefix: str = "") -> list[str]:
    """`words` with those of lower rank before them. Raises ConfigError naming the file or variable of a wrong one.

    Files: the table named `table`. Environment: DATAKIT_<KEY>, as DATAKIT_WORKERS for run.workers.
    """
    below: list[str] = []
    for source, found in _sources(schema, table, prefix):
        try:
            read(schema, found, prefix)
        except ConfigError as problem:
            raise ConfigError(f"{source}: {problem}") from problem
        below += found
    return [*below, *words]


def _sources(schema: type[Any], table: str, prefix: str) -> Iterator[tuple[str, list[str]]]:
    config_home = Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config"))
    for path in (config_home / "datakit" / "datakit.toml", Path("datakit.toml")):
        yield f"{path} [{table}]", list(to_words(_toml_table(path, table), prefix))
    for name in sorted(key.name for key in keys(schema)):
        variable = "DATAKIT_" + name.upper().replace(".", "_")
        if variable in os.environ:
            yield variable, [f"{prefix}{name}={os.environ[variable]}"]


def _toml_table(path: Path, table: str) -> dict[str, Any]:
    try:
        found = load_toml(path).get(table, {})
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as problem:
        raise ConfigError(f"cannot read {path}: {problem}") from problem
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: {table} must be a table of keys: [{table}]")
    return found
