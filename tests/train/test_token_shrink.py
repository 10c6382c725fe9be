"""Pixels in few bytes: what a budget holds, and what comes back of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from datakit.train.token_shrink import as_stored, best_setting, jpeg_ladder, sizes_of, webp_ladder

Pixels = NDArray[np.uint8]


def photographs(count: int, side: int = 64) -> Pixels:
    """Smooth fields with edges."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side
    waves = [np.sin(2 * np.pi * (a * x + b * y) + c) for a, b, c in rng.uniform(0, 3, (count * 3, 3))]
    return np.asarray(
        127 + 120 * np.stack(waves).reshape(count, 3, side, side).transpose(0, 2, 3, 1), np.uint8
    )


def source(images: Pixels) -> Callable[[NDArray[np.int64]], list[Pixels]]:
    return lambda numbers: list(images[numbers])


def test_the_best_setting_that_holds_all_images_is_chosen() -> None:
    images, order = photographs(70), np.arange(70)
    ladder = [shrunk for shrunk in webp_ladder() if shrunk.side <= 64]
    totals = [int(sizes_of(shrunk, source(images), order).sum()) for shrunk in ladder]
    allowed = totals[3] + 1
    shrunk, sizes = best_setting(ladder, source(images), order, allowed)
    assert shrunk == ladder[3] and sizes.sum() == totals[3] <= allowed


def test_where_none_holds_all_the_last_is_given_with_every_size() -> None:
    images, order = photographs(10), np.arange(10)
    shrunk, sizes = best_setting(jpeg_ladder(), source(images), order, 100)
    assert shrunk == jpeg_ladder()[-1] and len(sizes) == 10 and sizes.sum() > 100


def test_less_quality_is_fewer_bytes_and_a_worse_picture() -> None:
    images, order = photographs(6), np.arange(6)
    fine, poor = jpeg_ladder()[0], jpeg_ladder()[-1]
    assert sizes_of(poor, source(images), order).sum() < sizes_of(fine, source(images), order).sum()
    error = {
        shrunk: np.abs(as_stored(source(images), order, shrunk, 64).astype(int) - images).mean()
        for shrunk in (fine, poor)
    }
    assert error[fine] < error[poor]
    assert (as_stored(source(images), order, None, 64) == images).all()
