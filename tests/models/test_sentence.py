"""Models of sentence-transformers: a local folder's vectors, its fingerprint, and none of its code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from datakit.errors import ConfigError, EnvironmentProblem, MissingExtra
from datakit.models import sentence_model
from datakit.models.minilm import VOCABULARY
from datakit.models.text import TextEncoder, load, weights_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny BERT of random weights, mean pooling behind it, as sentence-transformers keeps one."""
    pytest.importorskip("sentence_transformers")
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(0)
    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertModel(config).save_pretrained(tmp_path / "bert")
    BertTokenizerFast(str(VOCABULARY)).save_pretrained(tmp_path / "bert")
    SentenceTransformer(str(tmp_path / "bert"), device="cpu").save(str(tmp_path / "mine"))
    return tmp_path / "mine"


def test_a_local_folder_is_a_text_encoder(folder: Path) -> None:
    name = f"sentence-transformers:{folder}"
    model, texts = load(name), ["a dog", "some words about two dogs", "\ud83d"]
    assert isinstance(model, TextEncoder)
    assert (model.name, model.dim) == ("sentence-transformers:mine", 16)
    assert model.weights == weights_of(name)
    rows = model(texts)
    assert rows.dtype == np.float32 and rows.shape == (3, 16) and np.isfinite(rows).all()
    assert rows.tobytes() == np.concatenate([model([text]) for text in texts]).tobytes()
    assert model([]).shape == (0, 16)


def test_any_other_file_in_the_folder_is_another_encoder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "w.bin").write_bytes(b"one")
    name = f"sentence-transformers:{tmp_path}"
    first = weights_of(name)
    (tmp_path / "a" / "w.bin").write_bytes(b"two")
    second = weights_of(name)
    (tmp_path / "a" / "w.bin").rename(tmp_path / "w.bin")
    assert len({first, second, weights_of(name)}) == 3
    assert weights_of("sentence-transformers:all-MiniLM-L6-v2") == ""


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (
            [{"type": "sentence_transformers.models.Pooling"}, {"type": "mine.Model"}],
            "asks for mine.Model, code",
        ),
        ({"type": 1}, "no model of sentence-transformers"),
        (None, "no model of sentence-transformers"),
    ],
)
def test_a_folder_that_brings_code_or_is_no_model_is_refused(
    modules: object, message: str, tmp_path: Path
) -> None:
    if modules is not None:
        (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match=message):
        sentence_model.check(tmp_path)


def test_a_model_that_cannot_be_fetched_is_a_problem_of_the_machine() -> None:
    pytest.importorskip("sentence_transformers")
    with pytest.raises(EnvironmentProblem, match="cannot get sentence-transformers:nobody/nothing-such"):
        load("sentence-transformers:nobody/nothing-such")


def test_without_sentence_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtra, match=r'sentence-transformers:x needs .*"datakit\[sentences\]"'):
        load("sentence-transformers:x")
