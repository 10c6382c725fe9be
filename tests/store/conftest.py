"""A small published store: three splits, several shards, nested JSON, captions, nulls that come late."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image as pil

from datakit.store.tree import Layout, Licence, ShardPlan, StoreInfo, finish_tree, write_shard

from .web import Web, serve

SHARDS = {"train": (7, 7, 6), "test": (5,), "near_ood": (4, 3)}
CLASSES = ("no", "1.0", "a: b # c")  # each of them something else to a careless YAML writer

LAYOUT = Layout(
    label="label",
    caption="caption",
    json_fields=("class_name", "taxonomy", "boxes", "orig_label", "score"),
    class_names=CLASSES,
)
INFO = StoreInfo(
    name="toy-birds",
    title="Toy birds",
    description="Noise with *labels*.",
    homepage="https://example.org/birds",
    creator="A tester",
    licences=(Licence(spdx="CC-BY-4.0", attribution="A | B", samples=20), Licence(spdx="MIT", samples=12)),
    date_published="2026-01-02",
    citation="@misc{toy, title={Toy}}",
    command="datakit build recipe=toy",
    keywords=("birds",),
    sources=("https://example.org/source",),
    classes_how="By dice.",
    split_notes={"train": "to learn from"},
    selection_notes={"seed1": "another draw"},
    outcomes={"kept": 32, "too_small": 2},
)
SCHEMA = pa.schema(
    [
        ("__key__", pa.string()),
        ("label", pa.int64()),
        ("class_name", pa.string()),
        ("caption", pa.string()),
        ("taxonomy", pa.list_(pa.string())),
        ("boxes", pa.list_(pa.struct([("x", pa.int32()), ("name", pa.string())]))),
        ("orig_label", pa.int64()),
        ("score", pa.float32()),
        ("tier", pa.string()),
        ("mean_rgb", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True)
class Toy:
    """The rows and images of one shard."""

    plan: ShardPlan
    rows: pa.Table
    images: list[bytes]


def encoded(seed: int, format: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 24, 3), np.uint8)
    target = io.BytesIO()
    pil.fromarray(pixels).save(target, format, **({"quality": 60} if format == "JPEG" else {}))
    return target.getvalue()


def toy_row(split: str, number: int) -> dict[str, Any]:
    known = split in ("train", "test")
    return {
        "__key__": f"bird-{number:04d}",
        "label": number % len(CLASSES) if known else -1,
        "class_name": CLASSES[number % len(CLASSES)] if known else f"odd bird {number % 2}",
        "caption": None if number % 4 == 1 else f"ein Vögelchen, Nr. {number}",
        "taxonomy": ["birds", f"genus {number % 2}"],
        # Null in the first five of a shard, and never in the last: what schema inference gets wrong.
        "boxes": [{"x": number, "name": "beak"}] if number % 7 > 4 else None,
        "orig_label": number if number % 7 > 4 else None,
        "score": number / 8,
        "tier": None if known else "near",
        "mean_rgb": [0.5, number / 10, 1.0],
    }


@pytest.fixture(scope="session")
def toys() -> list[Toy]:
    found, number = [], 0
    for split, sizes in SHARDS.items():
        for index, size in enumerate(sizes):
            rows = [toy_row(split, number + row) for row in range(size)]
            plan = ShardPlan(split=split, index=index, of=len(sizes))
            images = [encoded(number + row) for row in range(size)]
            found.append(Toy(plan, pa.Table.from_pylist(rows, SCHEMA), images))
            number += size
    return found


@pytest.fixture(scope="session")
def selection(toys: list[Toy]) -> pa.Table:
    """Another draw over the same images: every class but the last is in, in reverse order."""
    keys = [row["__key__"] for toy in toys for row in toy.rows.to_pylist()][::-1]
    names = {row["__key__"]: row["class_name"] for toy in toys for row in toy.rows.to_pylist()}
    known = sorted({*names.values()} - {"odd bird 1"})
    labels = [known.index(names[key]) if names[key] in known else -1 for key in keys]
    return pa.table(
        {
            "key": keys,
            "split": ["train" if label >= 0 else "far_ood" for label in labels],
            "label": labels,
            "class_name": [names[key] for key in keys],
        }
    )


@pytest.fixture(scope="session")
def toy_info() -> StoreInfo:
    return INFO


@pytest.fixture(scope="session")
def toy_layout() -> Layout:
    return LAYOUT


BuildStore = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def build_store(toys: list[Toy], selection: pa.Table) -> BuildStore:
    """build_store(root): the whole store; keywords replace parts of layout, info and finish_tree's arguments."""

    def build(root: Path, *, layout: Layout = LAYOUT, **keywords: Any) -> dict[str, Any]:
        entries = [write_shard(root, toy.plan, toy.rows, toy.images, layout=layout) for toy in toys]
        given = {"recipe": "fraction: 0.5\n", "provenance": {"seed": 1}, "selections": {"seed1": selection}}
        return finish_tree(root, entries=entries, layout=layout, info=INFO, **{**given, **keywords})

    return build


@pytest.fixture(scope="session")
def store_root(tmp_path_factory: pytest.TempPathFactory, build_store: BuildStore) -> Path:
    """A finished store, for reading only."""
    root = tmp_path_factory.mktemp("published") / "birds"
    build_store(root)
    return root


@pytest.fixture
def copy(store_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store_root, tmp_path / "copy"))


@pytest.fixture
def web(store_root: Path, tmp_path: Path) -> Iterator[Web]:
    shutil.copytree(store_root, tmp_path / "web" / "birds")
    with serve(tmp_path / "web") as served:
        yield served
