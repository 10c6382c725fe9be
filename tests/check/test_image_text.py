"""Images and captions that belong together pass; shuffled captions, collapsed spaces, controls as good as they fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.check.caption_control import caption_control, check_caption_control
from datakit.check.image_text import check_image_text, image_text
from datakit.rng import rng_for
from datakit.stage import Ref
from datakit.stages.columns import TableRows
from datakit.train.dual_encoder import Captioned

THINGS, DIM = 120, 16


@pytest.fixture(scope="module")
def world() -> Captioned:
    """Two images a thing, two captions an image, in one space, a little apart."""
    rng = rng_for(0, "image text")
    thing = rng.standard_normal((THINGS, DIM))
    group, image_of = np.repeat(np.arange(THINGS), 2), np.repeat(np.arange(2 * THINGS), 2)
    images = thing[group] + rng.normal(0, 0.6, (len(group), DIM)) + 2
    texts = thing[group[image_of]] + rng.normal(0, 0.6, (len(image_of), DIM)) - 3
    return Captioned(
        images_ND=images.astype(np.float32),
        texts_MT=texts.astype(np.float32),
        image_of_M=image_of,
        group_N=group,
    )


def shuffled(world: Captioned, seed: int = 0) -> Captioned:
    return replace(world, texts_MT=world.texts_MT[rng_for(seed, "broken").permutation(len(world.texts_MT))])


def test_images_and_their_captions_find_each_other(world: Captioned) -> None:
    found = image_text(world)
    assert [one["detail"]["direction"] for one in found] == ["image_to_text", "text_to_image"]
    for one in found:
        assert one["passed"] and one["severity"] == "fail" and one["value"] > 0.9 > 2 * one["limit"]
        detail = one["detail"]
        assert detail[f"{detail['direction']}_r1"] > 0.5
        # captions of one thing lie together: dealt out anew they are found a little less often than strewn about
        for name, share in detail["chance"].items():
            assert share - 0.05 < detail["shuffled"][name] < share + 0.02


def test_shuffled_captions_fail_in_both_directions(world: Captioned) -> None:
    for seed in range(5):
        assert not any(one["passed"] for one in image_text(shuffled(world, seed), seed=seed))


def test_images_of_other_keys_fail(world: Captioned) -> None:
    rolled = replace(world, images_ND=np.roll(world.images_ND, 2, axis=0))
    assert not any(one["passed"] for one in image_text(rolled))


@pytest.mark.parametrize("side", ["images_ND", "texts_MT"])
def test_an_encoder_that_says_the_same_of_all_fails(world: Captioned, side: str) -> None:
    collapsed = replace(world, **{side: np.ones_like(getattr(world, side))})
    for one in image_text(collapsed) + image_text(collapsed, centered=False):
        assert not one["passed"] and one["value"] <= one["limit"]


def test_a_figure_that_is_asked_for_must_be_reached(world: Captioned) -> None:
    assert not any(one["passed"] for one in image_text(world, at_least=1.0))


def test_a_caption_that_two_images_of_a_thing_share_counts_once(world: Captioned) -> None:
    """Names of things, on each of their drawings: else every wrong name would stand before the right one twice."""
    names = world.texts_MT[::4]
    twice = replace(world, texts_MT=names[world.group_N], image_of_M=np.arange(len(world.group_N)))
    once = replace(world, texts_MT=names, image_of_M=np.arange(0, len(world.group_N), 2))
    for ours, theirs in zip(image_text(twice), image_text(once), strict=True):
        assert ours["value"] == theirs["value"] and ours["detail"]["chance"] == theirs["detail"]["chance"]


def test_two_spaces_are_refused(world: Captioned) -> None:
    with pytest.raises(ValueError, match="share no space"):
        image_text(replace(world, texts_MT=world.texts_MT[:, 1:]))


def rows_of(world: Captioned) -> TableRows:
    """Rows with a list of caption vectors each."""
    texts = world.texts_MT.reshape(len(world.group_N), 2, DIM)
    return TableRows(
        pa.table({
            "joint": pa.FixedSizeListArray.from_arrays(pa.array(world.images_ND.reshape(-1)), DIM),
            "said": pa.array([list(map(list, pair)) for pair in texts], pa.list_(pa.list_(pa.float32()))),
            "thing": [f"t{group}" for group in world.group_N],
        })
    )  # fmt: skip


def test_the_check_reads_columns(world: Captioned) -> None:
    check = check_image_text(image="joint", text="said", group="thing")
    assert all(one["passed"] for one in check(rows_of(world)))
    assert not any(one["passed"] for one in check(rows_of(shuffled(world))))


def result(hits: int, *, groups: int = 100, each: int = 2, held: bool = True) -> dict[str, Any]:
    """A dual encoder's: of `groups` held-out things of `each` queries, the first `hits` are found first."""
    ranks = np.where(np.arange(groups) < hits, 1, groups).repeat(each).tolist() if held else []
    names = ("image_to_text", "text_to_image")
    return {
        "ranks": dict.fromkeys(names, ranks),
        "groups": dict.fromkeys(names, np.arange(groups).repeat(each).tolist()),
        "chance": {name: {"r1": 0.01, "r5": 0.05, "r10": 0.1} for name in names},
    }


def verdicts(trained: dict[str, Any], control: dict[str, Any], id: str) -> list[bool]:
    return [one["passed"] for one in caption_control(trained, control) if one["id"] == id]


def test_a_model_that_learned_captions_passes_beside_its_control() -> None:
    assert verdicts(result(60), result(9), "caption_control") == [True, True]
    assert verdicts(result(60), result(9), "control_at_chance") == [True, True]


def test_a_model_that_does_as_well_on_shuffled_captions_fails() -> None:
    for control in (60, 58, 80):
        assert verdicts(result(60), result(control), "caption_control") == [False, False]
        assert verdicts(result(60), result(control), "control_at_chance") == [False, False]


def test_a_model_no_better_than_chance_fails_though_its_control_is_worse() -> None:
    assert verdicts(result(12), result(0), "caption_control") == [False, False]


def test_many_queries_of_few_things_are_no_more_than_those_things() -> None:
    """30 of 100 things found is more than chance; 3 of 10 is not, though each were asked for 1,000 times."""
    assert verdicts(result(30), result(10), "caption_control") == [True, True]
    few = {"groups": 10, "each": 1000}
    assert verdicts(result(3, **few), result(1, **few), "caption_control") == [False, False]


def test_a_control_that_did_not_run_controls_nothing() -> None:
    for pair in ((result(60), result(0, held=False)), (result(0, held=False), result(0, held=False))):
        found = caption_control(*pair)
        assert [one["id"] for one in found] == ["caption_control"] * 2 and not any(
            one["passed"] for one in found
        )


def test_the_check_reads_results() -> None:
    nothing = TableRows(pa.table({"__key__": pa.array([], pa.string())}))
    found = check_caption_control(trained=Ref.of(result(60)), control=Ref.of(result(9)))(nothing)
    assert len(found) == 4 and all(one["passed"] for one in found)
    assert {one["severity"] for one in found} == {"fail", "warn"}
