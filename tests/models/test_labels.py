"""The label names of pre-training: ImageNet's for the models that saw them, claimed for nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from datakit.models.labels import imagenet_classes, pretrained_labels


@pytest.mark.parametrize("model", ["efficientnet-lite0", "conse"])
def test_the_embedded_encoders_have_seen_the_classes_of_imagenet(model: str) -> None:
    names = pretrained_labels(model)
    assert len(names) == len(set(imagenet_classes())) == 1000
    assert names[0] == "tench, Tinca tinca" and names[949] == "strawberry"


def test_classes_are_in_the_order_of_their_wnids_which_is_that_of_the_logits() -> None:
    wnids = [wnid for wnid, _ in imagenet_classes()]
    assert wnids == sorted(set(wnids))


def test_they_are_those_of_timms_tables() -> None:
    timm = pytest.importorskip("timm")
    folder = Path(timm.__file__).parent / "data" / "_info"
    lines = (folder / "imagenet_synset_to_lemma.txt").read_text().splitlines()
    words = dict(line.split("\t", 1) for line in lines if "\t" in line)
    wnids = (folder / "imagenet_synsets.txt").read_text().split()
    assert imagenet_classes() == tuple((wnid, words[wnid]) for wnid in wnids)


@pytest.mark.parametrize("model", ["timm:resnet18", "onnx:mine.onnx", "cnn"])
def test_of_other_models_the_labels_are_not_known(model: str) -> None:
    assert pretrained_labels(model) == ()
