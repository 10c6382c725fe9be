"""What readers share: no name leads out of a source, none is lost without a word."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from datakit.blob import Blob
from datakit.errors import CatalogError
from datakit.sources.entry import FIRST, OURS, ClassNames, File, Folder, Problem, carried, walk
from datakit.store.metadata import LOCATION
from datakit.store.owned import claim

Put = Callable[..., Path]


def test_walk_gives_every_file_folder_by_folder_in_order_of_names(put: Put) -> None:
    names = ["b/2.jpg", "b/10.jpg", "a b/ü.jpg", "a b/c.d/x.JPG", "z.txt", "b/東京.png"]
    root = put(names)
    found = list(walk(root))
    assert [file.name for file in found] == [
        "a b/c.d/x.JPG",
        "a b/ü.jpg",
        "b/10.jpg",
        "b/2.jpg",
        "b/東京.png",
        "z.txt",
    ]
    for file in found:
        assert isinstance(file, File)
        assert Path(file.path).read_bytes().decode() == file.name
        assert file.size == len(file.name.encode())


def test_walk_counts_what_it_leaves_out(put: Put, tmp_path: Path) -> None:
    root = put(["a/1.jpg", ".hidden", ".git/config", ".git/HEAD"])
    (tmp_path / "secret.jpg").write_text("secret")
    (root / "a" / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "a" / "up").symlink_to("..", target_is_directory=True)
    (root / "a" / "gone.jpg").symlink_to("nothing.jpg")
    (root / "a" / "self.jpg").symlink_to("self.jpg")
    (root / "a" / "same.jpg").symlink_to("1.jpg")
    os.mkfifo(root / "pipe.jpg")
    os.mkfifo(os.fsencode(root) + b"/bad\xff.jpg")
    found = list(walk(root))
    assert [file.name for file in found if isinstance(file, File)] == ["a/1.jpg", "a/same.jpg"]
    reasons = {item.name: (item.reason, item.dropped) for item in found if isinstance(item, Problem)}
    assert reasons == {
        ".hidden": ("hidden", True),
        ".git": ("hidden", True),
        "a/out.jpg": ("path_outside", False),
        "a/gone.jpg": ("not_a_file", False),
        "a/self.jpg": ("not_a_file", False),
        "pipe.jpg": ("not_a_file", False),
        "bad\\udcff.jpg": ("bad_name", False),
    }


def test_a_folder_that_cannot_be_read_is_a_problem(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    root, real = put(["a/1.jpg", "b/2.jpg"]), os.scandir

    def locked(folder: str) -> object:
        if folder.endswith("/a"):
            raise PermissionError(13, "Permission denied", folder)
        return real(folder)

    monkeypatch.setattr(os, "scandir", locked)
    assert [(item.name, getattr(item, "reason", "")) for item in walk(root)] == [
        ("a/", "unreadable_folder"),
        ("b/2.jpg", ""),
    ]


def test_a_store_within_a_source_is_not_of_the_source(put: Put) -> None:
    root = put(["a/1.jpg", "manifest.json"])
    before = list(walk(root))
    claim(root / "builds" / "first")
    put(["builds/first/report/a.png", "builds/copy/report/a.png"])
    put({"builds/copy/manifest.json": '{"format": "datakit-store"}'})
    assert list(walk(root)) == before
    put(["builds/mine/1.jpg"])
    assert [file.name for file in walk(root)] == ["a/1.jpg", "builds/mine/1.jpg", "manifest.json"]
    assert [file.name for file in walk(root / "builds" / "first")] == [".datakit", "report/a.png"]


def test_a_link_out_is_followed_only_if_asked(put: Put, tmp_path: Path) -> None:
    root = put(["a/1.jpg"])
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "2.jpg").write_text("2")
    (root / "b").symlink_to(tmp_path / "disk", target_is_directory=True)
    (tmp_path / "disk" / "back").symlink_to(root / "b", target_is_directory=True)
    assert [item.name for item in walk(root) if isinstance(item, File)] == ["a/1.jpg"]
    followed = [item.name for item in walk(root, follow_links=True) if isinstance(item, File)]
    assert followed == ["a/1.jpg", "b/2.jpg"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../secret.jpg", "path_outside"),
        ("a/../../secret.jpg", "path_outside"),
        ("/etc/passwd", "path_outside"),
        ("a/..", "path_outside"),
        ("link.jpg", "path_outside"),
        ("linked/secret.jpg", "path_outside"),
        ("a", "missing_file"),
        ("nothing.jpg", "missing_file"),
        ("a/1.jpg/x", "missing_file"),
        ("", "bad_name"),
        ("a\0.jpg", "bad_name"),
        ("\udcff.jpg", "bad_name"),
        ("x" * 300, "missing_file"),
    ],
)
def test_no_name_in_a_list_leads_out(put: Put, tmp_path: Path, name: str, reason: str) -> None:
    root = put(["a/1.jpg"])
    (tmp_path / "secret.jpg").write_text("secret")
    (root / "link.jpg").symlink_to("../secret.jpg")
    (root / "linked").symlink_to("..", target_is_directory=True)
    found = Folder(root).find(name)
    assert isinstance(found, Problem)
    assert found.reason == reason


def test_a_name_in_a_list_is_found_however_it_is_spelt(put: Put) -> None:
    root = put(["a b/1.jpg"])
    (root / "a b" / "same.jpg").symlink_to("1.jpg")
    folder = Folder(root)
    for name in ("a b/1.jpg", "./a b//1.jpg"):
        assert folder.find(name) == Blob(f"{root}/a b/1.jpg", 0, 9)
    assert folder.find("a b/same.jpg") == Blob(f"{root}/a b/same.jpg", 0, 9)


def test_class_names_that_clash_in_case_stop_and_name_both() -> None:
    names = ClassNames()
    assert names("Rose") == "Rose"
    assert names(unicodedata.normalize("NFD", "Rosé")) == names(unicodedata.normalize("NFC", "Rosé"))
    with pytest.raises(CatalogError, match=r"'Rose' and 'rose' .*fold_case=true"):
        names("rose")
    folding = ClassNames(fold_case=True)
    assert [folding("Rose"), folding("rose"), folding("Tulip")] == ["Rose", "Rose", "Tulip"]


def test_names_of_the_taxonomy_have_one_spelling_under_one_parent() -> None:
    names = ClassNames()
    decomposed, composed = unicodedata.normalize("NFD", "Räuber"), unicodedata.normalize("NFC", "Räuber")
    told = [names.spell({"taxonomy": [name, "cod"], "class_name": "x"}) for name in (decomposed, composed)]
    assert told == [{"taxonomy": [composed, "cod"], "class_name": "x"}] * 2
    assert names.spell({"taxonomy": [composed, "X"]})  # a level may be called as a class
    assert names.spell({"taxonomy": ["Fish", "Cod"]})  # and as one under another parent
    with pytest.raises(CatalogError, match=r"in the taxonomy 'Fish' and 'fish' .*fold_case=true"):
        names.spell({"taxonomy": ["fish"]})
    folding = ClassNames(fold_case=True)
    told = [folding.spell({"taxonomy": path})["taxonomy"] for path in (["Fish", "Cod"], ["fish", "cod"])]
    assert told == [["Fish", "Cod"]] * 2


def test_columns_of_a_source_never_pass_for_ours() -> None:
    assert {field.name for field in LOCATION} | set(FIRST) <= OURS
    assert carried({"name": 1, "price": 2, "split": "x", "taken": 3}, {"taken"}) == {
        "source_name": 1,
        "price": 2,
        "source_split": "x",
    }
