"""The dual encoder on two made-up encoders of one hidden world: it learns captions, and nothing where they lie."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from datakit.errors import ConfigError
from datakit.rng import rng_for
from datakit.train.dual_encoder import (
    DIRECTIONS,
    Captioned,
    DualOptions,
    DualResult,
    deal_anew,
    hold_out,
    train_dual_encoder,
)
from datakit.train.pair_metrics import recall_of_ranks

GROUPS, IMAGES, CAPTIONS = 150, 2, 2  # things, images of each, captions of each image
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class World:
    """Things are points; images and captions are noisy linear views of them, of different lengths."""

    images: Array
    texts: Array
    image_of: Array
    groups: Array

    @property
    def captioned(self) -> Captioned:
        return Captioned(
            images_ND=self.images, texts_MT=self.texts, image_of_M=self.image_of, group_N=self.groups
        )

    @property
    def held(self) -> Array:
        """Images that a training with seed 0 does not see."""
        return np.isin(self.groups, hold_out(self.groups, 0.2, seed=0))

    def train(self, *, seed: int = 0, **changed: Any) -> DualResult:
        given = {"dims": (16,), "hidden": 64, "dropout": 0.0, "epochs": 12, "batch_size": 64, "lr": 3e-3}
        options = DualOptions(**({**given, "device": "cpu"} | changed))
        return train_dual_encoder(
            self.images, self.texts, self.image_of, groups_N=self.groups, seed=seed, options=options
        )


@pytest.fixture(scope="module")
def world() -> World:
    rng = rng_for(0, "world")
    thing = rng.standard_normal((GROUPS, 8))
    groups = np.repeat(np.arange(GROUPS), IMAGES)
    image_of = np.repeat(np.arange(len(groups)), CAPTIONS)
    seen = thing[groups] @ rng.standard_normal((8, 24)) + rng.normal(0, 0.5, (len(groups), 24))
    said = thing[groups[image_of]] @ rng.standard_normal((8, 20)) + rng.normal(0, 0.5, (len(image_of), 20))
    return World(seen.astype(np.float32), said.astype(np.float32), image_of, groups)


@pytest.fixture(scope="module")
def trained(world: World) -> DualResult:
    return world.train()


@pytest.mark.parametrize(
    "how",
    [{}, *({"loss": "ranking", "negatives": name} for name in ("batch_all", "hardest", "semi_hard"))],
    ids=["infonce", "batch_all", "hardest", "semi_hard"],
)
def test_every_loss_finds_captions_of_things_never_seen(world: World, how: dict[str, Any]) -> None:
    result = world.train(**how)
    for direction in DIRECTIONS:
        assert result.history[-1][f"{direction}_r1"] > 0.5 > 10 * result.chance[direction]["r1"]
        assert result.history[-1][f"{direction}_median_rank"] <= 2
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert ("scale" in result.history[0]) == (not how)


def test_trained_on_captions_dealt_out_anew_it_knows_nothing(world: World, trained: DualResult) -> None:
    control = world.train(shuffled=True)
    for direction in DIRECTIONS:
        chance = control.chance[direction]["r10"]
        assert (
            abs(control.history[-1][f"{direction}_r10"] - chance)
            < 0.2
            < trained.history[-1][f"{direction}_r10"] - 0.4
        )
    assert control.settings["held_out"] == trained.settings["held_out"], (
        "the held-out captions are the true ones"
    )


def test_the_history_and_the_ranks_agree(trained: DualResult) -> None:
    assert [row["epoch"] for row in trained.history] == list(range(1, 13))
    for direction in DIRECTIONS:
        ranks = np.array(trained.ranks[direction])
        for k in (1, 5, 10):
            last = trained.history[-1][f"{direction}_r{k}"]
            assert last == recall_of_ranks(ranks, k) == trained.by_dim[-1][f"{direction}_r{k}"]
    assert json.loads(json.dumps(trained.as_json())) == trained.as_json()


def test_the_towers_without_torch_find_what_the_ranks_say(world: World, trained: DualResult) -> None:
    held = world.held
    part = world.captioned.part(held)
    images, texts = trained.image.transform(part.images_ND), trained.text.transform(part.texts_MT)
    best = (images @ texts.T).argmax(axis=1)
    right = part.group_of_M[best] == part.group_N
    assert right.mean() == pytest.approx(np.mean(np.array(trained.ranks["image_to_text"]) == 1))


def test_equal_arguments_give_equal_bits(world: World) -> None:
    runs = [world.train(seed=seed, epochs=2, dropout=0.2) for seed in (0, 0, 1)]
    assert runs[0].as_json() == runs[1].as_json() != runs[2].as_json()
    assert runs[0].image.to_table().equals(runs[1].image.to_table())


def test_nested_sizes_make_better_prefixes(world: World) -> None:
    nested, whole = (world.train(dims=dims, hidden=0) for dims in ((3, 6, 32), (32,)))
    assert [row["dim"] for row in nested.by_dim] == [3, 6, 32]
    held = world.held
    part = world.captioned.part(held)

    def found(result: DualResult, dim: int) -> float:
        cosine = result.image.transform(part.images_ND, dim) @ result.text.transform(part.texts_MT, dim).T
        return float((part.group_of_M[cosine.argmax(axis=1)] == part.group_N).mean())

    assert found(nested, 6) > found(whole, 6) + 0.1


def test_no_group_is_on_both_sides(world: World) -> None:
    held = world.held
    assert not set(world.groups[held]) & set(world.groups[~held])
    assert len(set(world.groups[held])) == GROUPS // 5


def test_images_without_captions_ask_nothing_and_are_never_held_out(world: World) -> None:
    said = world.groups[world.image_of] < 8  # of 150 things eight have captions
    few = replace(world, texts=world.texts[said], image_of=world.image_of[said])
    result = few.train(epochs=1)
    assert result.settings["train"]["captions"] + result.settings["held_out"]["captions"] == said.sum()
    assert len(result.ranks["image_to_text"]) == result.settings["held_out"]["images"] == 2 * IMAGES
    held = np.isin(world.groups, [0, 140, 141])  # what someone else holds out may have none
    chosen = train_dual_encoder(
        few.images, few.texts, few.image_of, groups_N=few.groups, held_N=held, seed=0,
        options=DualOptions(epochs=1, device="cpu"),
    )  # fmt: skip
    assert len(chosen.ranks["image_to_text"]) == IMAGES
    assert chosen.chance["text_to_image"]["r1"] == pytest.approx(1 / 3), "they can be found, wrongly"


def test_the_deal_gives_every_group_captions_of_another(world: World) -> None:
    said_by = np.repeat(world.groups[world.image_of][:, None], 2, axis=1).astype(np.float32)
    whole = replace(world.captioned, texts_MT=said_by)
    few = replace(whole, texts_MT=whole.texts_MT[:-1], image_of_M=whole.image_of_M[:-1])
    for data in (whole, few):  # of few one group has a caption less
        dealt = deal_anew(data, seed=0)
        giver = {(int(g), int(t)) for g, t in zip(data.group_of_M, dealt.texts_MT[:, 0], strict=True)}
        assert all(group != of for group, of in giver)
        assert len(giver) == len({of for _, of in giver}) == GROUPS, "each from one, and each to one"


def test_data_that_do_not_fit_are_refused(world: World) -> None:
    quick = DualOptions(epochs=1, device="cpu")
    with pytest.raises(ValueError, match="name images that are not"):
        train_dual_encoder(world.images, world.texts, world.image_of + 1, seed=0, options=quick)
    with pytest.raises(ValueError, match="do not fit together"):
        train_dual_encoder(world.images, world.texts[1:], world.image_of, seed=0, options=quick)
    odd = np.arange(len(world.images)) % 2 == 0
    with pytest.raises(ValueError, match="cuts 150 groups"):
        train_dual_encoder(
            world.images,
            world.texts,
            world.image_of,
            groups_N=world.groups,
            held_N=odd,
            seed=0,
            options=quick,
        )
    with pytest.raises(ValueError, match="too few to hold 2 out"):
        hold_out(np.array([0, 0, 1, 2]), 0.2, seed=0)


def test_nothing_held_out_is_trained_on_in_full(world: World) -> None:
    result = world.train(held_out=0, epochs=1)
    assert (
        result.ranks == {} and result.by_dim == [] and list(result.history[0]) == ["epoch", "loss", "scale"]
    )
    assert result.settings["train"] == {"images": GROUPS * IMAGES, "captions": GROUPS * IMAGES * CAPTIONS}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"loss": "infonc"}, "unknown loss infonc; did you mean infonce"),
        ({"negatives": "all"}, "unknown negatives all"),
        ({"margin": -1.0}, "margin=-1.0 must be 0 to 2"),
        ({"held_out": 0.95}, "held_out=0.95 must be 0 to 0.9"),
        ({"dims": (0, 4)}, "must ascend"),
        ({"device": "abacus"}, "device=abacus cannot be used here"),
    ],
)
def test_options_are_checked(world: World, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        world.train(epochs=1, **changed)
