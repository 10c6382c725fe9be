"""What this machine and this installation can do."""

from __future__ import annotations

import os
import re
import shutil
from collections import defaultdict
from importlib import metadata, util
from pathlib import Path
from typing import Any

from datakit.manifest import versions

_OF_AN_EXTRA = re.compile(r"([\w.-]+).*; *extra == .(\w+)")


def doctor() -> tuple[dict[str, Any], str]:
    """Versions, extras with what is missing of each, cores, memory, disk, GPU."""
    found = {
        "versions": versions(),
        "missing": {
            name: [part for part in parts if not is_installed(part)] for name, parts in extras().items()
        },
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "free_disk_bytes": shutil.disk_usage(Path.cwd()).free,
        "gpu": _gpu(),
    }
    return found, _text(found)


def extras() -> dict[str, list[str]]:
    """extra → the packages it consists of, as ours declares them; not those extras that are made of others."""
    found, bundles = defaultdict[str, list[str]](list), set()
    for line in metadata.requires("datakit") or []:
        if of_extra := _OF_AN_EXTRA.match(line):
            name, extra = of_extra.groups()
            found[extra].append(name)
            bundles |= {extra} if name == "datakit" else set()
    return {extra: parts for extra, parts in found.items() if extra not in bundles}


def is_installed(package: str) -> bool:
    """By its own record, and not by its module: faiss-gpu and faiss-cpu share one."""
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _gpu() -> str:
    if util.find_spec("torch") is None:
        return "unknown: torch is not installed"
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none; everything runs on the CPU"


def _text(found: dict[str, Any]) -> str:
    lines = [f"{name} {version}" for name, version in found["versions"].items()]
    for name, missing in found["missing"].items():
        state = f'missing {", ".join(missing)}: pip install "datakit[{name}]"' if missing else "complete"
        lines.append(f"extra {name}: {state}")
    lines.append(f"cores {found['cores']}, memory {found['memory_bytes'] / 1e9:.0f} GB")
    lines.append(f"disk {found['free_disk_bytes'] / 1e9:.0f} GB free here; GPU: {found['gpu']}")
    return "\n".join(lines)
