"""The label names that a pre-trained model has seen, for the overlap between them and what is held out."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

IMAGENET_1K = ("efficientnet-lite0",)  # models trained on ImageNet-1k with labels


@cache
def pretrained_labels(model: str) -> tuple[str, ...]:
    """ImageNet-1k's class names for a model trained on them (`tench, Tinca tinca`), from timm's tables.

    Empty where they are not known: for a model of timm's or the user's own, and where timm is not installed,
    since no package of the extra `demo` has the names.
    """
    if model not in IMAGENET_1K:
        return ()
    spec = find_spec("timm")  # found, not imported: timm costs seconds
    if spec is None or not spec.submodule_search_locations:
        return ()
    folder = Path(spec.submodule_search_locations[0]) / "data" / "_info"
    wnids = (folder / "imagenet_synsets.txt").read_text().split()
    lines = (folder / "imagenet_synset_to_lemma.txt").read_text().splitlines()
    lemmas = dict(line.split("\t", 1) for line in lines if "\t" in line)
    return tuple(lemmas[wnid] for wnid in wnids)
