"""Token steps that learn: a tokenizer from a sample of the images, the split it is judged by, classifiers an arm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datakit.errors import CatalogError
from datakit.rng import rng_for
from datakit.stage import Files, Ref, Rows, reduce
from datakit.stages.columns import codes, read_columns
from datakit.stages.tokens import Fit, framed, model_of, views_of
from datakit.tokens.opened import TokenSet, open_tokens
from datakit.train.token_arms import Arm, Corpus, run_arm

PATCHES = "patches"
TEST, TRAIN = "test", "train"


@reduce(version=1)
def fit_codes(
    rows: Rows,
    *,
    kind: str,
    codes: int,
    options: Mapping[str, Any],
    images: int,
    size: int,
    fit: Fit,
    seed: int,
) -> Files:
    """The two files of a tokenizer trained on at most `images` of the rows, framed at `size` px.

    kind: `patches`, k-means without torch, or one of `TokenizerOptions`. options: those of them that are not at
    their default. Images are drawn by (seed, "tokenizer") and do not depend on the order of workers.
    """
    drawn = np.sort(rng_for(seed, "tokenizer", "images").permutation(len(rows))[:images])
    images_NHWC = np.stack([frame(image.array, size, fit) for image in rows.images(drawn.tolist())])
    if kind == PATCHES:
        from datakit.models.patches import fit_patches

        return Files(fit_patches(images_NHWC, codes=codes, patch=int(options["patch"]), seed=seed))
    from datakit.train.tokenizer import TokenizerOptions, fit_tokenizer

    asked = TokenizerOptions(**{**options, "kind": kind, "codes": codes})
    return Files(fit_tokenizer(images_NHWC, options=asked, seed=seed).files)


def frame(image_HWC: NDArray[np.uint8], size: int, fit: Fit) -> NDArray[np.uint8]:
    """uint8 (size, size, 3): the first view of every image."""
    (view,) = views_of("full", *image_HWC.shape[:2], fit=fit, seed=0, key="")
    return framed(image_HWC, view, size)


@reduce(version=1)
def token_split(
    rows: Rows, *, label: str, seed: int, least: int = 8, most: int = 4000, test: float = 0.25
) -> pa.Table:
    """`row`, `label` (0 … C-1), `part` (train, test) of the images that the classifiers are judged by; and
    `class_name`.

    label: the column that is learned; classes of fewer than `least` images are left out. Images that the source
    itself has in `test` are the test, where it has any; else a share `test` of each class, at least one. At most
    `most` images, drawn class by class in turn. Raises CatalogError where fewer than two classes are left.
    """
    numbers, names = codes_of(rows, label)
    given = _given_test(rows)
    rng = rng_for(seed, "token split")
    members = [np.flatnonzero(numbers == number) for number in range(len(names))]
    chosen = [
        (name, rng.permutation(rows_))
        for name, rows_ in zip(names, members, strict=True)
        if len(rows_) >= least
    ]
    if len(chosen) < 2:
        raise CatalogError(
            f"{len(chosen)} classes of the column {label} have {least} images or more; two are needed to compare "
            "classifiers: give another label= or validate=none"
        )
    each = max(2, most // len(chosen))
    found: list[tuple[int, int, str, str]] = []
    for at, (name, rows_of) in enumerate(chosen):
        rows_of = rows_of[:each]
        count = max(1, round(test * len(rows_of)))
        for place, row in enumerate(rows_of.tolist()):
            tested = given[row] if given is not None else place < count
            found.append((row, at, TEST if tested else TRAIN, str(name)))
    found.sort()
    columns = list(zip(*found, strict=True))
    return pa.table({"row": columns[0], "label": columns[1], "part": columns[2], "class_name": columns[3]})


def codes_of(rows: Rows, label: str) -> tuple[NDArray[np.int64], list[Any]]:
    """A number a row, -1 without, and the names. Raises CatalogError for a column that no row has."""
    if label not in rows.columns:
        raise CatalogError(
            f"there is no column {label} to learn; there are {', '.join(sorted(rows.columns))}"
        )
    return codes(rows.table([label])[label])


def _given_test(rows: Rows) -> NDArray[np.bool_] | None:
    table = read_columns(rows, "source_split", "official_split")
    found = [a or b or "" for a, b in zip(*(column.to_pylist() for column in table.columns), strict=True)]
    given = np.array([name == TEST for name in found])
    return given if given.any() and not given.all() else None


@reduce(version=1)
def fit_adapt(
    rows: Rows,
    *,
    packed: Ref[Files],
    tokenizer: Ref[Files] | None = None,
    name: str = "",
    size: int,
    fit: Fit,
    options: Mapping[str, Any],
    images: int,
    seed: int,
) -> Files:
    """TokenAdapt's f and f⁻¹ over the packed tokens, as two files; see `fit_token_adapt`.

    Trained on the first views of at most `images` rows, and on what the tokenizer makes of those after an affine.
    options: of `AdaptOptions`. Raises ConfigError where the tokens are no square grid of codes with a codebook.
    """
    from datakit.train.token_adapt import ABSENT, AdaptOptions, Affine, fit_token_adapt, warped
    from datakit.train.token_adapt_files import adapt_files

    tokens = opened(packed.value)
    codebook_KD = tokens.vectors
    model = model_of(tokenizer, name)
    drawn = np.sort(rng_for(seed, "token adapt", "images").permutation(len(rows))[:images])
    images_NHWC = np.stack([frame(image.array, size, fit) for image in rows.images(drawn.tolist())])
    packed_id = np.full(model.codes, ABSENT, np.int64)
    packed_id[tokens.rank] = np.arange(len(tokens.rank))

    def tokens_of(numbers: NDArray[np.int64], affine: Affine) -> NDArray[np.int64]:
        found: NDArray[np.int64] = packed_id[model.encode(warped(images_NHWC[numbers], affine))]
        return found

    asked = AdaptOptions(**options)
    ids_NHW = tokens.read(drawn * (len(tokens) // len(rows)))
    adapt = fit_token_adapt(ids_NHW, codebook_KD, tokens_of=tokens_of, options=asked, seed=seed)
    return Files(adapt_files(adapt, codebook_KD, asked, {"images": len(drawn), "seed": seed}))


@reduce(version=2)
def token_arm(
    rows: Rows,
    *,
    packed: Ref[Files],
    split: Ref[pa.Table],
    arm: str,
    budget: float,
    options: Mapping[str, Any],
    seeds: tuple[int, ...],
    size: int,
    fit: Fit,
    adapt: Ref[Files] | None = None,
) -> dict[str, Any]:
    """One arm of the curve at one budget: what was stored, its bytes, and top-1 of each seed; see `run_arm`.

    adapt: of `fit_adapt`, for the arm that trains through it.
    """
    found = corpus(rows, opened(packed.value), split.value, size=size, fit=fit)
    if adapt is not None:
        from datakit.train.token_adapt_files import read_adapt

        found = replace(found, adapt=read_adapt(adapt.value, found.tokens.vectors))
    return run_arm(found, Arm(name=arm, budget=budget, **options), seeds=seeds)


def opened(files: Files) -> TokenSet:
    """The token folder as a step made it, where it lies among the steps."""
    return open_tokens(Path(files["tokens.json"]).parent)


def corpus(rows: Rows, tokens: TokenSet, split: pa.Table, *, size: int, fit: Fit) -> Corpus:
    """The images and tokens of a split, both by number; images are decoded when they are asked for, and kept."""
    table = split.to_pydict()
    kept: dict[int, NDArray[np.uint8]] = {}

    def images(chosen: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        """Each decoded once: an arm tries settings on them, encodes them and trains on them."""
        missing = [number for number in chosen.tolist() if number not in kept]
        for number, image in zip(missing, rows.images(numbers[missing].tolist()), strict=True):
            kept[number] = frame(image.array, size, fit)
        return [kept[number] for number in chosen.tolist()]

    sizes = read_columns(rows, "bytes")["bytes"].to_numpy(zero_copy_only=False)
    numbers = np.asarray(table["row"], np.int64)
    part = np.asarray(table["part"])
    return Corpus(
        tokens=tokens,
        images=images,
        rows=numbers,
        labels=np.asarray(table["label"], np.int64),
        train=np.flatnonzero(part == TRAIN),
        test=np.flatnonzero(part == TEST),
        source_bytes=np.asarray(sizes, np.int64)[numbers],
        classes=len(set(table["label"])),
    )
