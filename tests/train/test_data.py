"""Broken inputs of the loop are refused, each with the reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from datakit.errors import ConfigError
from datakit.train.data import LoopData, Split, default_k
from datakit.train.options import LoopOptions


def test_a_split_wants_uint8_rgb_of_one_length(small_data: LoopData) -> None:
    good = small_data.val
    with pytest.raises(ValueError, match="uint8"):
        replace(good, images_NHWC=good.images_NHWC.astype(np.float32))
    with pytest.raises(ValueError, match=r"\(N, H, W, 3\)"):
        replace(good, images_NHWC=good.images_NHWC[..., 0])
    with pytest.raises(ValueError, match="differ in number"):
        replace(good, labels=good.labels[1:])
    with pytest.raises(ValueError, match="integers"):
        replace(good, labels=good.labels.astype(np.float64))
    with pytest.raises(ValueError, match="at least one"):
        Split(images_NHWC=good.images_NHWC[:0], labels=good.labels[:0], classes=[], keys=[])


def test_a_class_without_training_images_is_refused(small_data: LoopData) -> None:
    train = small_data.train
    with pytest.raises(ValueError, match="dead logit"):
        replace(small_data, train=replace(train, labels=np.where(train.labels == 3, 4, train.labels)))


def test_a_one_based_label_table_is_refused(small_data: LoopData) -> None:
    with pytest.raises(ValueError, match="without a gap"):
        replace(small_data, train=replace(small_data.train, labels=small_data.train.labels + 1))


def test_labels_must_fit_the_role(small_data: LoopData) -> None:
    near = small_data.ood["near"]
    with pytest.raises(ValueError, match="ood/near has label 0"):
        replace(small_data, ood={"near": replace(near, labels=np.zeros(len(near), dtype=np.int64))})
    with pytest.raises(ValueError, match="test has label -1"):
        replace(small_data, test=replace(small_data.test, labels=np.full(len(small_data.test), -1)))


def test_a_class_on_two_sides_is_the_checks_to_refuse(small_data: LoopData) -> None:
    near = small_data.ood["near"]
    leaky = replace(
        near, keys=[f"other/{key}" for key in near.keys], classes=small_data.train.classes[: len(near)]
    )
    assert "outliers" in replace(small_data, outliers=leaky).splits()


def test_image_sizes_must_agree(small_data: LoopData) -> None:
    with pytest.raises(ValueError, match="test images are"):
        replace(
            small_data, test=replace(small_data.test, images_NHWC=small_data.test.images_NHWC[:, :16, :16])
        )


def test_tiers_need_a_name_of_their_own(small_data: LoopData) -> None:
    with pytest.raises(ValueError, match="no OOD tier"):
        replace(small_data, ood={})
    with pytest.raises(ValueError, match="may not be called test"):
        replace(small_data, ood={"test": small_data.ood["near"]})
    with pytest.raises(ValueError, match="slash"):
        replace(small_data, ood={"a/b": small_data.ood["near"]})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"methods": ("mixoe_mixap",)}, "did you mean mixoe_mixup"),
        ({"detectors": ("enrgy",)}, "did you mean energy"),
        ({"methods": ()}, "no methods given"),
        ({"detectors": ("msp", "msp")}, "listed twice"),
        ({"epochs": 0}, "epochs=0"),
        ({"batch_size": 1}, "batch norm"),
        ({"size": 8}, "16 px"),
        ({"backbone": "resnet18"}, "timm:resnet18"),
        ({"pretrained": True}, "no published weights"),
    ],
)
def test_options_say_which_word_is_wrong(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoopOptions(**words)


def test_few_images_a_class_ask_for_few_neighbors() -> None:
    assert default_k(np.repeat(np.arange(10), 16)) == 4
    assert default_k(np.arange(10)) == 1
    assert default_k(np.repeat(np.arange(2), 5000)) == 50
