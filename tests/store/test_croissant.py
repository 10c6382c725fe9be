"""croissant.json holds what Croissant 1.1 requires, and mlcroissant finds nothing to say of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from datakit.store.croissant import CONTEXT
from datakit.store.layout import StoreInfo

# By Croissant 1.1; mlcroissant itself is silent on most of it.
REQUIRED = (
    "@context", "@type", "conformsTo", "name", "description", "license", "url", "creator", "datePublished",
    "distribution",
)  # fmt: skip
VALIDATE = """
import json, sys, mlcroissant
from mlcroissant._src.core.context import Context, CroissantVersion
from mlcroissant._src.core.rdf import make_context
try:
    issues = mlcroissant.Dataset(jsonld=sys.argv[1]).metadata.ctx.issues
    found = {"errors": sorted(issues.errors), "warnings": sorted(issues.warnings)}
except mlcroissant.ValidationError as problem:
    found = {"errors": [str(problem)], "warnings": []}
found["context"] = make_context(Context(conforms_to=CroissantVersion.V_1_1))
print(json.dumps(found))
"""


def validated(path: Path) -> dict[str, Any]:
    """What mlcroissant says; in a process of its own, since it warns of its own use of rdflib."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", VALIDATE, str(path)],
        capture_output=True, text=True, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_no_error_no_warning_and_the_librarys_own_context(store_root: Path) -> None:
    found = validated(store_root / "croissant.json")
    assert (found["errors"], found["warnings"]) == ([], [])
    assert {name: CONTEXT[name] for name in found["context"]} == found["context"]
    assert set(CONTEXT) - set(found["context"]) == {"prov"}


@pytest.mark.parametrize("broken", ["sha256", "conformsTo"])
def test_the_validator_does_find_what_it_looks_for(store_root: Path, tmp_path: Path, broken: str) -> None:
    document = json.loads((store_root / "croissant.json").read_bytes())
    document.pop(broken, None)
    document["distribution"][0].pop(broken, None)
    path = tmp_path / "croissant.json"
    path.write_text(json.dumps(document))
    assert validated(path)["errors"]


def test_required_parts_are_there(store_root: Path, toy_info: StoreInfo) -> None:
    document = json.loads((store_root / "croissant.json").read_bytes())
    assert [name for name in REQUIRED if not document.get(name)] == []
    assert document["license"] == ["https://spdx.org/licenses/CC-BY-4.0", "https://spdx.org/licenses/MIT"]
    assert document["prov:wasDerivedFrom"] == [{"@id": "https://example.org/source"}]
    assert document["citeAs"] == toy_info.citation
    assert document["datePublished"] == "2026-01-02"


def test_every_tar_has_its_digest_and_every_split_its_records(store_root: Path) -> None:
    document = json.loads((store_root / "croissant.json").read_bytes())
    manifest = json.loads((store_root / "manifest.json").read_bytes())["files"]
    tars = [item for item in document["distribution"] if item["@type"] == "cr:FileObject"]
    assert {tar["contentUrl"]: tar["sha256"] for tar in tars} == {
        path: file["sha256"] for path, file in manifest.items() if path.endswith(".tar")
    }
    names = [record["@id"] for record in document["recordSet"]]
    assert names == ["splits", "classes", "train", "test", "near_ood"]
    fields = [field["name"] for field in document["recordSet"][2]["field"]]
    assert {"image", "key", "label", "caption", "taxonomy", "xxh3"} <= set(fields)
    assert "boxes" not in fields  # a list of structs, which mlcroissant cannot cast
