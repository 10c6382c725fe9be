"""Models of open_clip: both sides of one space out of a file of weights, and nothing else out of that file."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datakit.errors import ConfigError, EnvironmentProblem, MissingExtra
from datakit.models import encoder, open_clip_model, text
from datakit.models.encoder import Encoder
from datakit.models.text import TextEncoder
from datakit.rng import rng_for

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of `datakit-tiny`, a model that open_clip knows from here on."""
    torch, open_clip = pytest.importorskip("torch"), pytest.importorskip("open_clip")
    folder = tmp_path_factory.mktemp("open_clip")
    (folder / "datakit-tiny.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder / "datakit-tiny.json")
    torch.manual_seed(0)
    torch.save(open_clip.create_model("datakit-tiny").state_dict(), folder / "tiny.pt")
    return folder / "tiny.pt"


def pictures() -> list[Any]:
    return [rng_for(i, "picture").integers(0, 256, (20 + 9 * i, 40, 3)).astype(np.uint8) for i in range(3)]


def test_a_file_of_weights_gives_both_sides_of_one_space(weights: Path) -> None:
    name = f"open_clip:datakit-tiny/{weights}"
    images, texts = encoder.load(name), text.load(name)
    assert isinstance(images, Encoder) and isinstance(texts, TextEncoder)
    assert images.dim == texts.dim == TINY["embed_dim"]
    assert images.name == texts.name == "open_clip:datakit-tiny/tiny.pt"
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert images.weights == texts.weights == encoder.weights_of(name) == text.weights_of(name) == sha256
    for rows in (images(pictures()), texts(["a dog", "two dogs, one of them brown", "\ud83d"])):
        assert rows.shape == (3, images.dim) and rows.dtype == np.float32
        assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-5
        assert np.abs(rows[0] - rows[1]).max() > 1e-3
    assert images([]).shape == texts([]).shape == (0, images.dim)


def test_vectors_are_those_of_the_model_and_of_one_input_alone(weights: Path) -> None:
    open_clip, torch = pytest.importorskip("open_clip"), pytest.importorskip("torch")
    from PIL import Image

    space = open_clip_model.load(f"datakit-tiny/{weights}")
    again = open_clip_model.load.__wrapped__(f"datakit-tiny/{weights}")
    assert again is not space
    model, _, preprocess = open_clip.create_model_and_transforms("datakit-tiny", pretrained=str(weights))
    model.eval()
    with torch.inference_mode():
        batch = torch.stack([preprocess(Image.fromarray(picture)) for picture in pictures()])
        wanted = model.encode_image(batch, normalize=True).numpy()
    found = space.images(pictures())
    assert np.allclose(found, wanted, atol=1e-5)
    alone = np.concatenate([again.images([picture]) for picture in pictures()])
    assert found.tobytes() == alone.tobytes()
    words = ["a dog", "a much longer text about a dog"]
    assert space.texts(words).tobytes() == np.concatenate([again.texts([word]) for word in words]).tobytes()


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_code_in_a_file_of_weights_is_refused_and_does_not_run(weights: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    bad, fired = tmp_path / "bad.pt", tmp_path / "fired"
    torch.save({"state_dict": Canary(fired)}, bad)
    with pytest.raises(ConfigError, match=r"bad\.pt holds no weights of open_clip's datakit-tiny"):
        encoder.load(f"open_clip:datakit-tiny/{bad}")
    assert not fired.exists()
    torch.load(bad, weights_only=False)  # the canary does fire where it may
    assert fired.exists()


@pytest.mark.parametrize("data", [b"", b"no weights"])
def test_a_file_of_something_else_is_refused(weights: Path, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bad.pt").write_bytes(data)
    with pytest.raises(ConfigError, match=r"bad\.pt holds no weights"):
        encoder.load(f"open_clip:datakit-tiny/{tmp_path}/bad.pt")


def test_weights_of_another_model_are_refused(weights: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match=r"other\.pt holds no weights of open_clip's datakit-tiny"):
        encoder.load(f"open_clip:datakit-tiny/{tmp_path}/other.pt")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip:ViT-B-23/openai", "open_clip has no model ViT-B-23; did you mean ViT-B-32"),
        ("open_clip:ViT-B-32/opneai", "no weights opneai of ViT-B-32; did you mean openai.* or give a file"),
        ("open_clip:datakit-tiny/openai", "no weights openai of datakit-tiny; it knows none, or give a file"),
        ("open_clip:datakit-tiny/gone.pt", r"cannot read gone\.pt: No such file"),
        ("open_clip:datakit-tiny//nowhere/w", "cannot read /nowhere/w: No such file"),
    ],
)
def test_what_open_clip_does_not_know_is_named(weights: Path, name: str, message: str) -> None:
    for load in (encoder.load, text.load):
        with pytest.raises(ConfigError, match=message):
            load(name)


def test_a_tag_that_cannot_be_fetched_is_a_problem_of_the_machine(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip

    def offline(*_: Any, **__: Any) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(open_clip, "create_model_and_transforms", offline)
    with pytest.raises(EnvironmentProblem, match=r"weights openai of open_clip's ViT-B-32: no network"):
        encoder.load("open_clip:ViT-B-32/openai")


def test_without_open_clip_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    for load in (encoder.load, text.load):
        with pytest.raises(MissingExtra, match=r'open_clip:ViT-B-32/openai needs .*"datakit\[clip\]"'):
            load("open_clip:ViT-B-32/openai")
    assert encoder.weights_of("open_clip:ViT-B-32/openai") == ""


def test_a_text_side_out_of_transformers_names_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("open_clip")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "transformers" else found(name)
    )
    with pytest.raises(MissingExtra, match=r'open_clip\'s roberta-ViT-B-32 needs .*"datakit\[sentences\]"'):
        encoder.load("open_clip:roberta-ViT-B-32/mine.pt")
