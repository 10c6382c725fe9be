"""The embed stage: one vector a sample, whoever else is in the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datakit.errors import ConfigError, SampleError
from datakit.image import Image
from datakit.models import efficientnet
from datakit.models.encoder import weights_of
from datakit.rng import rng_for
from datakit.stage import Ref, Sample
from datakit.stages.embed import embed, embed_mirrored

for package in (efficientnet.PACKAGE, "onnx", "onnxruntime"):
    pytest.importorskip(package)


def samples(count: int) -> list[Sample]:
    pictures = (
        rng_for(i, "picture").integers(0, 256, (30 + i, 40, 3)).astype(np.uint8) for i in range(count)
    )
    return [{"__key__": f"k{i}", "image": Image.from_array(picture)} for i, picture in enumerate(pictures)]


def test_a_batch_and_single_samples_agree_bit_for_bit() -> None:
    given = samples(33)
    together = embed()(given)
    alone = [embed()([sample])[0] for sample in samples(33)[30:]]
    assert [sample["__key__"] for sample in together] == [sample["__key__"] for sample in given]
    for batched, single in zip(together[30:], alone, strict=True):
        assert batched["features"].dtype == np.float16 and batched["features"].shape == (1280,)
        assert batched["features"].tobytes() == single["features"].tobytes()
    assert all("features" not in sample for sample in given)
    assert np.isfinite([sample["features"] for sample in together]).all()
    assert len({sample["features"].tobytes() for sample in together}) == 33


def test_a_mirror_image_has_the_features_of_an_image_that_is_mirrored() -> None:
    given = samples(3)
    turned = embed_mirrored(of=Ref.of(pa.table({"__key__": ["k2", "gone", "k0"]})))(given)
    pixels = [np.ascontiguousarray(sample["image"].array[:, ::-1]) for sample in given]
    wanted = embed()([{"image": Image.from_array(mirror)} for mirror in pixels])
    assert turned[1]["mirrored"] is None
    for at in (0, 2):
        assert turned[at]["mirrored"].tobytes() == wanted[at]["features"].tobytes()
        assert turned[at]["mirrored"].tobytes() != embed()(given)[at]["features"].tobytes()


def test_an_image_that_does_not_decode_is_a_problem_of_its_sample() -> None:
    with pytest.raises(SampleError) as caught:
        embed()([*samples(1), {"__key__": "bad", "image": Image(b"<html>")}])
    assert caught.value.reason == "not_an_image"


def test_an_unknown_encoder_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean efficientnet-lite0"):
        embed(encoder="efficientnet_lite0")(samples(1))


def test_other_weights_than_those_planned_with_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.onnx"
    path.write_bytes(b"one")
    first = weights_of(f"onnx:{path}")
    path.write_bytes(b"two")
    assert weights_of(f"onnx:{path}") != first
    assert weights_of("efficientnet-lite0") == ""
    with pytest.raises(ConfigError, match="weights of efficientnet-lite0 changed"):
        embed(weights=first)(samples(1))
    with pytest.raises(ConfigError, match="cannot read"):
        weights_of(f"onnx:{tmp_path / 'gone.onnx'}")
