"""The embed stages: one vector a sample, whoever else is in the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datakit.errors import ConfigError, SampleError
from datakit.image import Image
from datakit.models import efficientnet, minilm, text
from datakit.models.encoder import weights_of
from datakit.rng import rng_for
from datakit.stage import Ref, Sample
from datakit.stages.embed import embed, embed_mirrored, embed_text
from datakit.store.columns import columns_of, one_table
from datakit.store.rows import Roots

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


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_another_column_and_type_hold_the_same_vectors(dtype: str) -> None:
    given = samples(3)
    stored = embed(column="joint", dtype=dtype)(given)
    plain = np.stack([sample["features"] for sample in embed()(samples(3))])
    found = np.stack([sample["joint"] for sample in stored])
    assert found.dtype == dtype and "features" not in stored[0]
    assert found.astype(np.float16).tobytes() == plain.tobytes()
    kind = columns_of(
        [{"__key__": sample["__key__"], "joint": sample["joint"]} for sample in stored], Roots({})
    )
    assert kind.schema.field("joint").type == pa.list_(pa.from_numpy_dtype(np.dtype(dtype)), 1280)


def big(path: Path, factor: float) -> str:
    """The name of an encoder whose numbers are pixels times `factor`."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    by = helper.make_tensor("by", onnx.TensorProto.FLOAT, [], [factor])
    nodes = [
        helper.make_node("Cast", ["x"], ["real"], to=onnx.TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["real"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Mul", ["mean", "by"], ["y"]),
    ]
    given = helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, ["N", 8, 8, 3])
    taken = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph(nodes, "big", [given], [taken], [by])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return f"onnx:{path}"


def test_a_number_that_the_type_does_not_hold_is_a_problem_of_its_sample(tmp_path: Path) -> None:
    name = big(tmp_path / "big.onnx", 1e6)
    with pytest.raises(SampleError, match=r"vector_not_finite: .* float16 does not hold"):
        embed(encoder=name)(samples(1))
    assert (embed(encoder=name, dtype="float32")(samples(1))[0]["features"] > 1e6).all()


@pytest.fixture
def texts() -> None:
    for package in (minilm.PACKAGE, "tokenizers"):
        pytest.importorskip(package)


def captioned(*captions: object) -> list[Sample]:
    return [{"__key__": f"k{at}", "caption": caption} for at, caption in enumerate(captions)]


def test_texts_have_the_vectors_of_the_encoder_and_gaps_have_none(texts: None) -> None:
    given = [*captioned("a dog", None, " ", "two dogs"), {"__key__": "bare"}]
    found = embed_text(dtype="float32")(given)
    first, *gaps, last, bare = [sample["text_features"] for sample in found]
    wanted = text.load("minilm")(["a dog", "two dogs"])
    assert first.tobytes() == wanted[0].tobytes() and last.tobytes() == wanted[1].tobytes()
    assert gaps == [None, None] and bare is None
    assert [sample["__key__"] for sample in found] == [sample["__key__"] for sample in given]


def test_shards_with_gaps_and_without_are_one_column_of_vectors(texts: None) -> None:
    shards = [captioned("a dog", None), captioned("a cat"), captioned(None, "")]
    embedded = [embed_text(field="caption", column="joint", encoder="minilm")(shard) for shard in shards]
    tables = [columns_of(shard, Roots({})) for shard in embedded]
    whole = one_table(tables)["joint"]
    assert whole.type == pa.list_(pa.float16(), 384)
    assert whole.is_null().to_pylist() == [False, True, False, True, True]
    assert whole[2].as_py() == embedded[1][0]["joint"].tolist()


def test_texts_of_other_weights_or_of_no_text_are_refused(texts: None) -> None:
    with pytest.raises(ConfigError, match="weights of minilm changed"):
        embed_text(weights="0" * 64)(captioned("a dog"))
    with pytest.raises(ConfigError, match="the field caption of k1 is no text but list"):
        embed_text()(captioned("a dog", ["a", "dog"]))
    with pytest.raises(ConfigError, match="no text encoder minlm; did you mean minilm"):
        embed_text(encoder="minlm")(captioned("a dog"))
