"""Hugging Face data sets made in the test: nothing is decoded, nothing fetched."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as pil

from datakit.blob import Blob
from datakit.errors import CatalogError
from datakit.sources.hf import scan

datasets = pytest.importorskip("datasets")
Read = Callable[..., Any]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def png(shade: int) -> bytes:
    target = io.BytesIO()
    pil.new("RGB", (4, 4), (shade, 0, 0)).save(target, format="PNG")
    return target.getvalue()


def saved(folder: Path, **more: Any) -> Any:
    """A data set of two splits in the form of save_to_disk."""
    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "label": datasets.ClassLabel(names=["ant", "bee"]),
            "note": datasets.Value("string"),
            "tags": datasets.Sequence(datasets.Value("string")),
        }
    )

    def split(shades: list[int], labels: list[int]) -> Any:
        pictures = [{"bytes": png(shade), "path": None} for shade in shades]
        notes = [f"n{shade}" for shade in shades]
        table = {"picture": pictures, "label": labels, "note": notes, "tags": [["x", "y"]] * len(shades)}
        return datasets.Dataset.from_dict(table, features=features)

    found = datasets.DatasetDict({"train": split([1, 2], [0, 1]), "validation": split([3, 4], [1, -1])})
    found.save_to_disk(str(folder))
    return found


def test_a_saved_data_set_comes_with_splits_classes_and_columns(
    tmp_path: Path, read: Read, bytes_of: Any
) -> None:
    saved(tmp_path / "d")
    entries, problems = read(scan(tmp_path / "d"))
    assert not problems
    assert [bytes_of(entry) for entry in entries.values()] == [png(1), png(2), png(3), png(4)]
    assert entries["validation/00000000"].fields == {
        "class_name": "bee",
        "orig_label": 1,
        "official_split": "val",
        "note": "n3",
        "tags": ["x", "y"],
    }
    assert "class_name" not in entries["validation/00000001"].fields


def test_a_folder_of_images_gives_places_and_not_copies(tmp_path: Path, read: Read, bytes_of: Any) -> None:
    for split, name, shade in [("train", "ant", 1), ("train", "bee", 2), ("test", "bee", 3)]:
        (tmp_path / "d" / split / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / split / name / f"{shade}.png").write_bytes(png(shade))
    entries, problems = read(scan(tmp_path / "d"))
    assert not problems
    told = [(e.fields["official_split"], e.fields["class_name"], bytes_of(e)) for e in entries.values()]
    assert told == [("test", "bee", png(3)), ("train", "ant", png(1)), ("train", "bee", png(2))]
    assert all(isinstance(entry.data, Blob) for entry in entries.values())


def test_columns_that_leave_a_choice_must_be_named(tmp_path: Path, read: Read) -> None:
    cell = [{"bytes": png(1), "path": None}]
    features = datasets.Features(
        {"left": datasets.Image(), "right": datasets.Image(), "sort": datasets.Value("string")}
    )
    table = datasets.Dataset.from_dict({"left": cell, "right": [None], "sort": ["moth"]}, features=features)
    table.save_to_disk(str(tmp_path / "d"))
    with pytest.raises(
        CatalogError, match=r"2 columns could be the image \(left, right\): give options.image"
    ):
        list(scan(tmp_path / "d"))
    with pytest.raises(CatalogError, match=r"options\.image=leftt is no image column; did you mean left"):
        list(scan(tmp_path / "d", image="leftt"))
    entries, _ = read(scan(tmp_path / "d", image="left", label="sort"))
    assert entries["train/00000000"].fields["class_name"] == "moth"
    assert "sort" not in entries["train/00000000"].fields
    entries, problems = read(scan(tmp_path / "d", image="right"))
    assert not entries
    assert [problem.reason for problem in problems] == ["no_image"]


def test_what_is_no_data_set_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CatalogError, match=r"cannot read .*empty as a Hugging Face data set"):
        list(scan(tmp_path / "empty"))
    with pytest.raises(CatalogError, match=r"options\.repo=USER/NAME"):
        list(scan(None))
