"""The verbs of `datakit tokens`: show, train, repack, import, export."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from datakit.config import parse
from datakit.errors import ConfigError, need
from datakit.manifest import write_bytes
from datakit.rng import rng_for
from datakit.tokens.arithmetic import SEIT_BYTES, bytes_for
from datakit.tokens.codec import CODECS
from datakit.tokens.opened import TokenSet, open_tokens
from datakit.tokens.pack import ABOUT, CROP, pack
from datakit.tokens.seit import read_seit, write_seit


def key(default: Any, help: str, **limits: float) -> Any:
    return field(default=default, metadata={"help": help, **limits})


PLACE = {"help": "token folder; may stand first, without its key"}


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """The words of `datakit tokens show`."""

    tokens: str = field(metadata=PLACE)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The words of `datakit tokens train`."""

    tokens: str = field(metadata=PLACE)
    augment: str = key("eda", "none, or of: eda, noise, color, cutmix, flip, tokenadapt")
    noise: float = key(0.25, "deviation of Emb-Noise; SeiT++'s 1 is for 300 epochs", least=0)
    adapt: str = key("", "folder of TokenAdapt's two files, for augment=tokenadapt")
    model: str = key(
        "small", "small, vit (which mtm_steps can start), or a model of timm, as vit_tiny_patch16_224"
    )
    views: Literal["all", "first"] = key("all", "of the images that are learned; tests are by the first")
    epochs: int = key(20, "passes over the images, or over all their views", least=1)
    batch_size: int = key(64, "images a step", least=2)
    lr: float = key(0.0, "of AdamW at its peak; 0: 0.01 for small, 0.004 for vit, 0.001 for timm's", least=0)
    mtm_steps: int = key(0, "of masked token modelling before it; 0: none", least=0)
    test: float = key(0.25, "share of each class's images that is held out", least=0.05, most=0.9)
    least: int = key(4, "images of a class that is learned", least=2)
    seeds: tuple[int, ...] = key((0,), "one training each", least=0, most=2**32 - 1)
    device: str = key("auto", "auto, cpu, cuda; not run on a GPU")


@dataclass(frozen=True, kw_only=True)
class RepackOptions:
    """The words of `datakit tokens repack`."""

    tokens: str = field(metadata=PLACE)
    out: str = field(metadata={"help": "folder to write"})
    codec: str = key("context", ", ".join(CODECS))
    block: int = key(256, "images a block", least=1)


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """The words of `datakit tokens import`."""

    source: str = field(metadata={"help": "folder of SeiT's files; may stand first, without its key"})
    split: str = key("train", "train or val: which of its sets")
    out: str = field(metadata={"help": "folder to write"})
    codec: str = key("pco", ", ".join(CODECS))
    block: int = key(256, "images a block", least=1)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The words of `datakit tokens export`."""

    tokens: str = field(metadata=PLACE)
    out: str = field(metadata={"help": "folder to write SeiT's files to"})
    split: str = key("train", "train or val: what the files are called")


def token_words(verb: str, words: Sequence[str]) -> tuple[dict[str, Any], str]:
    """What the words of a verb ask: (JSON, text for people). Raises ConfigError before anything is written."""
    return VERBS[verb](words)


def show_words(words: Sequence[str]) -> tuple[dict[str, Any], str]:
    asked = parse(ShowOptions, _placed(words))
    return described(asked.tokens, open_tokens(asked.tokens))


def described(place: str, tokens: TokenSet) -> tuple[dict[str, Any], str]:
    """(JSON, text for people) of a token folder."""
    stats, grid = tokens.stats, tokens.grid
    size, each = sum(tokens.files.values()), tokens.files["blocks.bin"] / max(1, len(tokens))
    bits = 8 * each / (grid[0] * grid[1])
    value = {
        "rows": len(tokens), "grid": list(grid), "codes": tokens.codes, "codec": tokens.codec, "bytes": size,
        "bytes_a_grid": each, "bits_a_token": bits, "stats": dict(stats), "about": dict(tokens.about),
        "classes": len(tokens.class_names), "imagenet_bytes": bytes_for(bits),
    }  # fmt: skip
    lines = [
        f"{place}: {len(tokens):,} grids of {grid[0]} x {grid[1]} tokens, {tokens.codes} codes, "
        f"{len(tokens.class_names)} classes",
        f"  size      {size / 1e6:.2f} MB by {tokens.codec}; {each:,.0f} bytes a grid, {bits:.2f} bits a token",
        f"  entropy   {stats['h0']:.2f} bits by frequency, {bits_or(stats['h_context'])} given its neighbours",
        f"  codebook  {stats['used']} of {stats['codes']} codes used, perplexity {stats['perplexity']:.0f}",
        f"  ImageNet  {bytes_for(bits) / 1e9:.2f} GB for 1,281,167 images of 1,024 tokens at these bits; "
        f"SeiT's is {SEIT_BYTES / 1e9:.1f} GB",
    ]
    return value, "\n".join(lines)


def bits_or(value: float | None) -> str:
    """With two decimals; `unknown` where there are too many codes to tell."""
    return "unknown" if value is None else f"{value:.2f}"


def train_words(words: Sequence[str]) -> tuple[dict[str, Any], str]:
    """A classifier on the folder's tokens and labels alone; no image is opened."""
    asked = parse(TrainOptions, _placed(words))
    need("training on tokens", "torch", ("torch", "timm"))
    from datakit.train.mtm import MtmOptions, pretrain
    from datakit.train.token_adapt_files import adapt_of_folder
    from datakit.train.token_classifier import TokenOptions, train_token_classifier

    tokens = open_tokens(asked.tokens)
    codebook_KD = tokens.vectors
    rows, labels, part = _split(asked, tokens)
    seen, learned = rows[~part], labels[~part]
    if asked.views == "all":
        seen, learned = _with_views(tokens, seen, learned)
    ids, tested = tokens.read(seen), tokens.read(rows[part])
    options = TokenOptions(
        model=asked.model, augment=asked.augment, noise=asked.noise, epochs=asked.epochs, lr=asked.lr,
        batch_size=asked.batch_size, device=asked.device,
    )  # fmt: skip
    if bool(asked.adapt) != ("tokenadapt" in options.words):
        raise ConfigError("augment=tokenadapt and adapt=<folder> go together: give both, or none")
    adapt = adapt_of_folder(Path(asked.adapt), codebook_KD) if asked.adapt else None
    runs, side = [], min(tokens.grid) * 7 // 8 // 4 * 4
    for seed in asked.seeds:
        start = None
        if asked.mtm_steps:
            wanted = MtmOptions(steps=asked.mtm_steps, side=side, device=asked.device)
            start = pretrain(ids, tokens.codes, options=wanted, seed=seed, codebook_KD=codebook_KD)
        result = train_token_classifier(
            ids, learned, codebook_KD, tested, labels[part],
            options=options, seed=seed, synonyms_KS=tokens.synonyms, start=start, adapt=adapt,
        )  # fmt: skip
        runs.append(result)
    top1 = [float(result.top1) for result in runs]
    mean_seconds = float(np.mean([result.seconds for result in runs]))
    _, counts = np.unique(labels[part], return_counts=True)
    value = {"top1": top1, "seeds": list(asked.seeds), "train": int((~part).sum()), "grids": len(ids),
             "test": int(part.sum()),
             "classes": int(labels.max()) + 1, "chance": float(counts.max() / counts.sum()),
             "seconds": [float(result.seconds) for result in runs]}  # fmt: skip
    spread = f" ± {np.std(top1, ddof=1):.3f} over {len(top1)} seeds" if len(top1) > 1 else ""
    text = (
        f"{asked.tokens}: top-1 {np.mean(top1):.3f}{spread} on {value['test']:,} images of {value['classes']} classes, "
        f"trained on {value['train']:,} in {mean_seconds:.0f} s; "
        f"the most common class is {value['chance']:.3f} of the test"
    )
    return value, text


def _split(
    asked: TrainOptions, tokens: TokenSet
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """(row of each image's first view, its label 0 … C-1, whether it is of the test). Raises ConfigError."""
    if "label" not in tokens.rows.column_names:
        raise ConfigError(f"{asked.tokens} has no labels: there is nothing to learn")
    first = np.asarray(tokens.rows["view"]) == 0
    label = np.asarray(tokens.rows["label"]).astype(np.int64)
    numbers, counts = np.unique(label[first & (label >= 0)], return_counts=True)
    learned = numbers[counts >= asked.least]
    if len(learned) < 2:
        raise ConfigError(
            f"{len(learned)} classes have {asked.least} images or more; two are needed: give least="
        )
    rows = np.flatnonzero(first & np.isin(label, learned))
    labels = np.searchsorted(learned, label[rows])
    drawn = rng_for(0, "tokens train", "test").permutation(len(rows))
    part = np.zeros(len(rows), bool)
    for number in range(len(learned)):
        members = drawn[labels[drawn] == number]
        part[members[: max(1, round(asked.test * len(members)))]] = True
    return rows, labels, part


def _with_views(
    tokens: TokenSet, rows: NDArray[np.int64], labels: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All views of the images whose first views these are, and their labels: they stand one after the other."""
    image = np.cumsum(np.asarray(tokens.rows["view"]) == 0) - 1
    label = np.full(int(image[-1]) + 1, -1, np.int64)
    label[image[rows]] = labels
    found = np.flatnonzero(label[image] >= 0)
    return found, label[image[found]]


def repack_words(words: Sequence[str]) -> tuple[dict[str, Any], str]:
    """The same rows by another codec; keys, views, labels, codebook and the tokenizer's files come along."""
    asked = parse(RepackOptions, _placed(words))
    tokens = open_tokens(asked.tokens)
    rows = tokens.rows
    named = {name: np.asarray(rows[name]) for name in rows.column_names if name != "key"}
    files = pack(
        tokens.read(np.arange(len(tokens))),
        rows["key"].to_pylist(),
        codes=tokens.codes,
        codec=asked.codec,
        per_block=asked.block,
        views=named["view"],
        crops=np.stack([named[name] for name in CROP], axis=1) if CROP[0] in named else None,
        flips=named.get("flip"),
        labels=named.get("label"),
        codebook_KD=tokens.codebook,
        rank=tokens.rank,
        class_names=tokens.class_names,
        extra=tokens.extra(),
        about=tokens.about,
    )
    return _written(asked.out, files)


def import_words(words: Sequence[str]) -> tuple[dict[str, Any], str]:
    asked = parse(ImportOptions, _placed(words, "source"))
    found = read_seit(Path(asked.source), split=asked.split)
    files = pack(
        found.tokens_NHW, found.keys, codes=found.codes, codec=asked.codec, per_block=asked.block,
        labels=found.labels, codebook_KD=found.codebook_KD, about={"source": "SeiT", "images": len(found.keys)},
    )  # fmt: skip
    return _written(asked.out, files)


def export_words(words: Sequence[str]) -> tuple[dict[str, Any], str]:
    asked = parse(ExportOptions, _placed(words))
    tokens = open_tokens(asked.tokens)
    rows = np.flatnonzero(np.asarray(tokens.rows["view"]) == 0)
    labels = np.asarray(tokens.rows["label"])[rows] if "label" in tokens.rows.column_names else None
    files = write_seit(tokens.read(rows), labels=labels, codebook_KD=tokens.codebook,
                       synonyms_KS=tokens.synonyms, split=asked.split)  # fmt: skip
    return _written(asked.out, files)


def _written(out: str, files: Mapping[str, bytes]) -> tuple[dict[str, Any], str]:
    """The files in a folder that was not there, what names it last."""
    place = Path(out)
    if place.exists() and any(place.iterdir() if place.is_dir() else [place]):
        raise ConfigError(f"out={out} is there already: give another folder")
    for name in sorted(files, key=lambda name: (name == ABOUT, name)):
        write_bytes(place / name, files[name])
    size = sum(map(len, files.values()))
    return {
        "out": out,
        "bytes": size,
        "files": sorted(files),
    }, f"{out}: {len(files)} files, {size / 1e6:.2f} MB"


def _placed(words: Sequence[str], name: str = "tokens") -> list[str]:
    """The first word, if it has no key, is the folder."""
    first = bool(words) and "=" not in words[0] and not words[0].startswith(("~", "@"))
    return [f"{name}={words[0]}", *words[1:]] if first else list(words)


VERBS: Mapping[str, Callable[[Sequence[str]], tuple[dict[str, Any], str]]] = {
    "show": show_words,
    "train": train_words,
    "repack": repack_words,
    "import": import_words,
    "export": export_words,
}
