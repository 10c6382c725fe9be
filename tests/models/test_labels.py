"""The label names of pre-training: known for the embedded encoder where timm has them, claimed for nothing else."""

from __future__ import annotations

import importlib.util

import pytest

from datakit.models import labels
from datakit.models.labels import pretrained_labels


def test_the_embedded_encoder_has_seen_the_classes_of_imagenet() -> None:
    pytest.importorskip("timm")
    names = pretrained_labels("efficientnet-lite0")
    assert len(names) == 1000 and names[0] == "tench, Tinca tinca"


@pytest.mark.parametrize("model", ["timm:resnet18", "onnx:mine.onnx", "cnn"])
def test_of_other_models_the_labels_are_not_known(model: str) -> None:
    assert pretrained_labels(model) == ()


def test_without_timm_they_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(labels, "find_spec", lambda name: None if name == "timm" else found(name))
    assert pretrained_labels.__wrapped__("efficientnet-lite0") == ()
