"""Hugging Face data sets made in the test: nothing is decoded, nothing fetched."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as pil

from datakit.blob import Blob
from datakit.errors import CatalogError, SampleError
from datakit.sources import hf_files
from datakit.sources.hf import scan
from datakit.sources.hf_files import HubFiles

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


def stored(folder: Path, cells: list[dict[str, Any]], labels: list[int], file: str = "train.parquet") -> Path:
    """A Parquet file as the hub has it: nothing in it was ever checked."""
    features = {
        "image": {"_type": "Image"},
        "label": {"names": ["ant", "bee"], "_type": "ClassLabel"},
    }
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(cells, kind), "label": pa.array(labels, pa.int64())})
    told = json.dumps({"info": {"features": features}})
    folder.mkdir(exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"huggingface": told}), folder / file)
    return folder


def test_one_split_alone_says_nothing_of_the_split(tmp_path: Path, read: Read) -> None:
    cells = [{"bytes": png(1), "path": None}]
    entries, _ = read(scan(stored(tmp_path / "one", cells, [0])))
    assert [entry.fields["official_split"] for entry in entries.values()] == [None]
    stored(tmp_path / "one", cells, [1], "test.parquet")
    entries, _ = read(scan(tmp_path / "one"))
    assert {entry.fields["official_split"] for entry in entries.values()} == {"train", "test"}


def test_a_label_beyond_the_names_costs_its_row(tmp_path: Path, read: Read) -> None:
    cells = [{"bytes": png(shade), "path": None} for shade in (1, 2, 3)]
    entries, problems = read(scan(stored(tmp_path / "d", cells, [1, 2, -1])))
    assert [entry.fields.get("class_name") for entry in entries.values()] == ["bee", None]
    assert [(p.name, p.reason, p.detail) for p in problems] == [
        ("train/00000001", "bad_label", "label 2, of 0 to 1")
    ]


def test_images_in_a_zip_are_read_out_of_it(tmp_path: Path, read: Read, bytes_of: Any) -> None:
    (tmp_path / "d").mkdir()
    with zipfile.ZipFile(tmp_path / "d" / "train.zip", "w") as file:
        file.writestr("1.png", png(1))
        file.writestr("2.png", png(2))
    (tmp_path / "link").symlink_to("d", target_is_directory=True)
    for root in (tmp_path / "d", tmp_path / "link"):
        entries, problems = read(scan(root))
        assert not problems
        assert [bytes_of(entry) for entry in entries.values()] == [png(1), png(2)]


def test_no_path_in_a_row_leads_out(tmp_path: Path, read: Read, bytes_of: Any) -> None:
    root = tmp_path / "d"
    root.mkdir()
    for path in (tmp_path / "secret.png", root / "in.png"):
        path.write_bytes(png(7))
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    with zipfile.ZipFile(tmp_path / "secret.zip", "w") as file:
        file.writestr("a.png", png(7))
    paths = {
        "in.png": "",
        f"{root}/in.png": "",
        f"{tmp_path}/secret.png": "path_outside",
        "../secret.png": "path_outside",
        f"{root}/../secret.png": "path_outside",
        f"{root}/link.png": "path_outside",
        f"file://{tmp_path}/secret.png": "missing_file",
        f"zip://a.png::{tmp_path}/secret.zip": "path_outside",
        f"zip://a.png::file://{tmp_path}/secret.zip::{root}/in.png": "path_outside",
        f"zip://a.png::{root}/in.png": "missing_file",
        f"{root}/gone.png": "missing_file",
    }
    cells = [{"bytes": None, "path": path} for path in paths]
    entries, problems = read(scan(stored(root, cells, [0] * len(cells))))
    reasons = {problem.name: problem.reason for problem in problems}
    assert [reasons.get(f"train/{n:08d}", "") for n in range(len(cells))] == list(paths.values())
    assert [bytes_of(entry) for entry in entries.values()] == [png(7)] * 2


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "https://example.org/a.png",
        "hf://datasets/me/other@main/a.png",
        "hf://datasets/me/birds@main/../../other/a.png",
        "zip://a.png::https://example.org/a.zip",
    ],
)
def test_a_repository_names_only_files_of_its_own(path: str) -> None:
    with pytest.raises(SampleError, match="path_outside"):
        HubFiles("me/birds").find(path)


def test_a_build_within_the_source_is_never_taken_for_data(tmp_path: Path, read: Read) -> None:
    root = stored(tmp_path / "d", [{"bytes": png(1), "path": None}], [0])
    (root / "builds" / "first").mkdir(parents=True)
    assert read(scan(root))[0]
    (root / "builds" / "first" / "manifest.json").write_text('{"format": "datakit-store"}')
    with pytest.raises(CatalogError, match="builds/first is a build within the source"):
        list(scan(root))


def test_what_is_no_data_set_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CatalogError, match=r"cannot read .*empty as a Hugging Face data set"):
        list(scan(tmp_path / "empty"))
    with pytest.raises(CatalogError, match=r"options\.repo=USER/NAME"):
        list(scan(None))


def test_a_cut_archive_stops_and_is_named(tmp_path: Path) -> None:
    root = tmp_path / "d"
    root.mkdir()
    (root / "1.png").write_bytes(png(1))
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as file:
        file.write(root / "1.png", "1.png")
    for name, mode in (("train.tar", "w"), ("train.tar.gz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as file:  # type: ignore[call-overload]
            file.add(root / "1.png", "1.png")
    (root / "1.png").unlink()
    for name, size in (("train.zip", 100), ("train.tar", 530), ("train.tar.gz", 60)):
        (root / name).write_bytes((tmp_path / name).read_bytes()[:size])
        with pytest.raises(CatalogError, match=r"cannot read .*/d as a Hugging Face data set"):
            list(scan(root))
        (root / name).unlink()


def test_a_damaged_member_of_a_zip_costs_its_row(tmp_path: Path, read: Read) -> None:
    path = tmp_path / "d" / "train.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("1.png", png(1))
        file.writestr("2.png", png(2))
    data = bytearray(path.read_bytes())
    data[30 + len("1.png")] ^= 0xFF  # the first byte of the packed data, after the header: no such packing
    path.write_bytes(data)
    entries, problems = read(scan(path.parent))
    assert set(entries) == {"train/00000001"}
    assert [(p.name, p.reason) for p in problems] == [("train/00000000", "missing_file")]


def plain(folder: Path, label: list[Any], **more: list[Any]) -> Path:
    """A data set whose classes are of no declared type."""
    cells = [{"bytes": png(shade), "path": None} for shade in range(len(label))]
    found = datasets.Dataset.from_dict({"image": cells, "label": label, **more})
    found.cast_column("image", datasets.Image()).save_to_disk(str(folder))
    return folder


@pytest.mark.parametrize("labels", [[3, 4], ["ant", "bee"]])
def test_a_plain_label_column_must_be_named(tmp_path: Path, read: Read, labels: list[Any]) -> None:
    root = plain(tmp_path / "d", labels)
    with pytest.raises(CatalogError, match=r"no row of .*/d has a class.*give options\.label=label"):
        list(scan(root))
    entries, _ = read(scan(root, label="label"))
    assert [entry.fields["class_name"] for entry in entries.values()] == [str(label) for label in labels]
    entries, _ = read(scan(plain(tmp_path / "named", labels, class_name=[None, "moth"])))
    assert [entry.fields.get("class_name") for entry in entries.values()] == [None, "moth"]


def test_classes_may_be_blank_or_floats(tmp_path: Path, read: Read) -> None:
    entries, _ = read(scan(plain(tmp_path / "text", ["ant", " ", ""]), label="label"))
    assert [entry.fields.get("class_name") for entry in entries.values()] == ["ant", None, None]
    entries, _ = read(scan(plain(tmp_path / "float", [3.0, None]), label="label"))
    assert [entry.fields.get("class_name") for entry in entries.values()] == ["3", None]


def test_a_zip_bomb_and_a_zip_within_a_zip_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf_files, "MAX_ENCODED", 1000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb.png", bytes(1001))
        file.writestr("fits.png", bytes(1000))
    files = hf_files.LocalFiles(tmp_path.resolve())
    place = f"{tmp_path.resolve()}/a.zip"
    assert files.find(f"zip://fits.png::{place}") == bytes(1000)
    with pytest.raises(SampleError, match="too_large"):
        files.find(f"zip://bomb.png::{place}")
    with pytest.raises(SampleError, match="a zip within a zip"):
        files.find(f"zip://a.png::zip://inner.zip::{place}")


@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize(
    "place",
    [
        "{web}",
        "{outside}/x.parquet",
        "../outside/x.parquet",
        "zip://x.parquet::{web}",
        "[{{split: train, path: [a.parquet, '{web}']}}]",
    ],
)
def test_a_card_has_nothing_opened_that_lies_elsewhere(tmp_path: Path, card: str, place: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root, outside):
        folder.mkdir()
        saved_parquet(folder / ("a.parquet" if folder == root else "x.parquet"))
    asked: list[str] = []
    with listening(asked) as web:
        told = f"configs:\n- config_name: default\n  data_files: {place.format(web=web, outside=outside)}\n"
        (root / card).write_text(f"---\n{told}---\n# Birds\n" if card == "README.md" else told)
        with pytest.raises(CatalogError, match="not within the folder"):
            list(scan(root))
    assert not asked


def test_a_card_may_name_files_of_its_own(tmp_path: Path) -> None:
    saved_parquet(tmp_path / "a.parquet")
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: a.parquet\n---\n"
    )
    assert len(list(scan(tmp_path))) == 2


def test_parquet_that_unpacks_to_too_much_is_refused_by_its_head(tmp_path: Path) -> None:
    saved_parquet(tmp_path / "train.parquet", note=bytes(80 << 20))
    assert (tmp_path / "train.parquet").stat().st_size < 100_000
    with pytest.raises(CatalogError, match=r"train\.parquet.*out of"):
        list(scan(tmp_path))


def test_a_saved_data_set_names_only_files_beside_it(tmp_path: Path) -> None:
    saved(tmp_path / "birds")
    states = sorted((tmp_path / "birds").rglob("state.json"))
    state = json.loads(states[0].read_text())
    for name in ("../elsewhere.arrow", "/elsewhere.arrow", ".."):
        states[0].write_text(json.dumps(state | {"_data_files": [{"filename": name}]}))
        with pytest.raises(CatalogError, match="no file beside it"):
            list(scan(tmp_path / "birds"))
    whole = states[0].parent / state["_data_files"][0]["filename"]
    data = whole.read_bytes()
    (states[0].parent / "data.bin").write_bytes(
        data[: len(data) // 2]
    )  # no `.arrow`, and opened all the same
    states[0].write_text(json.dumps(state | {"_data_files": [{"filename": "data.bin"}]}))
    with pytest.raises(CatalogError, match=r"data\.bin"):
        list(scan(tmp_path / "birds"))


def saved_parquet(path: Path, note: bytes = b"") -> None:
    """Two images with a class, as datasets writes them."""
    image = pa.array([{"bytes": png(shade), "path": None} for shade in (1, 2)], IMAGE)
    table = pa.table({"image": image, "class_name": ["a", "b"], "note": pa.array([note, b""], pa.binary())})
    told = {"image": {"_type": "Image"}, "class_name": {"dtype": "string", "_type": "Value"}}
    told["note"] = {"dtype": "binary", "_type": "Value"}
    marked = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": told}})})
    pq.write_table(marked, path, compression="zstd", use_dictionary=False, write_statistics=False)


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@contextlib.contextmanager
def listening(asked: list[str]) -> Iterator[str]:
    """An address of loopback that notes who asks."""

    class Noting(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *args: Any) -> None:
            """Nothing on the terminal."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Noting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/x.parquet"
        server.shutdown()
