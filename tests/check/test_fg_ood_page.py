"""The report of `fg_ood`: its words are those of the tiers made, its pictures and classes those published."""

from __future__ import annotations

import html
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.check.fg_ood_classes import Album, class_rows, split_notes, tier_rows
from datakit.check.fg_ood_page import fg_ood_page
from datakit.check.fg_ood_validation import gather_validation
from datakit.check.report_data import MetricRow
from datakit.image import Image
from datakit.recipes.fg_ood import Config, Holdout, recipe
from datakit.stage import Ref
from datakit.stages.assign import published
from datakit.stages.classes import class_features, class_table
from datakit.stages.columns import TableRows
from datakit.stages.duplicates import near_duplicates
from datakit.stages.holdout import hold_out
from datakit.stages.split import split

from .conftest import HELD_OUT, Build
from .report_makers import picture, words


class PictureRows(TableRows):
    """Rows with one picture for all, from no catalog."""

    outcomes = pa.table({name: pa.array([], pa.string()) for name in ("name", "outcome", "reason")})
    catalogs = ()

    def images(self, indices: Sequence[int] | None = None) -> Iterator[Image]:
        for _ in range(len(self)) if indices is None else indices:
            yield Image.from_array(picture(0))


@pytest.fixture(scope="module", params=["taxonomy", "attributes"])
def measured(request: pytest.FixtureRequest, good: Build) -> tuple[str, Build]:
    """How the tiers were made, and the good build with pictures, a class for val_ood and measured distances."""
    classes = hold_out(
        seed=0,
        classes=Ref.of(class_table()(good.rows)),
        mode="explicit",
        held_out=HELD_OUT,
        val_ood_fraction=0.2,
    )(good.rows)
    attributes = class_features(features=Ref.of(good.features))(good.rows)
    made = split(
        seed=0, classes=Ref.of(classes), attributes=Ref.of(attributes), tiers=request.param, ood_images="test"
    )(good.rows)
    rows = PictureRows(
        good.rows.data.append_column("changes", pa.array([[]] * len(good.rows), pa.list_(pa.string())))
    )
    return request.param, replace(good, rows=rows, split=made)


def page(tiers: str, build: Build, **given: Any) -> str:
    stage = fg_ood_page(
        seeds=(0,), splits=[Ref.of(build.split)], duplicates=Ref.of(near_duplicates()(build.rows)), findings=(),
        encoder="efficientnet-lite0", tiers=tiers, attributes="", title="birds", **{"words": {}} | given,
    )  # fmt: skip
    return str(stage(build.rows))


def chosen(build: Build) -> tuple[dict[str, Any], Album, list[str | None]]:
    """The class rows by name, the album they filled, and the list that each image is published in."""
    lists = pa.chunked_array([published([build.split])])
    album = Album(build.rows, build.split)
    return (
        {row.name: row for row in class_rows(build.rows, build.split, lists, album)},
        album,
        lists.to_pylist(),
    )


def test_page_and_card_say_what_the_tiers_were_made_of(measured: tuple[str, Build]) -> None:
    tiers, build = measured
    text = words(page(tiers, build))
    assert ("share their parent" in text) == (tiers == "taxonomy")
    assert ("whose attributes are nearest to those of an ID class" in text) == (tiers == "attributes")
    mode = "attributes" if tiers == "attributes" else "random"
    store = recipe(Config(validate="none", holdout=Holdout(mode=mode))).store
    assert store.split_notes == split_notes(tiers)
    assert list(split_notes("attributes")) == list(split_notes("taxonomy"))  # the order of publication


def test_tiers_and_classes_have_the_distances_of_the_split(measured: tuple[str, Build]) -> None:
    tiers, build = measured
    names, distances = (build.split[name].to_pylist() for name in ("class_name", "attr_distance"))
    wanted = {name: value for name, value in zip(names, distances, strict=True) if value is not None}
    found, album, _ = chosen(build)
    assert {name: row.attr_distance for name, row in found.items() if row.attr_distance is not None} == wanted
    rows = list(tier_rows(build.split, album, notes=split_notes(tiers), measured_on="the means of X"))
    assert all(len(row.distances) == row.classes for row in rows if row.name not in ("id", "outlier"))
    assert {row.distance for row in rows} == {"cosine distance to the nearest ID class, by the means of X"}
    text = words(page(tiers, build))
    assert text.count("No distances were measured for this tier.") == 1  # of the outliers
    assert "by the class means of the features of efficientnet-lite0" in text


def test_images_without_a_class_are_no_class_of_their_tier(measured: tuple[str, Build]) -> None:
    tiers, build = measured
    nameless = build.misfiled(class_name=dict.fromkeys(build.where(class_name="chair")))
    album = Album(nameless.rows, nameless.split)
    rows = tier_rows(nameless.split, album, notes=split_notes(tiers), measured_on="")
    assert {row.name: row.classes for row in rows}["outlier"] == 1


def test_a_class_shows_published_pictures_and_an_id_class_its_test_first(measured: tuple[str, Build]) -> None:
    _, build = measured
    every = build.split["class_name"].to_pylist()
    firsts = [every.index(name) for name in dict.fromkeys(every)]
    parted = build.misfiled(publish=dict.fromkeys(firsts, "reserve"))  # in no other seed: not published
    found, album, lists = chosen(parted)
    row_at = list(album.places)
    for row in found.values():
        shown = [lists[row_at[at]] for at in row.pictures]
        assert shown and None not in shown
        if row.role == "id":
            tested = row.counts["test"]
            assert shown[:tested] == ["test"] * tested and "test" not in shown[tested:]


def test_reserve_pictures_are_the_last_choice(measured: tuple[str, Build]) -> None:
    build = measured[1]
    moved = build.where(class_name="siskin", publish="train")
    lists = np.array(published([build.split]).to_pylist(), dtype=object)
    lists[moved] = "reserve"
    album = Album(build.rows, build.split)
    rows = class_rows(build.rows, build.split, pa.chunked_array([lists.tolist()]), album)
    (siskin,) = (row for row in rows if row.name == "siskin")
    shown = [lists[list(album.places)[at]] for at in siskin.pictures]
    order = ["test", "val", "reserve"]
    assert shown == sorted(shown, key=order.index) and shown[-1] == "reserve"


def test_the_class_table_has_no_outlier_class_whatever_became_of_it(measured: tuple[str, Build]) -> None:
    tiers, build = measured
    left = build.where(class_name="chair")[:1]
    leaky = build.misfiled(role=dict.fromkeys(left, "unused"), publish=dict.fromkeys(left, "reserve"))
    found, _, _ = chosen(leaky)
    assert not {"chair", "stool"} & set(found) and {"cup", "jet", "siskin"} <= set(found)
    assert f"{len(found)} classes, held-out ones first" in words(page(tiers, leaky))


def test_a_class_of_val_ood_is_called_so_and_is_no_test_picture(measured: tuple[str, Build]) -> None:
    tiers, build = measured
    found, _, _ = chosen(build)
    spared = {name for name, row in found.items() if row.role == "val_ood"}
    assert len(spared) == 1 and all(found[name].tier for name in spared)
    made = page(tiers, build)
    rows = re.findall(r'<tr data-role="(\w+)">.*?<th scope="row"><bdi>(.*?)</bdi>', made, re.DOTALL)
    assert {name for role, name in rows if role == "val_ood"} == spared
    held = re.findall(r'<span class="held"><bdi>(.*?)</bdi>', made)
    assert held and not spared & set(held)


def test_the_printed_command_is_one_that_a_shell_reads_back(measured: tuple[str, Build]) -> None:
    given = {"source": "/my photos/$HOME", "holdout": {"held_out": ("it's, one", "two")}, "seeds": (0, 1)}
    (command,) = set(
        re.findall(r'<pre class="command"><code><bdi>(.*?)</bdi>', page(*measured, words=given), re.DOTALL)
    )
    assert shlex.split(html.unescape(command)) == [
        *("datakit", "build", "recipe=fg_ood", "source=/my photos/$HOME"),
        *('holdout.held_out=["it\'s, one", "two"]', "seeds=0,1"),
    ]


@pytest.mark.parametrize(
    ("detectors", "quoted"), [(("energy", "msp"), ("ce", "msp")), (("energy", "knn"), None)]
)
def test_the_headline_is_one_that_was_measured(
    detectors: Sequence[str], quoted: tuple[str, str] | None
) -> None:
    row = {name: 0 for name in MetricRow.__dataclass_fields__} | {"method": "ce"}
    loop = {name: [] for name in ("accuracy", "null_control", "curves", "notes", "scores", "keys")}
    found = gather_validation([loop | {"rows": [row | {"detector": name} for name in detectors]}], [])
    assert found and found.headline == quoted


def test_probes_are_named_as_people_write_them() -> None:
    row = {"seed": 0, "tier": "near", "auroc": 0.9, "n_ood": 5}
    rows = [
        row | {"method": f"probe_{probe}", "detector": d} for probe, d in (("linear", "msp"), ("knn", "knn"))
    ]
    found = gather_validation([], [{"accuracy": [], "rows": rows, "notes": []}])
    assert found and [probe.metric for probe in found.probes] == ["AUROC, MSP", "AUROC, k-NN"]


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ((), "kept: both in"),
        ((0,), "one dropped: {0}"),
        ((1,), "one dropped: {1}"),
        ((0, 1), "both dropped: {0} and {1}"),
    ],
)
def test_a_pair_says_which_of_the_two_were_dropped(
    measured: tuple[str, Build], gone: Sequence[int], said: str
) -> None:
    tiers, build = measured
    rows = build.where(publish="train")[:2]
    alike = build.planted(
        phash=dict.fromkeys(rows, f"{0:016x}"), phash_flip=dict.fromkeys(rows, f"{255:016x}")
    )
    alike = replace(alike, rows=PictureRows(alike.rows.data))
    marked = alike.misfiled(reason={rows[at]: "duplicate" for at in gone})
    keys = [build.rows.data["__key__"][row].as_py() for row in rows]
    assert said.format(*keys) in words(page(tiers, marked))


@pytest.mark.parametrize(
    ("reasons", "said"),
    [(("kin",), "one left out: kin"), (("kin", "not_drawn"), "both left out: kin and not_drawn")],
)
def test_a_pair_in_no_list_is_not_called_kept(
    measured: tuple[str, Build], reasons: Sequence[str], said: str
) -> None:
    tiers, build = measured
    rows = build.where(publish="train")[:2]
    alike = build.planted(
        phash=dict.fromkeys(rows, f"{0:016x}"), phash_flip=dict.fromkeys(rows, f"{255:016x}")
    )
    left = dict(zip(rows, reasons, strict=False))
    out = replace(alike, rows=PictureRows(alike.rows.data)).misfiled(
        reason=left, role=dict.fromkeys(left, "unused"), publish=dict.fromkeys(left, "reserve")
    )
    text = words(page(tiers, out))
    assert said in text and "kept: both in" not in text and "kept in two" not in text
