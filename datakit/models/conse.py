"""`conse`: images and texts in one space, of a classifier and a sentence encoder that never saw each other.

An image is the sum of the sentence vectors of its ten likeliest ImageNet classes, weighted by their probabilities,
which are made to sum to one; a text is its sentence vector (ConSE: Norouzi et al. 2014). From both the mean of the
1000 class names' vectors is taken away, without which all cosines are high and near each other, and both are scaled
to length 1. Weak but real: it knows what ImageNet's classes are near to, not colours, counts, brands or style.
Measured: `tests/models/test_conse.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from datakit.models.encoder import CONSE, Classifier, sha256_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from datakit.models.text import TextEncoder

    Pixels = NDArray[np.uint8]
    Floats = NDArray[np.float32]

TOP = 10  # classes an image is made of


class Space:
    """What the two sides share: the vectors of the class names and their mean. Both sides have its `weights`."""

    def __init__(self, classifier: Classifier, sentences: TextEncoder, classes: Sequence[str]) -> None:
        self.weights = sha256_of(
            text.encode() for text in (classifier.weights, sentences.weights, "\n".join(classes))
        )
        vectors_KD = sentences(classes)
        self.dim = sentences.dim
        self.centre_D: Floats = vectors_KD.mean(axis=0)
        self.classes_KD: Floats = vectors_KD - self.centre_D
        self.images = Images(self, classifier)
        self.texts = Texts(self, sentences)

    def of_logits(self, logits_NK: Floats) -> Floats:
        """float32 (N, dim), rows of length 1, of N images by the classifier's scores."""
        # One image at a time: a product's last bits may depend on how many rows it has.
        rows = [self._mixture(logits_K) for logits_K in logits_NK]
        return unit(np.stack(rows)) if rows else np.empty((0, self.dim), np.float32)

    def _mixture(self, logits_K: Floats) -> Floats:
        top = np.argsort(-logits_K, kind="stable")[:TOP]
        share = np.exp(logits_K[top] - logits_K[top[0]])
        mixture: Floats = (share / share.sum()) @ self.classes_KD[top]
        return mixture


@dataclass(frozen=True)
class Images:
    """The encoder of images."""

    space: Space
    classifier: Classifier
    name = CONSE

    @property
    def dim(self) -> int:
        return self.space.dim

    @property
    def weights(self) -> str:
        return self.space.weights

    def __call__(self, images: Sequence[Pixels]) -> Floats:
        return self.space.of_logits(self.classifier.logits(images))


@dataclass(frozen=True)
class Texts:
    """The encoder of texts."""

    space: Space
    sentences: TextEncoder
    name = CONSE

    @property
    def dim(self) -> int:
        return self.space.dim

    @property
    def weights(self) -> str:
        return self.space.weights

    def __call__(self, texts: Sequence[str]) -> Floats:
        return unit(self.sentences(texts) - self.space.centre_D)


@cache
def load() -> Space:
    """The space of the embedded classifier and MiniLM, once a process: about 1 s for the class names.

    Raises MissingExtra where one of their packages is not installed.
    """
    from datakit.models import efficientnet, minilm
    from datakit.models.labels import imagenet_classes

    return Space(efficientnet.load(), minilm.load(), [words for _, words in imagenet_classes()])


def unit(vectors_ND: Floats) -> Floats:
    """Rows scaled to length 1; a zero row stays zero."""
    length = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return (vectors_ND / np.where(length > 0, length, 1)).astype(np.float32)
