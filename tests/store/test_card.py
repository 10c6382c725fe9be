"""The card says to loaders all there is to know, and LICENSE says whose the data are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from datakit.store.card import card, front_matter
from datakit.store.features import feature, plain_type, yaml_features
from datakit.store.layout import File, Layout, Licence, ShardEntry, StoreInfo
from datakit.store.licences import hub_licence, licence_text


def shard(split: str, samples: int) -> ShardEntry:
    file = File(path=f"data/{split}-00000-of-00001.tar", bytes=1000, sha256="0" * 64)
    return ShardEntry(split=split, index=0, of=1, samples=samples, tar=file, metadata=file, arrow=None)


SPLITS = {"train": [shard("train", 600)], "near_ood": [shard("near_ood", 400)]}
SCHEMA = pa.schema([("key", pa.string()), ("label", pa.int64()), ("taxonomy", pa.list_(pa.string()))])
LAYOUT = Layout(label="label", json_fields=("taxonomy",), class_names=("no", "on: off", "007"))


def test_front_matter_has_every_part_the_hub_knows(store_root: Path) -> None:
    text = (store_root / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert set(head) == {
        "pretty_name", "license", "language", "tags", "task_categories", "size_categories", "source_datasets",
        "annotations_creators", "configs", "dataset_info",
    }  # fmt: skip
    assert head["license"] == ["cc-by-4.0", "mit"]
    assert head["configs"][0]["data_files"][2] == {"split": "near_ood", "path": "data/near_ood-*.tar"}
    splits = {split["name"]: split["num_examples"] for split in head["dataset_info"]["splits"]}
    assert splits == {"train": 20, "test": 5, "near_ood": 7}
    tars = sum(path.stat().st_size for path in (store_root / "data").glob("*.tar"))
    assert head["dataset_info"]["download_size"] == head["dataset_info"]["dataset_size"] == tars


def test_the_yaml_is_what_datasets_itself_would_write_and_read() -> None:
    import datasets

    schema = pa.schema(
        [
            ("text", pa.string()),
            ("flags", pa.list_(pa.bool_())),
            ("grid", pa.list_(pa.list_(pa.int16()))),
            ("boxes", pa.list_(pa.struct([("x", pa.float32()), ("names", pa.list_(pa.string()))]))),
            ("when", pa.timestamp("us")),
            ("day", pa.date32()),
            ("where", pa.struct([("lat", pa.float64())])),
            ("raw", pa.binary()),
            ("big", pa.uint64()),
        ]
    )
    ours = {field.name: feature(field.type) for field in schema}
    theirs = datasets.Features.from_arrow_schema(schema)
    assert datasets.Features.from_dict(ours) == theirs
    assert yaml_features(ours) == theirs._to_yaml_list()
    assert datasets.Features._from_yaml_list(yaml.safe_load(yaml.safe_dump(yaml_features(ours)))) == theirs


def test_types_that_readers_differ_on_are_made_plain() -> None:
    odd = pa.dictionary(pa.int8(), pa.large_string())
    assert plain_type(odd) == pa.string()
    assert plain_type(pa.list_(pa.struct([]))) == pa.list_(pa.string())
    assert plain_type(pa.list_(pa.null())) == pa.list_(pa.string())
    assert plain_type(pa.list_(pa.float16(), 4)) == pa.list_(pa.float32())
    assert plain_type(pa.struct([("a", odd)])) == pa.struct([("a", pa.string())])


def test_class_names_that_look_like_something_else_stay_text(toy_info: StoreInfo) -> None:
    text = card(toy_info, LAYOUT, SCHEMA, SPLITS)
    head: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    features = {item["name"]: item for item in head["dataset_info"]["features"]}
    assert features["cls"]["dtype"]["class_label"]["names"] == {"0": "no", "1": "on: off", "2": "007"}


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        ([Licence(spdx="CC-BY-SA-4.0 AND CC-BY-4.0")], {"license": ["cc-by-sa-4.0", "cc-by-4.0"]}),
        ([Licence(spdx="MIT"), Licence(spdx="MIT")], {"license": "mit"}),
        ([Licence(spdx="(MIT OR Apache-2.0)")], {"license": ["mit", "apache-2.0"]}),
        ([Licence(spdx="ODC-By-1.0")], {"license": "odc-by"}),
        (
            [Licence(spdx="MIT"), Licence(name="Research only")],
            {"license": "other", "license_name": "mit-research-only", "license_link": "LICENSE"},
        ),
        (
            [Licence(spdx="LicenseRef-Cars")],
            {"license": "other", "license_name": "licenseref-cars", "license_link": "LICENSE"},
        ),
    ],
)
def test_licences_by_the_hubs_names(licences: list[Licence], expected: dict[str, Any]) -> None:
    assert hub_licence(licences) == expected


def test_licence_file_names_every_owner(toy_info: StoreInfo) -> None:
    more = replace(toy_info, licences=(*toy_info.licences, Licence(name="Own terms", text="Ask first.")))
    text = licence_text(more)
    assert all(
        part in text for part in ("CC-BY-4.0", "A | B", "Images: 20", "MIT", "Own terms", "Ask first.")
    )
    assert "different terms" in text
    assert "different terms" not in licence_text(replace(toy_info, licences=toy_info.licences[:1]))


def test_text_cannot_break_out_of_a_table(toy_info: StoreInfo) -> None:
    info = replace(toy_info, split_notes={"train": "a | b\n\n# Heading"})
    lines = card(info, LAYOUT, SCHEMA, SPLITS).splitlines()
    assert "| `train` | 600 | 1 | a \\| b # Heading |" in lines
    assert "# Heading" not in lines


@pytest.mark.parametrize(
    ("samples", "expected"), [(399, "n<1K"), (400, "1K<n<10K"), (10**5, "100K<n<1M"), (10**13, "n>1T")]
)
def test_size_category(toy_info: StoreInfo, samples: int, expected: str) -> None:
    splits = {"train": [shard("train", 600)], "test": [shard("test", samples)]}
    assert front_matter(toy_info, LAYOUT, SCHEMA, splits)["size_categories"] == [expected]


def test_sections_without_content_are_left_out(toy_info: StoreInfo) -> None:
    bare = replace(toy_info, citation="", classes_how="", command="", outcomes={})
    text = card(bare, Layout(), SCHEMA, SPLITS)
    assert "## Citation" not in text
    assert "classes were formed" not in text
    assert "cls" not in text
    full = card(replace(bare, sections=(("Uses", "Tests."),), checks="- fine"), LAYOUT, SCHEMA, SPLITS)
    assert "## Uses\n\nTests.\n" in full
    assert "## Checks\n\n- fine\n" in full
