"""The losses are the papers' formulas, and the mixing by torchvision is MixOE's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from datakit.errors import ConfigError
from datakit.rng import rng_for
from datakit.train.backbone import Classifier, build
from datakit.train.outlier_exposure import RECIPES, Recipe, loss_for, mix

N_CLASSES, BATCH, SIDE = 5, 6, 16


class Counting(nn.Module):
    """A trunk that tells how often it was called, and with how many images."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, image_NCHW: Tensor) -> Tensor:
        self.batches.append(len(image_NCHW))
        return image_NCHW.mean(dim=(2, 3))


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, labels, one-hot labels, outliers."""
    torch_rng = torch.Generator().manual_seed(0)
    image_NCHW = torch.rand(BATCH, 3, SIDE, SIDE, generator=torch_rng)
    outlier_NCHW = torch.rand(BATCH, 3, SIDE, SIDE, generator=torch_rng)
    label_N = torch.randint(0, N_CLASSES, (BATCH,), generator=torch_rng)
    return image_NCHW, label_N, torch.eye(N_CLASSES)[label_N], outlier_NCHW


def share_of(target_NK: Tensor, label_N: Tensor) -> Tensor:
    """l out of l onehot(y) + (1 - l) U: the label's entry is l + (1 - l) / K."""
    at_label_N = target_NK.gather(1, label_N[:, None])[:, 0]
    return (at_label_N - 1 / N_CLASSES) / (1 - 1 / N_CLASSES)


@pytest.mark.parametrize("draw", range(20))
def test_mixup_is_mixoes_formula(draw: int) -> None:
    image_NCHW, label_N, onehot_NK, outlier_NCHW = batch()
    mixed_NCHW, target_NK = mix(image_NCHW, onehot_NK, outlier_NCHW, recipe=RECIPES["mixoe_mixup"], draw=draw)
    share_N = share_of(target_NK, label_N)
    share = float(share_N[0])
    assert 0 <= share <= 1
    assert torch.allclose(share_N, share_N[:1].expand(BATCH), atol=1e-6), "one share a batch"
    partner_NCHW = outlier_NCHW.roll(1, 0)
    assert torch.allclose(mixed_NCHW, share * image_NCHW + (1 - share) * partner_NCHW, atol=1e-5)
    assert torch.allclose(target_NK, share * onehot_NK + (1 - share) / N_CLASSES, atol=1e-6)


@pytest.mark.parametrize("draw", range(20))
def test_cutmix_pastes_one_box_of_outlier_and_resets_the_share_to_the_pixels(draw: int) -> None:
    _, label_N, onehot_NK, _ = batch()
    ones_NCHW, zeros_NCHW = torch.ones(BATCH, 3, SIDE, SIDE), torch.zeros(BATCH, 3, SIDE, SIDE)
    mixed_NCHW, target_NK = mix(ones_NCHW, onehot_NK, zeros_NCHW, recipe=RECIPES["mixoe_cutmix"], draw=draw)
    kept_N = mixed_NCHW.mean(dim=(1, 2, 3))  # ones are ID pixels
    assert torch.allclose(share_of(target_NK, label_N), kept_N, atol=1e-6)
    outlier_HW = mixed_NCHW[0, 0] == 0
    rows, columns = outlier_HW.any(dim=1).sum(), outlier_HW.any(dim=0).sum()
    assert outlier_HW.sum() == rows * columns, "a box"
    assert torch.allclose(target_NK.sum(dim=1), torch.ones(BATCH))


def test_cutmix_takes_every_pixel_from_one_of_the_two() -> None:
    image_NCHW, _, onehot_NK, outlier_NCHW = batch()
    mixed_NCHW, _ = mix(image_NCHW, onehot_NK, outlier_NCHW, recipe=RECIPES["mixoe_cutmix"], draw=1)
    either = (mixed_NCHW == image_NCHW) | (mixed_NCHW == outlier_NCHW.roll(1, 0))
    assert bool(either.all())


def test_shares_follow_the_beta_distribution() -> None:
    image_NCHW, label_N, onehot_NK, outlier_NCHW = (part[:1] for part in batch())
    for alpha in (1.0, 2.0):
        recipe = Recipe("mixup", alpha=alpha)
        shares = [
            float(share_of(mix(image_NCHW, onehot_NK, outlier_NCHW, recipe=recipe, draw=n)[1], label_N)[0])
            for n in range(400)
        ]
        variance = 1 / (4 * (2 * alpha + 1))
        assert abs(sum(shares) / 400 - 0.5) < 4 * math.sqrt(variance / 400)
        assert abs(torch.tensor(shares).var().item() - variance) < 0.25 * variance


def test_mixing_leaves_the_callers_generator_alone() -> None:
    image_NCHW, _, onehot_NK, outlier_NCHW = batch()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    mix(image_NCHW, onehot_NK, outlier_NCHW, recipe=RECIPES["mixoe_mixup"], draw=0)
    assert torch.equal(torch.rand(3), expected)


def test_mixing_wants_as_many_outliers_as_images() -> None:
    image_NCHW, _, onehot_NK, outlier_NCHW = batch()
    with pytest.raises(ValueError, match="differ in shape"):
        mix(image_NCHW, onehot_NK, outlier_NCHW[:3], recipe=RECIPES["mixoe_mixup"], draw=0)


def test_outlier_exposure_is_ce_plus_ce_to_uniform_in_one_forward() -> None:
    image_NCHW, label_N, _, outlier_NCHW = batch()
    trunk = Counting()
    model = Classifier(trunk, 3, N_CLASSES)
    value = loss_for("oe", N_CLASSES, seed=0)(model, image_NCHW, label_N, outlier_NCHW)
    assert trunk.batches == [2 * BATCH]
    log_NK = model(image_NCHW)[1].log_softmax(dim=1)
    log_o_NK = model(outlier_NCHW)[1].log_softmax(dim=1)
    by_hand = -log_NK.gather(1, label_N[:, None]).mean() - RECIPES["oe"].beta * log_o_NK.mean()
    assert torch.allclose(value, by_hand, atol=1e-6)


@pytest.mark.parametrize("method", ["mixoe_mixup", "mixoe_cutmix"])
def test_mixoe_is_ce_plus_weighted_soft_ce_in_one_forward(method: str) -> None:
    image_NCHW, label_N, onehot_NK, outlier_NCHW = batch()
    trunk = Counting()
    model = Classifier(trunk, 3, N_CLASSES)
    value = loss_for(method, N_CLASSES, seed=0)(model, image_NCHW, label_N, outlier_NCHW)
    assert trunk.batches == [2 * BATCH]
    draw = int(rng_for(0, "mixing share", method).integers(2**62))
    mixed_NCHW, target_NK = mix(image_NCHW, onehot_NK, outlier_NCHW, recipe=RECIPES[method], draw=draw)
    log_NK = model(image_NCHW)[1].log_softmax(dim=1)
    soft_NK = model(mixed_NCHW)[1].log_softmax(dim=1)
    by_hand = -log_NK.gather(1, label_N[:, None]).mean() - 5 * (target_NK * soft_NK).sum(dim=1).mean()
    assert torch.allclose(value, by_hand, atol=1e-5)


@pytest.mark.parametrize("method", ["mixoe_mixup", "mixoe_cutmix"])
def test_shares_come_from_the_seed(method: str) -> None:
    image_NCHW, label_N, _, outlier_NCHW = batch()
    model = build("cnn", N_CLASSES, seed=0).eval()
    losses = [loss_for(method, N_CLASSES, seed=seed) for seed in (0, 0, 1)]
    first, again, other = (loss(model, image_NCHW, label_N, outlier_NCHW) for loss in losses)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_stream_of_shares_goes_on_from_batch_to_batch() -> None:
    image_NCHW, label_N, _, outlier_NCHW = batch()
    model = build("cnn", N_CLASSES, seed=0).eval()
    loss = loss_for("mixoe_mixup", N_CLASSES, seed=0)
    first, second = (loss(model, image_NCHW, label_N, outlier_NCHW) for _ in range(2))
    assert not torch.equal(first, second)


def test_the_control_ignores_outliers_and_others_want_them() -> None:
    image_NCHW, label_N, _, outlier_NCHW = batch()
    model = build("cnn", N_CLASSES, seed=0).eval()
    control = loss_for("ce_control", N_CLASSES, seed=0)
    with_them = control(model, image_NCHW, label_N, outlier_NCHW)
    assert torch.equal(with_them, control(model, image_NCHW, label_N, None))
    with pytest.raises(ValueError, match="oe needs outliers"):
        loss_for("oe", N_CLASSES, seed=0)(model, image_NCHW, label_N, None)
    with pytest.raises(ConfigError, match="unknown method"):
        loss_for("moxie", N_CLASSES, seed=0)
