"""Encoders by name: unknown ones are named, users' own files and timm's models stand behind one protocol."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datakit.errors import ConfigError, EnvironmentProblem, MissingExtra
from datakit.models import timm_model
from datakit.models.encoder import Encoder, load, open_clip_file
from datakit.rng import rng_for

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def pictures(count: int = 3) -> list[Any]:
    sizes = [(40, 60), (64, 64), (90, 30)]
    return [rng_for(i, "picture").integers(0, 256, (*sizes[i % 3], 3)).astype(np.uint8) for i in range(count)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet-lite", "no encoder efficientnet-lite; did you mean efficientnet-lite0"),
        ("efficientnet-lite0:x", "no encoder efficientnet-lite0:x"),
        ("tim:resnet18", "did you mean timm:resnet18"),
        (
            "timm:",
            "there are efficientnet-lite0, conse, onnx:<path>, timm:<model>, torchscript:<path>, open_c",
        ),
        ("open_clip:ViT-B-32", "no encoder open_clip:ViT-B-32"),
        ("minilm", "no encoder minilm; there are"),
        ("onnx:/nowhere/model.onnx", "cannot read it: No such file"),
    ],
)
def test_an_unknown_encoder_is_named(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(name)


@pytest.mark.parametrize(
    ("rest", "path"),
    [
        ("ViT-B-32/openai", None),
        ("ViT-B-32/laion2b_s34b_b79k", None),
        ("ViT-B-32/mine.pt", "mine.pt"),
        ("ViT-B-32/./openai", "openai"),
        ("ViT-B-32//home/me/w.safetensors", "/home/me/w.safetensors"),
        ("ViT-B-32", None),
    ],
)
def test_weights_that_are_a_file_are_told_from_those_that_are_a_tag(rest: str, path: str | None) -> None:
    assert open_clip_file(rest) == (Path(path) if path else None)


def mean_model(path: Path, kind: int, shape: list[Any], axes: list[int], *, outputs: int = 2) -> Path:
    """A model that gives the mean over `axes`: of an image, one number a channel."""
    helper = onnx.helper
    nodes = [helper.make_node("Cast", ["x"], ["real"], to=onnx.TensorProto.FLOAT)]
    nodes.append(helper.make_node("ReduceMean", ["real"], ["y"], axes=axes, keepdims=0))
    given = helper.make_tensor_value_info("x", kind, shape)
    taken = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", "D"][:outputs])
    graph = helper.make_graph(nodes, "mean", [given], [taken])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_users_model_of_plain_pixels(tmp_path: Path) -> None:
    path = mean_model(tmp_path / "m.onnx", onnx.TensorProto.UINT8, ["N", 32, 32, 3], [1, 2])
    model = load(f"onnx:{path}")
    assert isinstance(model, Encoder)
    assert (model.name, model.dim) == ("onnx:m.onnx", 3)
    assert model.weights == hashlib.sha256(path.read_bytes()).hexdigest()
    vectors = model([np.full((50, 80, 3), (10, 20, 30), np.uint8)])
    assert np.allclose(vectors, [[10, 20, 30]])
    assert model(pictures()).tobytes() == np.concatenate([model([p]) for p in pictures()]).tobytes()
    assert model([]).shape == (0, 3)


def test_a_users_model_of_normalised_pixels(tmp_path: Path) -> None:
    path = mean_model(tmp_path / "m.onnx", onnx.TensorProto.FLOAT, [1, 3, "H", "W"], [2, 3])
    model = load(f"onnx:{path}")
    grey = np.full((50, 80, 3), (0.485 * 255, 0.456 * 255, 0.406 * 255 + 0.226 * 255), np.uint8)
    assert np.allclose(model([grey]), [[0, 0, 1]], atol=0.02)


@pytest.mark.parametrize(
    ("kind", "shape", "axes", "outputs", "message"),
    [
        ("FLOAT", ["N", 1, 32, 32], [2, 3], 2, "one square image"),
        ("FLOAT", ["N", 3, 32, 16], [2, 3], 2, "one square image"),
        ("FLOAT", [8, 3, 32, 32], [2, 3], 2, "one square image"),
        ("INT64", ["N", 3, 32, 32], [2, 3], 2, "one square image"),
        ("FLOAT", ["N", 3], [1], 1, "one square image"),
        ("FLOAT", ["N", 3, 32, 32], [1, 2, 3], 1, r"must be float32 \(N, dim\)"),
    ],
)
def test_a_model_of_another_shape_is_refused(
    tmp_path: Path, kind: str, shape: list[Any], axes: list[int], outputs: int, message: str
) -> None:
    path = mean_model(tmp_path / "m.onnx", getattr(onnx.TensorProto, kind), shape, axes, outputs=outputs)
    with pytest.raises(ConfigError, match=message):
        load(f"onnx:{path}")


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(ConfigError, match="no model that onnxruntime can run"):
        load(f"onnx:{tmp_path}/m.onnx")


def test_a_timm_model_gives_its_pooled_features() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm_model.load("test_resnet", pretrained=False)
    assert isinstance(model, Encoder)
    together, alone = model(pictures()), np.concatenate([model([picture]) for picture in pictures()])
    assert together.shape == (3, model.dim) and together.dtype == np.float32
    assert np.allclose(together, alone, atol=1e-6)
    assert np.abs(together[0] - together[1]).max() > 0
    assert model.name == "timm:test_resnet"
    torch.manual_seed(1)
    assert timm_model.load("test_resnet", pretrained=False).weights != model.weights
    torch.manual_seed(0)
    assert timm_model.load("test_resnet", pretrained=False).weights == model.weights


def test_timm_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    with pytest.raises(ConfigError, match="timm has no model resnet81; did you mean resnet"):
        load("timm:resnet81")

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(EnvironmentProblem, match="cannot get the weights of timm:resnet18: no network"):
        timm_model.load("resnet18")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtra, match=r'"datakit\[torch\]"'):
        timm_model.load("resnet18")


def test_without_onnxruntime_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = mean_model(tmp_path / "m.onnx", onnx.TensorProto.UINT8, ["N", 32, 32, 3], [1, 2])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r'"datakit\[demo\]"'):
        load(f"onnx:{path}")
