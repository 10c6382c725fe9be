"""README.md of a store: front matter for loaders, then a card for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import yaml

from datakit.store.features import IMAGE_FEATURE, feature, label_feature, yaml_features
from datakit.store.layout import Layout, ShardEntry, StoreInfo
from datakit.store.licences import hub_licence

Splits = Mapping[str, Sequence[ShardEntry]]

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"),
          (10**7, "1M<n<10M"), (10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"),
          (10**11, "10B<n<100B"), (10**12, "100B<n<1T"))  # fmt: skip

_PLACES = (
    "Every sample has all of these. `metadata/` has a row for each sample, in the order of its tar, with its "
    "place and digest; `manifest.json` has the size and sha256 of every file (`datakit verify`)."
)
_BLOCKS = (
    (
        "datakit",
        """from datakit.store.reader import open_store

store = open_store(".")
sample = store["{split}"][0]    # by row; iterates too, and checks the digest of every sample{chosen}""",
    ),
    (
        "Hugging Face datasets",
        """import os
from datasets import load_dataset

rows = load_dataset(os.getcwd(), split="{split}")    # or streaming=True""",
    ),
    (
        "Arrow, memory-mapped",
        """from datasets import load_from_disk

rows = load_from_disk("arrow/{split}")""",
    ),
    (
        "webdataset",
        """import webdataset as wds

rows = wds.WebDataset("{urls}", shardshuffle=False).decode("pil")""",
    ),
    (
        "wids",
        """import wids

# Without cache_dir wids copies every shard, and goes on reading the copy of one that was rebuilt.
rows = wids.ShardListDataset("data/{split}.index.json", cache_dir="data")""",
    ),
    (
        "mlcroissant",
        """import mlcroissant as mlc

# It keeps extracted shards by relative path: give every data set its own CROISSANT_CACHE.
rows = mlc.Dataset("croissant.json").records("{split}")""",
    ),
)


def card(
    info: StoreInfo, layout: Layout, schema: pa.Schema, splits: Splits, selections: Sequence[str] = ()
) -> str:
    """The whole README.md. schema: of the metadata, for the types of what the tars hold."""
    head = yaml_text(front_matter(info, layout, schema, splits))
    sections = [
        f"# {info.title}",
        info.description,
        _splits_text(info, splits, selections),
        _section("How to load", _loading(layout, splits, selections)),
        _section("What a sample holds", _members_text(layout)),
        _section("How the classes were formed", info.classes_how),
        _section("Licences", _licences_text(info)),
        _section("Checks", info.checks),
        _section("Metric conventions", info.metrics),
        *(_section(title, text) for title, text in info.sections),
        _section("How it was made", _making(info)),
        _section("Citation", f"```bibtex\n{info.citation.strip()}\n```" if info.citation else ""),
    ]
    return f"---\n{head}---\n\n" + "\n\n".join(text.strip() for text in sections if text) + "\n"


def yaml_text(value: Mapping[str, Any]) -> str:
    """Front matter as a card has it; so that `verify` finds it there."""
    return str(yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=10**6))


def front_matter(info: StoreInfo, layout: Layout, schema: pa.Schema, splits: Splits) -> dict[str, Any]:
    """The YAML that the Hub and `load_dataset` read: explicit files and full types, nothing left to guess."""
    counts = {split: sum(entry.samples for entry in shards) for split, shards in splits.items()}
    sizes = {split: sum(entry.tar.bytes for entry in shards) for split, shards in splits.items()}
    files = [{"split": split, "path": f"data/{split}-*.tar"} for split in splits]
    shown = [{"name": name, "num_bytes": sizes[name], "num_examples": counts[name]} for name in splits]
    return {
        "pretty_name": info.title,
        **hub_licence(info.licences),
        "language": list(info.language),
        "tags": [*info.keywords, "webdataset", "croissant", "datakit"],
        "task_categories": list(info.task_categories),
        "size_categories": [_size_category(sum(counts.values()))],
        "source_datasets": list(info.sources) or ["original"],
        "annotations_creators": list(info.annotations_creators),
        "configs": [{"config_name": "default", "data_files": files}],
        "dataset_info": {
            "features": yaml_features(tar_features(layout, schema)),
            "splits": shown,
            "download_size": sum(sizes.values()),
            "dataset_size": sum(sizes.values()),
        },
    }


def tar_features(layout: Layout, schema: pa.Schema) -> dict[str, Any]:
    """Types of the members, in the order that Hugging Face's tar reader gives its columns."""
    features: dict[str, Any] = {layout.image_extension: IMAGE_FEATURE}
    if layout.json_fields:
        features["json"] = {name: feature(schema.field(name).type) for name in sorted(layout.json_fields)}
    if layout.label:
        features["cls"] = label_feature(layout.class_names)
    if layout.caption:
        features["txt"] = feature(pa.string())
    return features | {"__key__": feature(pa.string()), "__url__": feature(pa.string())}


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text.strip()}" if text.strip() else ""


def _splits_text(info: StoreInfo, splits: Splits, selections: Sequence[str]) -> str:
    rows = [
        (f"`{split}`", str(sum(entry.samples for entry in shards)), str(len(shards)),
         info.split_notes.get(split, ""))
        for split, shards in splits.items()
    ]  # fmt: skip
    text = _section("Splits", _table(("split", "samples", "shards", "what it is"), rows))
    if selections:
        listed = [(f"`lists/{name}.parquet`", info.selection_notes.get(name, "")) for name in selections]
        text += "\n\nFurther selections over the same images, as lists of keys:\n\n" + _table(
            ("list", "what it is"), listed
        )
    return text


def _loading(layout: Layout, splits: Splits, selections: Sequence[str]) -> str:
    split, shards = next(iter(splits.items()))
    many = f"data/{split}-{{00000..{len(shards) - 1:05d}}}-of-{len(shards):05d}.tar"
    urls = many if len(shards) > 1 else shards[0].tar.path
    chosen = (
        f"\nother = store.select({selections[0]!r})    # the same over another selection"
        if selections
        else ""
    )
    blocks = [block for block in _BLOCKS if layout.arrow or "arrow/" not in block[1]]
    words = {"split": split, "urls": urls, "chosen": chosen}
    filled = [f"{title}:\n\n```python\n{code.format(**words)}\n```" for title, code in blocks]
    return "\n\n".join(["From this folder:", *filled])


def _members_text(layout: Layout) -> str:
    classes = f"{len(layout.class_names)} classes" if layout.class_names else "classes"
    about = {
        layout.image_extension: "the image",
        "json": ", ".join(f"`{name}`" for name in sorted(layout.json_fields)),
        "cls": f"`{layout.label}`: {classes} from 0 on, named in `dataset_info.features`; -1: none of these",
        "txt": f"`{layout.caption}`; empty where there is none",
    }
    members = _table(("member", "holds"), [(f"`{name}`", about[name]) for name in layout.extensions])
    return f"{members}\n\n{_PLACES}"


def _licences_text(info: StoreInfo) -> str:
    rows = []
    for licence in info.licences:
        title = f"[{licence.title}]({licence.link})" if licence.link else licence.title
        rows.append((title, "" if licence.samples is None else str(licence.samples), licence.attribution))
    return _table(("licence", "images", "attribution"), rows) + "\n\nSee `LICENSE`."


def _making(info: StoreInfo) -> str:
    text = f"```sh\n{info.command.strip()}\n```\n\n" if info.command else ""
    if info.outcomes:
        text += _table(("outcome", "samples"), [(name, str(n)) for name, n in info.outcomes.items()]) + "\n\n"
    return text + (
        f"Version {info.version}, {info.date_published}, by {info.creator}. <{info.homepage}>\n\n"
        "`recipe.yaml` has every setting, `provenance.json` what it was made from."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text of a table cell: neither a bar nor a line break may end it."""
    return " ".join(text.split()).replace("|", "\\|")


def _size_category(samples: int) -> str:
    return next((name for limit, name in _SIZES if samples < limit), "n>1T")
