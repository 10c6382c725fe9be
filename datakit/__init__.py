"""datakit: build, curate, check and stream image data sets.

`datakit.build("fg_ood", fraction=0.3)` makes a checked tree of shards; `datakit.open_store(path)` reads one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datakit.run.build import Build, build
    from datakit.store.reader import Store, open_store

__all__ = ["Build", "Store", "__version__", "build", "open_store"]
__version__ = "0.1.0"

_HOMES = {
    "Build": "datakit.run.build",
    "build": "datakit.run.build",
    "Store": "datakit.store.reader",
    "open_store": "datakit.store.reader",
}


def __getattr__(name: str) -> Any:
    """The public names, imported on first use: `import datakit` alone costs nothing."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"datakit has no {name}; it has {', '.join(__all__)}")
