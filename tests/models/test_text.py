"""Text encoders by name, and the embedded one: its vectors are of the text alone, and near where meanings are."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest

from datakit.errors import ConfigError, MissingExtra, StoreError
from datakit.models import labels, minilm
from datakit.models.text import TextEncoder, load, weights_of

WORDS = "a red apple on the table with some more words about it and then others"


@pytest.fixture(scope="module")
def model() -> TextEncoder:
    for package in (minilm.PACKAGE, "tokenizers", "onnxruntime"):
        pytest.importorskip(package)
    return load("minilm")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mini-lm", "no text encoder mini-lm; did you mean minilm"),
        ("minilm:x", "no text encoder minilm:x"),
        ("efficientnet-lite0", "there are minilm, conse, open_clip:<model>/<weights>, sentence-transf"),
        ("openclip:ViT-B-32/openai", "did you mean open_clip:ViT-B-32/openai"),
        ("open_clip:ViT-B-32", "no text encoder open_clip:ViT-B-32"),
        ("sentence-transformers:", "no text encoder sentence-transformers:"),
    ],
)
def test_an_unknown_text_encoder_is_named(name: str, message: str) -> None:
    for asked in (load, weights_of):
        with pytest.raises(ConfigError, match=message):
            asked(name)


def test_vectors_are_of_one_length_and_of_the_text_alone(model: TextEncoder) -> None:
    texts = [WORDS[:count] for count in (1, 40, 12, 41, 70, 5)] + ["", "Ein Karton Hafermilch"] * 40
    together = model(texts)
    alone = np.concatenate([model([text]) for text in texts])
    assert isinstance(model, TextEncoder) and (model.name, model.dim) == ("minilm", 384)
    assert together.dtype == np.float32 and together.shape == (len(texts), 384)
    assert together.tobytes() == alone.tobytes()
    assert np.abs(np.linalg.norm(together, axis=1) - 1).max() < 1e-5
    assert model([]).shape == (0, 384)


def test_it_is_loaded_once_and_tells_its_weights(model: TextEncoder) -> None:
    assert model is load("minilm") is load("minilm", device="auto")
    assert model.weights == minilm.SHA256 and weights_of("minilm") == ""


def test_what_means_the_same_is_nearer(model: TextEncoder) -> None:
    query, near, far = model(["oat milk", "a carton of milk made of oats", "hiking boots of black leather"])
    assert query @ near > 0.6 > 0.3 > query @ far


def test_case_accents_and_spaces_do_not_count(model: TextEncoder) -> None:
    first, *others = model(["creme brulee", "Crème  Brûlée", "CREME\tBRULEE\n"])
    assert all(other.tobytes() == first.tobytes() for other in others)


def test_what_lies_beyond_the_last_token_is_not_seen(model: TextEncoder) -> None:
    seen, longer, other = model(["milk " * 254, "milk " * 254 + "boots", "boots " + "milk " * 254])
    assert seen.tobytes() == longer.tobytes() != other.tobytes()


@pytest.mark.parametrize("text", ["\ud800", "x\ud83dy", "\x00", "\u2028", "🎉" * 3, "ab" * 100_000, "日本語"])
def test_any_text_has_a_vector(model: TextEncoder, text: str) -> None:
    assert np.isfinite(model([text])).all()


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"other weights")
    with pytest.raises(StoreError, match=r"model\.onnx: sha256 .* install it again"):
        minilm.MiniLM(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("path", "sha256"),
    [
        (minilm.VOCABULARY, minilm.VOCABULARY_SHA256),
        (labels.CLASSES_FILE, labels.CLASSES_SHA256),
    ],
)
def test_what_datakit_ships_is_whole_and_refused_where_it_is_not(
    path: Path, sha256: str, tmp_path: Path
) -> None:
    text = labels.shipped(path, sha256)
    assert hashlib.sha256(text.encode()).hexdigest() == sha256
    changed = tmp_path / path.name
    changed.write_text(text.replace("a", "b", 1))
    with pytest.raises(StoreError, match=f"{path.name}: sha256 .* install datakit again"):
        labels.shipped(changed, sha256)
    with pytest.raises(StoreError, match="No such file or directory; install datakit again"):
        labels.shipped(tmp_path / "gone.txt", sha256)


def test_without_its_packages_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtra, match=r'the text encoder minilm needs .*"datakit\[demo\]"'):
        minilm._tokenizer()
    monkeypatch.setattr(minilm, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r'the text encoder minilm needs .*"datakit\[demo\]"'):
        minilm.load.__wrapped__()
