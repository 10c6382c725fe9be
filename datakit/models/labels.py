"""The label names that a pre-trained model has seen, and ImageNet-1k's, which datakit ships.

`imagenet_classes.txt`: a line a class, its wnid and its words in WordNet 3.0, in the order of the wnids, which is
that of the logits. From the tables of timm 1.0 (Apache-2.0); the words are WordNet's, copyright 2006 by Princeton
University, on the terms in `wordnet_license.txt`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from datakit.errors import StoreError
from datakit.models.encoder import CONSE, EMBEDDED, sha256_of

IMAGENET_1K = (EMBEDDED, CONSE)  # models trained on ImageNet-1k with labels
CLASSES_FILE = Path(__file__).with_name("imagenet_classes.txt")
CLASSES_SHA256 = "c98cf8e050b2f67f824762ebdb5bcf683adc7955382b9ff8b1c0f49548bb449b"


@cache
def imagenet_classes() -> tuple[tuple[str, str], ...]:
    """(wnid, words) of the 1000 classes: `n01440764`, `tench, Tinca tinca`. Raises StoreError for a changed file."""
    lines = shipped(CLASSES_FILE, CLASSES_SHA256).splitlines()
    return tuple((wnid, words) for wnid, _, words in (line.partition("\t") for line in lines))


@cache
def pretrained_labels(model: str) -> tuple[str, ...]:
    """ImageNet-1k's class names for a model trained on them (`tench, Tinca tinca`).

    Empty where they are not known: for a model of timm's or the user's own.
    """
    return tuple(words for _, words in imagenet_classes()) if model in IMAGENET_1K else ()


def shipped(path: Path, sha256: str) -> str:
    """The text of a file that came with datakit. Raises StoreError where it is gone or is another."""
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise StoreError(f"{path}: {problem.strerror}; install datakit again") from problem
    if (found := sha256_of([data])) != sha256:
        raise StoreError(f"{path}: sha256 {found[:8]}…, not {sha256[:8]}…; install datakit again")
    return data.decode()
