"""Backbones: shapes, seeds, and what is said when one cannot be had."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from datakit.errors import ConfigError, EnvironmentProblem, MissingExtra
from datakit.train.backbone import CNN_WIDTHS, build


@pytest.mark.parametrize("side", [16, 48, 65])
def test_the_small_cnn_gives_features_and_logits(side: int) -> None:
    model = build("cnn", 7, seed=0).eval()
    feature_ND, logit_NK = model(torch.rand(2, 3, side, side))
    assert feature_ND.shape == (2, CNN_WIDTHS[-1])
    assert logit_NK.shape == (2, 7)
    assert torch.equal(model.head(feature_ND), logit_NK)


def test_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(9)
    one, other, third = (build("cnn", 3, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not torch.equal(one.head.weight, third.head.weight)


def test_normalisation_is_inside() -> None:
    model = build("cnn", 3, seed=0).eval()
    assert torch.allclose((torch.full((3, 1, 1), 0.5) - model.mean_C11) / model.std_C11, torch.zeros(3, 1, 1))


@pytest.mark.parametrize("name", ["timm:resnet10t", "timm:mobilenetv3_small_050"])
def test_any_timm_backbone_by_name(name: str) -> None:
    model = build(name, 4, seed=0).eval()
    feature_ND, logit_NK = model(torch.rand(2, 3, 32, 32))
    assert feature_ND.ndim == 2 and logit_NK.shape == (2, 4)


def test_an_unknown_timm_name_is_a_wrong_word() -> None:
    with pytest.raises(ConfigError, match="did you mean resnet18"):
        build("timm:resnet81", 4, seed=0)


def test_weights_that_cannot_be_fetched_are_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(EnvironmentProblem, match=r"no route to host.*pretrained=false"):
        build("timm:resnet18", 4, seed=0, pretrained=True)


def test_a_missing_timm_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtra, match=r"datakit\[torch\]"):
        build("timm:resnet18", 4, seed=0)
