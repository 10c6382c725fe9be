"""Official layouts, each as a tiny copy: names, labels as the source counts them, taxonomy, groups, splits."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datakit import catalog
from datakit.errors import CatalogError
from datakit.sources import aircraft, butterfly, cars, cub, grocery, imagenet, nabirds
from datakit.sources.lists import read_mat

Put, Read = Callable[..., Path], Callable[..., Any]
Files = dict[str, str | bytes]

CUB: Files = {
    "images.txt": "1 001.Black_footed_Albatross/a_0001.jpg\n2 002.Laysan_Albatross/b_0002.jpg\n3 003.Ovenbird/c.jpg\n",
    "classes.txt": "1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n3 003.Ovenbird\n",
    "image_class_labels.txt": "1 1\n2 2\n3 3\n",
    "train_test_split.txt": "1 1\n2 0\n3 1\n",
    "attributes/class_attribute_labels_continuous.txt": "0 50.0 100\n10 20 30\n0 0 0\n",
    "images/001.Black_footed_Albatross/a_0001.jpg": "A",
    "images/002.Laysan_Albatross/b_0002.jpg": "B",
    "images/003.Ovenbird/c.jpg": "C",
}
AIRCRAFT: Files = {
    "data/variants.txt": "707-320\nBoeing 717\nYak-42\n",
    **{f"data/images/{n}.jpg": str(n) for n in (10, 11, 12)},
    "data/images_variant_train.txt": "10 707-320\n",
    "data/images_variant_val.txt": "11 Boeing 717\n",
    "data/images_variant_test.txt": "12 Yak-42\n",
    "data/images_family_train.txt": "10 Boeing 707\n",
    "data/images_family_val.txt": "11 Boeing 717\n",
    "data/images_family_test.txt": "12 Yak-42\n",
    "data/images_manufacturer_train.txt": "10 Boeing\n",
    "data/images_manufacturer_val.txt": "11 Boeing\n",
    "data/images_manufacturer_test.txt": "12 Yakovlev\n",
}
NABIRDS: Files = {
    "classes.txt": "0 Birds\n1 Hawks\n2 Northern Harrier\n3 Gulls\n295 Northern Harrier (Adult male)\n"
    "296 Northern Harrier (Female, immature)\n817 Herring Gull\n",
    "hierarchy.txt": "1 0\n3 0\n2 1\n295 2\n296 2\n817 3\n",
    "images.txt": "aa-1 0295/a.jpg\nbb-2 0296/b.jpg\ncc-3 0817/c.jpg\n",
    "image_class_labels.txt": "aa-1 295\nbb-2 296\ncc-3 817\n",
    "train_test_split.txt": "aa-1 1\nbb-2 0\ncc-3 1\n",
    "photographers.txt": "aa-1 Ann Lee\nbb-2 Ann Lee\ncc-3 Bo\n",
    "images/0295/a.jpg": "A",
    "images/0296/b.jpg": "B",
    "images/0817/c.jpg": "C",
}
BUTTERFLY: Files = {
    "Butterfly200_train_release.txt": "001.Danaus_plexippus/1 a.jpg 1 1 1 1\n002.Danaus_genutia/2.jpg 2 1 1 1\n",
    "Butterfly200_val_release.txt": "200.Zerene_cesonia/3.jpg 200 116 23 5\n",
    "Butterfly200_test_release.txt": "001.Danaus_plexippus/4.jpg 1 1 1 1\n",
    "images/001.Danaus_plexippus/1 a.jpg": "1",
    "images/002.Danaus_genutia/2.jpg": "2",
    "images/200.Zerene_cesonia/3.jpg": "3",
    "images/001.Danaus_plexippus/4.jpg": "4",
}
HEAD = "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int),"
TEXTS = "iconic-images-and-descriptions"
GROCERY: Files = {
    "classes.csv": f"{HEAD}Iconic Image Path (str),Product Description Path (str)\n"
    f"Gala,0,Apple,0,/{TEXTS}/Fruit/Apple/Gala/i.jpg,/{TEXTS}/Fruit/Apple/Gala/d.txt\n"
    f"Zucchini,1,Zucchini,1,/{TEXTS}/Vegetables/Zucchini/i.jpg,/{TEXTS}/Vegetables/Zucchini/d.txt\n",
    f"{TEXTS}/Fruit/Apple/Gala/d.txt": "A sweet apple.\n",
    "train.txt": "train/Fruit/Apple/Gala/1.jpg, 0, 0\ntrain/Vegetables/Zucchini/2.jpg, 1, 1\n",
    "train/Fruit/Apple/Gala/1.jpg": "1",
    "train/Vegetables/Zucchini/2.jpg": "2",
}


def test_cub(put: Put, read: Read, bytes_of: Any) -> None:
    entries, problems = read(cub.scan(put(CUB)))
    assert not problems
    assert entries["images/001.Black_footed_Albatross/a_0001.jpg"].fields == {
        "class_name": "Black footed Albatross",
        "orig_label": 1,
        "taxonomy": ["Albatross"],
        "official_split": "train",
    }
    assert [entry.fields["official_split"] for entry in entries.values()] == ["train", "test", "train"]
    assert [entry.fields["taxonomy"] for entry in entries.values()] == [
        ["Albatross"],
        ["Albatross"],
        ["Ovenbird"],
    ]
    assert [bytes_of(entry) for entry in entries.values()] == [b"A", b"B", b"C"]


def test_cub_with_a_third_split_costs_its_images(put: Put, read: Read) -> None:
    entries, problems = read(cub.scan(put(CUB | {"train_test_split.txt": "1 1\n2 2\n3 1\n"})))
    assert len(entries) == 2
    assert [(p.name, p.reason) for p in problems] == [("images/002.Laysan_Albatross/b_0002.jpg", "bad_label")]


def test_cub_attributes_are_shares(put: Put, read: Read) -> None:
    root = put(CUB)
    assert cub.class_attributes(root)["Laysan Albatross"] == pytest.approx([0.1, 0.2, 0.3])
    entries, _ = read(cub.scan(root, attributes=True))
    assert entries["images/003.Ovenbird/c.jpg"].fields["attributes"] == [0.0, 0.0, 0.0]
    (root / cub.ATTRIBUTES).write_text("1 2\n3 4\n")
    with pytest.raises(CatalogError, match="2 rows for 3 classes"):
        cub.class_attributes(root)


def test_aircraft(put: Put, read: Read, bytes_of: Any) -> None:
    entries, problems = read(aircraft.scan(put(AIRCRAFT)))
    assert not problems
    assert entries["images/11.jpg"].fields == {
        "class_name": "Boeing 717",
        "orig_label": 1,
        "taxonomy": ["Boeing", "Boeing 717"],
        "official_split": "val",
    }
    assert [entry.fields["official_split"] for entry in entries.values()] == ["train", "val", "test"]
    assert bytes_of(entries["images/12.jpg"]) == b"12"


def test_an_aircraft_in_two_splits_stops(put: Put) -> None:
    files = AIRCRAFT | {"data/images_variant_test.txt": "10 Yak-42\n"}
    with pytest.raises(CatalogError, match="image 10 is in two splits"):
        list(aircraft.scan(put(files)))


def test_nabirds(put: Put, read: Read) -> None:
    entries, problems = read(nabirds.scan(put(NABIRDS)))
    assert not problems
    assert entries["images/0295/a.jpg"].fields == {
        "class_name": "Northern Harrier (Adult male)",
        "orig_label": 295,
        "taxonomy": ["Hawks", "Northern Harrier"],
        "identity_group": "Northern Harrier",
        "official_split": "train",
        "capture_group": "Ann Lee",
        "attribution": "Ann Lee",
    }
    groups = [entry.fields["identity_group"] for entry in entries.values()]
    assert groups == ["Northern Harrier", "Northern Harrier", "Herring Gull"]
    assert entries["images/0817/c.jpg"].fields["taxonomy"] == ["Gulls"]


@pytest.mark.parametrize(
    "change",
    [
        {"train_test_split.txt": "aa-1 2\nbb-2 0\ncc-3 1\n"},
        {"hierarchy.txt": "1 0\n3 0\n2 1\n295 9\n9 2\n296 2\n817 3\n"},
        {"hierarchy.txt": "1 0\n3 0\n2 9\n9 1\n295 9\n296 2\n817 3\n"},
    ],
)
def test_nabirds_of_a_split_or_node_that_is_none_cost_themselves(put: Put, read: Read, change: Files) -> None:
    entries, problems = read(nabirds.scan(put(NABIRDS | change)))
    lost = {problem.name for problem in problems if problem.reason == "bad_label"}
    assert "images/0295/a.jpg" in lost and "images/0817/c.jpg" in entries
    assert len(entries) + len(lost) == 3


def test_a_circle_in_the_hierarchy_stops(put: Put) -> None:
    with pytest.raises(CatalogError, match="above itself"):
        list(nabirds.scan(put(NABIRDS | {"hierarchy.txt": "295 2\n2 1\n1 2\n"})))


def test_butterfly(put: Put, read: Read) -> None:
    entries, problems = read(butterfly.scan(put(BUTTERFLY)))
    assert not problems
    assert entries["images/200.Zerene_cesonia/3.jpg"].fields == {
        "class_name": "Zerene cesonia",
        "orig_label": 200,
        "taxonomy": ["family 5", "subfamily 23", "genus 116"],
        "official_split": "val",
    }
    assert {entry.fields["class_name"] for name, entry in entries.items() if "/001." in name} == {
        "Danaus plexippus"
    }


def test_butterfly_ids_from_zero_are_refused(put: Put, read: Read) -> None:
    files = BUTTERFLY | {"Butterfly200_train_release.txt": "001.Danaus_plexippus/1 a.jpg 0 0 0 0\n"}
    _, problems = read(butterfly.scan(put(files)))
    assert [problem.reason for problem in problems] == ["bad_label"]


def test_grocery(put: Put, read: Read) -> None:
    root = put(GROCERY)
    entries, problems = read(grocery.scan(root))
    assert not problems
    assert entries["train/Fruit/Apple/Gala/1.jpg"].fields == {
        "class_name": "Gala",
        "orig_label": 0,
        "taxonomy": ["Fruit", "Apple"],
        "caption": "A sweet apple.",
        "official_split": None,
    }
    assert entries["train/Vegetables/Zucchini/2.jpg"].fields["caption"] is None
    (root / "test.txt").write_text("train/Fruit/Apple/Gala/3.jpg, 0, 0\ntrain/Fruit/Apple/Gala/1.jpg, 7, 0\n")
    entries, problems = read(grocery.scan(root))
    assert {entry.fields["official_split"] for entry in entries.values()} == {"train"}
    assert [problem.reason for problem in problems] == ["missing_file", "bad_label"]


@pytest.mark.shared_data
def test_the_shared_groceries_are_read_whole(shared_data: Path, read: Read) -> None:
    entries, problems = read(grocery.scan(shared_data / "grocery"))
    assert not problems
    fields = [entry.fields for entry in entries.values()]
    assert len(entries) == 2640
    assert len({f["class_name"] for f in fields}) == 81
    assert len({f["taxonomy"][1] for f in fields}) == 43
    assert {f["taxonomy"][0] for f in fields} == {"Fruit", "Packages", "Vegetables"}
    assert {f["official_split"] for f in fields} == {None}
    assert {f["orig_label"] for f in fields} == set(range(81))
    assert all(f["caption"] for f in fields)


CARS = [
    "AM General Hummer SUV 2000",
    "Audi S4 Sedan 2007",
    "Audi S4 Sedan 2012",
    "Aston Martin V8 Vantage Coupe 2012",
]


def struct(rows: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    """Rows as the struct array that MATLAB writes."""
    table = np.empty((1, len(rows)), dtype=[(name, object) for name in rows[0]])
    for index, row in enumerate(rows):
        table[0, index] = tuple(row.values())
    return table


def cells(values: list[str]) -> np.ndarray[Any, Any]:
    found = np.empty((1, len(values)), dtype=object)
    found[0, :] = values
    return found


@pytest.fixture
def cars_in_parts(put: Put) -> Path:
    from scipy.io import savemat

    root = put(["cars_train/00001.jpg", "cars_train/00002.jpg", "cars_test/00001.jpg", "cars_test/00002.jpg"])
    (root / "devkit").mkdir()
    train = [
        {"bbox_x1": 1, "class": 1, "fname": "00001.jpg"},
        {"bbox_x1": 1, "class": 2, "fname": "00002.jpg"},
    ]
    test = [
        {"bbox_x1": 1, "class": 3, "fname": "00001.jpg"},
        {"bbox_x1": 1, "class": 4, "fname": "00002.jpg"},
    ]
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": cells(CARS)})
    savemat(root / "devkit" / "cars_train_annos.mat", {"annotations": struct(train)})
    savemat(root / "cars_test_annos_withlabels.mat", {"annotations": struct(test)})
    return root


def test_cars_in_parts(cars_in_parts: Path, read: Read) -> None:
    entries, problems = read(cars.scan(cars_in_parts))
    assert not problems
    assert entries["cars_test/00001.jpg"].fields == {
        "class_name": "Audi S4 Sedan 2012",
        "orig_label": 3,
        "taxonomy": ["Audi"],
        "identity_group": "Audi S4 Sedan",
        "official_split": "test",
    }
    assert entries["cars_train/00002.jpg"].fields["identity_group"] == "Audi S4 Sedan"
    makes = [entry.fields["taxonomy"] for entry in entries.values()]
    assert makes == [["AM General"], ["Audi"], ["Audi"], ["Aston Martin"]]


def test_cars_in_one_list(put: Put, read: Read) -> None:
    from scipy.io import savemat

    root = put(["car_ims/000001.jpg"])
    rows = [
        {"relative_im_path": "car_ims/000001.jpg", "class": 4, "test": 1},
        {"relative_im_path": "car_ims/000002.jpg", "class": 1, "test": 0},
        {"relative_im_path": "car_ims/000001.jpg", "class": 5, "test": 0},
    ]
    savemat(root / "cars_annos.mat", {"annotations": struct(rows), "class_names": cells(CARS)})
    entries, problems = read(cars.scan(root))
    assert entries["car_ims/000001.jpg"].fields["class_name"] == CARS[3]
    assert entries["car_ims/000001.jpg"].fields["official_split"] == "test"
    assert [problem.reason for problem in problems] == ["missing_file", "bad_label"]


def test_cars_that_are_not_there_say_what_is_missing(put: Put) -> None:
    with pytest.raises(CatalogError, match=r"has no cars_train_annos\.mat, nor has its folder devkit"):
        list(cars.scan(put(["x"])))
    with pytest.raises(CatalogError, match="no MATLAB file"):
        list(cars.scan(put({"cars_annos.mat": "not one"}, "bad")))


MAPPING = "n01440764 tench, Tinca tinca\nn02012849 crane\nn03126707 crane\n"
VAL = [f"val/ILSVRC2012_val_{number:08d}.JPEG" for number in (1, 2)]
TRAIN = ["train/n01440764/n01440764_10.JPEG", "train/n03126707/n03126707_7.JPEG"]


def test_imagenet_by_kaggle(put: Put, read: Read) -> None:
    inner = [f"ILSVRC/Data/CLS-LOC/{name}" for name in [*TRAIN, *VAL, "val/ILSVRC2012_val_00000003.JPEG"]]
    truth = (
        "ImageId,PredictionString\nILSVRC2012_val_00000001,n02012849 1 2 3 4 n02012849 5 6 7 8\n"
        "ILSVRC2012_val_00000002,n01440764 1 2 3 4\n"
    )
    files = dict.fromkeys(inner, "x") | {"LOC_synset_mapping.txt": MAPPING, "LOC_val_solution.csv": truth}
    entries, problems = read(imagenet.scan(put(files)))
    assert entries[TRAIN[1]].fields == {
        "class_name": "crane (n03126707)",
        "orig_label": 2,
        "concept": "n03126707",
        "official_split": "train",
    }
    assert entries[TRAIN[0]].fields["class_name"] == "tench"
    assert [entries[name].fields["concept"] for name in VAL] == ["n02012849", "n01440764"]
    assert {entries[name].fields["official_split"] for name in VAL} == {"test"}
    assert [(p.name, p.reason) for p in problems] == [("val/ILSVRC2012_val_00000003.JPEG", "bad_label")]


def test_imagenet_names_that_differ_in_case_only_get_their_wnid(put: Put, read: Read) -> None:
    dog, jacket = "train/n02113186/n02113186_1.JPEG", "train/n02963159/n02963159_1.JPEG"
    mapping = "n02113186 Cardigan, Cardigan Welsh corgi\nn02963159 cardigan\n"
    entries, _ = read(imagenet.scan(put({dog: "x", jacket: "x", "LOC_synset_mapping.txt": mapping})))
    names = [entries[name].fields["class_name"] for name in (dog, jacket)]
    assert names == ["Cardigan (n02113186)", "cardigan (n02963159)"]


def test_imagenet_by_devkit_has_ids_in_another_order(put: Put, read: Read) -> None:
    from scipy.io import savemat

    truth = "2\n1\n"
    kit = "ILSVRC2012_devkit_t12/data"
    root = put(
        dict.fromkeys([*TRAIN, *VAL], "x")
        | {"LOC_synset_mapping.txt": MAPPING, f"{kit}/{imagenet.TRUTH}": truth}
    )
    synsets = [{"ILSVRC2012_ID": 1, "WNID": "n03126707"}, {"ILSVRC2012_ID": 2, "WNID": "n01440764"}]
    savemat(root / kit / "meta.mat", {"synsets": struct(synsets).T})
    entries, problems = read(imagenet.scan(root, val_as="val"))
    assert not problems
    assert [entries[name].fields["concept"] for name in VAL] == ["n01440764", "n03126707"]
    assert {entries[name].fields["official_split"] for name in VAL} == {"val"}


@pytest.mark.skipif(find_spec("timm") is None, reason="timm, whose tables are read, is not installed")
def test_imagenet_in_folders_takes_names_from_timm(put: Put, read: Read) -> None:
    root = put([*TRAIN, "train/n99999999/x.JPEG", "train/n01440764/list.txt", "val/n02012849/1.JPEG"])
    entries, problems = read(imagenet.scan(root))
    assert entries["val/n02012849/1.JPEG"].fields["class_name"] == "crane (n02012849)"
    assert entries["val/n02012849/1.JPEG"].fields["orig_label"] == 134
    assert entries[TRAIN[0]].fields["orig_label"] == 0
    assert {(p.name, p.reason) for p in problems} == {
        ("train/n99999999/x.JPEG", "bad_label"),
        ("train/n01440764/list.txt", "not_an_image_file"),
    }


def test_a_flat_val_without_labels_stops(put: Put) -> None:
    with pytest.raises(CatalogError, match=r"val/ is flat, and there is no LOC_val_solution\.csv"):
        list(imagenet.scan(put([*TRAIN, *VAL])))


@pytest.mark.parametrize("name", ["cub", "aircraft", "nabirds", "butterfly", "grocery", "cars", "imagenet"])
def test_an_empty_folder_says_what_it_lacks(put: Put, name: str) -> None:
    with pytest.raises(CatalogError, match="has no "):
        list(import_module(f"datakit.sources.{name}").scan(put(["unrelated"])))


@pytest.mark.parametrize(
    ("name", "files", "lost"),
    [
        ("cub", CUB, "images/003.Ovenbird/c.jpg"),
        ("aircraft", AIRCRAFT, "data/images/12.jpg"),
        ("nabirds", NABIRDS, "images/0817/c.jpg"),
        ("butterfly", BUTTERFLY, "images/200.Zerene_cesonia/3.jpg"),
        ("grocery", GROCERY, "train/Fruit/Apple/Gala/1.jpg"),
    ],
)
def test_a_listed_image_that_is_lost_is_reported(
    put: Put, read: Read, name: str, files: Files, lost: str
) -> None:
    reader, root = import_module(f"datakit.sources.{name}"), put(files)
    whole, _ = read(reader.scan(root))
    (root / lost).unlink()
    entries, problems = read(reader.scan(root))
    assert len(entries) == len(whole) - 1
    assert [(p.reason, p.dropped) for p in problems] == [("missing_file", False)]
    assert lost.endswith(problems[0].name)


@pytest.mark.parametrize(
    ("name", "files"), [("cub", CUB), ("aircraft", AIRCRAFT), ("butterfly", BUTTERFLY), ("grocery", GROCERY)]
)
def test_labels_start_where_the_catalog_says(put: Put, read: Read, name: str, files: Files) -> None:
    entries, _ = read(import_module(f"datakit.sources.{name}").scan(put(files)))
    assert (
        min(entry.fields["orig_label"] for entry in entries.values())
        == catalog.load(name).classes["label_base"]
    )


@pytest.mark.parametrize(
    ("name", "files", "list_name", "bad"),
    [
        ("cub", CUB, "image_class_labels.txt", "1 9\n2 2\n"),
        ("nabirds", NABIRDS, "image_class_labels.txt", "aa-1 9\nbb-2 296\n"),
    ],
)
def test_images_without_a_known_class_are_reported(
    put: Put, read: Read, name: str, files: Files, list_name: str, bad: str
) -> None:
    entries, problems = read(import_module(f"datakit.sources.{name}").scan(put(files | {list_name: bad})))
    assert len(entries) == 1
    assert [problem.reason for problem in problems] == ["bad_label", "bad_label"]


def test_an_id_that_comes_twice_stops(put: Put) -> None:
    with pytest.raises(CatalogError, match=r"images\.txt: line 2 has the id 1 again"):
        list(cub.scan(put(CUB | {"images.txt": "1 a\n1 b\n"})))


def test_a_matlab_file_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    path, packer = tmp_path / "a.mat", zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(65)) + packer.flush()
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + (15).to_bytes(4, "little")
    path.write_bytes(head + len(packed).to_bytes(4, "little") + packed)
    with pytest.raises(CatalogError, match="unpacks to more than"):
        read_mat(path)
