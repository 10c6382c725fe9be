"""Views and resizing: sizes, ranges, seeds, and no difference between ID and outliers."""

from __future__ import annotations

import numpy as np
import torch

from datakit.rng import rng_for
from datakit.train.augment import batch, jitter, pad, resize, to_tensor, views


def images(n: int = 4, side: int = 24) -> np.ndarray:
    return rng_for(0, "augment test").integers(0, 256, size=(n, side, side, 3)).astype(np.uint8)


def test_a_view_is_a_shift_of_its_image() -> None:
    source = pad(images())
    (view,) = views(source, np.array([2]), rng_for(1), hflip=False)
    side, margin = view.shape[0], source.margin
    whole = source.images_NHWC[2]
    shifts = [whole[y : y + side, x : x + side] for y in range(2 * margin + 1) for x in range(2 * margin + 1)]
    assert any(np.array_equal(view, shift) for shift in shifts)


def test_mirroring_happens_only_when_asked_for() -> None:
    left = np.zeros((1, 24, 24, 3), dtype=np.uint8)
    left[:, :, :8] = 255
    source, rows = pad(left), np.zeros(64, dtype=np.intp)
    straight = views(source, rows, rng_for(0), hflip=False)
    mirrored = views(source, rows, rng_for(0), hflip=True)
    assert straight[:, :, 20:].max() == 0
    share = float(np.mean(mirrored[:, 12, 22, 0] == 255))
    assert 0.3 < share < 0.7


def test_jitter_keeps_the_range_and_greys_stay_grey() -> None:
    grey_NCHW = torch.rand(8, 1, 6, 6).expand(-1, 3, -1, -1)
    out_NCHW = jitter(grey_NCHW, rng_for(0))
    assert out_NCHW.min() >= 0 and out_NCHW.max() <= 1
    assert torch.allclose(out_NCHW[:, 0], out_NCHW[:, 2], atol=1e-6)


def test_batches_repeat_with_their_generator() -> None:
    source, rows, cpu = pad(images()), np.array([0, 3]), torch.device("cpu")
    one = batch(source, rows, rng_for(5), hflip=True, device=cpu)
    assert torch.equal(one, batch(source, rows, rng_for(5), hflip=True, device=cpu))
    assert not torch.equal(one, batch(source, rows, rng_for(6), hflip=True, device=cpu))


def test_resizing_keeps_flat_colours_and_skips_what_fits() -> None:
    flat = np.full((600, 30, 20, 3), 77, dtype=np.uint8)  # more than one chunk, not square
    small = resize(flat, 16)
    assert small.shape == (600, 16, 16, 3) and (small == 77).all()
    same = images(side=16)
    assert resize(same, 16) is same


def test_tensors_are_rgb_in_0_1() -> None:
    image_NCHW = to_tensor(images(), torch.device("cpu"))
    assert image_NCHW.shape == (4, 3, 24, 24)
    assert image_NCHW.max() <= 1
    assert torch.equal(
        (image_NCHW[1, 2] * 255).round().to(torch.uint8), torch.from_numpy(images()[1, :, :, 2])
    )
