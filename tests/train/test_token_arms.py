"""Arms at equal bytes: what a budget holds, of images and of their views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("timm")
pytest.importorskip("pcodec")
pytest.importorskip("safetensors")

from datakit.errors import ConfigError
from datakit.tokens.opened import open_tokens
from datakit.tokens.pack import pack
from datakit.train.token_arms import (
    Arm,
    Corpus,
    budget_bytes,
    budgets_of,
    store_in,
    token_bytes,
)

IMAGES, VIEWS, SIDE = 40, 4, 32


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """40 flat images of two classes, 4 views each, whose every token is 4 · image + view; 30 to train on."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 255, (IMAGES, 1, 1, 3), np.uint8)
    images = np.broadcast_to(colours, (IMAGES, SIDE, SIDE, 3))
    tokens = np.arange(IMAGES * VIEWS, dtype=np.uint16)[:, None, None].repeat(8, 1).repeat(8, 2)
    files = pack(tokens, [f"k{at // VIEWS}" for at in range(len(tokens))], codes=len(tokens), codec="bits",
                 views=np.tile(np.arange(VIEWS, dtype=np.uint8), IMAGES), about={"images": IMAGES},
                 codebook_KD=rng.standard_normal((len(tokens), 4)).astype(np.float32))  # fmt: skip
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return Corpus(
        tokens=open_tokens(tmp_path),
        images=lambda numbers: [images[number] for number in numbers],
        rows=np.arange(IMAGES)[::-1].copy(),
        labels=np.arange(IMAGES) % 2,
        train=np.arange(30),
        test=np.arange(30, IMAGES),
        source_bytes=np.full(IMAGES, 150),
        classes=2,
    )


@pytest.mark.parametrize("budget", [0.3, 1.0, 2.5, 4.0, 50.0])
@pytest.mark.parametrize("name", ["subset", "webp_subset", "webp_low", "jpeg_low", "tokens"])
def test_an_arm_stays_within_its_budget(name: str, budget: float, corpus: Corpus) -> None:
    try:
        chosen = store_in(corpus, Arm(name=name, budget=budget), seed=0)
    except ConfigError as problem:
        assert "too few to train on" in str(problem) and budget < 1
        return
    assert chosen.coded_bytes <= budget_bytes(corpus, budget) and set(chosen.numbers) <= set(corpus.train)


@pytest.mark.parametrize(("budget", "views"), [(1.0, 1), (2.0, 2), (4.0, 4), (9.0, 4)])
def test_larger_budgets_hold_more_views_of_every_image(budget: float, views: int, corpus: Corpus) -> None:
    shared = token_bytes(corpus.tokens)[1]
    # What all views share is spent once: 4 times the budget holds it 4 times, which is some views more.
    extra = int((budget - 1) * shared / token_bytes(corpus.tokens)[0])
    chosen = store_in(corpus, Arm(name="tokens", budget=budget), seed=0)
    assert chosen.views is not None
    held = list(zip(chosen.numbers.tolist(), chosen.views.tolist(), strict=True))
    assert len(set(held)) == len(held) == min(30 * views + extra, 30 * VIEWS)
    assert set(held) >= {(number, view) for number in range(30) for view in range(views)}
    ids = corpus.tokens.originals(corpus.ids(chosen.numbers, chosen.views))[:, 0, 0]
    assert ids.tolist() == [VIEWS * (IMAGES - 1 - number) + view for number, view in held]


def test_a_part_of_the_budget_takes_first_views_of_both_classes(corpus: Corpus) -> None:
    chosen = store_in(corpus, Arm(name="tokens", budget=0.8), seed=0)
    assert chosen.views is not None and not chosen.views.any() and 2 <= len(chosen.numbers) < 30
    labels = corpus.labels[chosen.numbers]
    assert abs(int((labels == 0).sum()) - int((labels == 1).sum())) <= 1


@pytest.mark.parametrize(
    ("arm", "views", "kept"),
    [
        ("full", 1, [1.0]),
        ("subset", 1, [0.25, 1.0, 4.0]),
        ("tokens", 1, [0.25, 1.0]),
        ("tokens_mtm", 2, [0.25, 1.0, 4.0]),
        ("tokens", 11, [0.25, 1.0, 4.0]),
    ],
)
def test_a_budget_that_changes_nothing_is_not_trained(arm: str, views: int, kept: list[float]) -> None:
    assert budgets_of(arm, (0.25, 1.0, 4.0), views) == kept


def test_a_budget_below_an_image_a_class_is_refused(corpus: Corpus) -> None:
    with pytest.raises(ConfigError, match="too few to train on"):
        store_in(corpus, Arm(name="tokens", budget=0.01), seed=0)


def test_unknown_arms_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean webp_low"):
        Arm(name="webp_lo")
