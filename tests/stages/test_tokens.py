"""Views of an image: where they lie, and that they are the same whoever makes them."""

from __future__ import annotations

import numpy as np
import pytest

from datakit.errors import ConfigError
from datakit.stages.tokens import View, framed, view_count, views_of


def cut(word: str, key: str = "a", seed: int = 0, size: tuple[int, int] = (60, 100)) -> list[View]:
    return views_of(word, *size, fit="crop", seed=seed, key=key)


@pytest.mark.parametrize(("word", "count"), [("full", 1), ("tencrop", 10), ("crops:3", 4)])
def test_a_word_names_as_many_views_of_every_image(word: str, count: int) -> None:
    assert view_count(word) == count == len(cut(word)) == len(cut(word, "b", size=(500, 20)))


@pytest.mark.parametrize(
    "word", ["", "half", "crops", "crops:0", "crops:255", "crops:x", "crops:-1", "crops:²"]
)
def test_a_word_that_names_none_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="choose full, tencrop or crops"):
        view_count(word)


@pytest.mark.parametrize("word", ["full", "tencrop", "crops:50"])
def test_views_lie_inside_the_image(word: str) -> None:
    for top, left, high, wide in (view.box_yxhw for view in cut(word)):
        assert (
            top >= 0
            and left >= 0
            and high > 0
            and wide > 0
            and top + high <= 1 + 1e-9
            and left + wide <= 1 + 1e-9
        )


def test_random_crops_are_of_the_seed_and_the_key() -> None:
    assert cut("crops:4") == cut("crops:4")
    assert cut("crops:4") != cut("crops:4", key="b") and cut("crops:4") != cut("crops:4", seed=1)


def test_a_frame_is_the_centre_square_or_all_of_it() -> None:
    image = np.zeros((60, 100, 3), np.uint8)
    image[:, 20:80] = 200
    (centre,), (whole,) = cut("full"), views_of("full", 60, 100, fit="square", seed=0, key="")
    # A filter looks a pixel or two beyond its box, as it should: the edge is a mixture.
    assert (framed(image, centre, 30)[:, 2:-2] == 200).all()
    assert not (framed(image, whole, 30) == 200).all()


def test_a_flip_mirrors() -> None:
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    box = (0.0, 0.0, 1.0, 1.0)
    plain, turned = (framed(image, View(box_yxhw=box, flip=flip), 40) for flip in (False, True))
    assert (plain == image).all() and (turned == image[:, ::-1]).all()


def test_ten_crops_are_five_and_their_mirror_images() -> None:
    found = cut("tencrop")
    assert [view.box_yxhw for view in found[:5]] == [view.box_yxhw for view in found[5:]]
    assert [view.flip for view in found] == [False] * 5 + [True] * 5
