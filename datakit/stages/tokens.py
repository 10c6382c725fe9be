"""Images as tokens: framed, cut into views, encoded by a tokenizer, packed into a folder of token blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from datakit.errors import ConfigError, StageError
from datakit.models import tokenizer as tokenizers
from datakit.rng import rng_for
from datakit.stage import Files, Ref, Rows, Sample, batch_stage, reduce
from datakit.stages.columns import read_columns
from datakit.tokens.pack import pack

if TYPE_CHECKING:
    from datakit.models.tokenizer import Tokenizer

Fit = Literal["crop", "square"]
Pixels = NDArray[np.uint8]

TEN = (
    0.875  # share of the frame's side that each of ten crops shows: 224 of 256 px, as in SeiT's and AlexNet's
)
SCALE = (0.35, 1.0)  # share of the image's area that a random crop shows
RATIO = (3 / 4, 4 / 3)  # of its width to its height, in px
TRIES = 10  # draws of a random crop before the centre is taken


@dataclass(frozen=True, kw_only=True)
class View:
    """A part of an image: top, left, height and width as shares of it, perhaps mirrored."""

    box_yxhw: tuple[float, float, float, float]
    flip: bool = False


def views_of(word: str, height: int, width: int, *, fit: Fit, seed: int, key: str) -> list[View]:
    """The views that `full`, `tencrop` or `crops:<k>` name, of an image of this size in px.

    full: the whole frame, which is the image's centre square (`crop`) or all of it (`square`, as ViT-VQGAN was
    trained). tencrop: the frame's centre, which stands for it in tests, and
    corners, then those mirrored. crops:<k>: the frame, then k random crops
    mirrored at random, drawn by (seed, key), so that training sees more than one code of an image. Raises ConfigError.
    """
    frame = _frame(height, width, fit)
    if word == "full":
        return [View(box_yxhw=frame)]
    if word == "tencrop":
        return _ten(frame)
    if (count := crop_count(word)) is None:
        raise ConfigError(f"views={word}: choose full, tencrop or crops:<k>, k from 1 to 254")
    rng = rng_for(seed, "views", key)
    return [View(box_yxhw=frame), *(_random(rng, height, width, frame) for _ in range(count))]


def view_count(word: str) -> int:
    """How many views of an image the word names. Raises ConfigError."""
    return len(views_of(word, 1, 1, fit="crop", seed=0, key=""))


def crop_count(word: str) -> int | None:
    """k of `crops:<k>`; None for another word."""
    name, _, number = word.partition(":")
    good = name == "crops" and number.isascii() and number.isdecimal() and 1 <= int(number) <= 254
    return int(number) if good else None


def _frame(height: int, width: int, fit: Fit) -> tuple[float, float, float, float]:
    if fit == "square":
        return (0.0, 0.0, 1.0, 1.0)
    side = min(height, width)
    high, wide = side / height, side / width
    return ((1 - high) / 2, (1 - wide) / 2, high, wide)


def _ten(frame: tuple[float, float, float, float]) -> list[View]:
    top, left, high, wide = frame
    spare_y, spare_x = high * (1 - TEN), wide * (1 - TEN)
    places = [(0.5, 0.5), (0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]
    boxes = [(top + y * spare_y, left + x * spare_x, high * TEN, wide * TEN) for y, x in places]
    return [View(box_yxhw=box, flip=flip) for flip in (False, True) for box in boxes]


def _random(
    rng: np.random.Generator, height: int, width: int, frame: tuple[float, float, float, float]
) -> View:
    """Inception's crop: an area and a ratio drawn until they fit in (Szegedy et al. 2015)."""
    flip = bool(rng.random() < 0.5)
    for _ in range(TRIES):
        area = height * width * rng.uniform(*SCALE)
        ratio = float(np.exp(rng.uniform(np.log(RATIO[0]), np.log(RATIO[1]))))
        high, wide = (area / ratio) ** 0.5 / height, (area * ratio) ** 0.5 / width
        if high <= 1 and wide <= 1:
            return View(
                box_yxhw=(float(rng.uniform(0, 1 - high)), float(rng.uniform(0, 1 - wide)), high, wide),
                flip=flip,
            )
    return View(box_yxhw=frame, flip=flip)


def framed(image_HWC: Pixels, view: View, size: int) -> Pixels:
    """uint8 (size, size, 3): the view's part of the image, bicubic; the ratio of its sides is not kept."""
    from PIL import Image as pil

    height, width = image_HWC.shape[:2]
    top, left, high, wide = view.box_yxhw
    # Pillow refuses a box that a rounding error puts a hair outside.
    box = (
        max(0.0, left * width),
        max(0.0, top * height),
        min(float(width), (left + wide) * width),
        min(float(height), (top + high) * height),
    )
    drawn = np.asarray(pil.fromarray(image_HWC).resize((size, size), pil.Resampling.BICUBIC, box=box))
    return np.ascontiguousarray(drawn[:, ::-1] if view.flip else drawn)


@batch_stage(version=2, size=16)
def tokenize(
    samples: list[Sample],
    *,
    tokenizer: Ref[Files] | None = None,
    name: str = "",
    weights: str = "",
    size: int = 256,
    fit: Fit = "crop",
    views: str = "full",
    seed: int = 0,
    device: str = "cpu",
) -> list[Sample]:
    """Adds `tokens`, uint16 (V · h · w,): the tokenizer's own codes of each view; and for each view, one after the
    other, `view_boxes` float32 (V · 4,), top, left, height, width as shares of the image, and `view_flips` (V,).

    tokenizer: the files of one that was trained in this build; else `name`, as `models.tokenizer.load` takes it,
    whose weights must be `weights`. Raises SampleError for an image that does not decode, ConfigError for a tokenizer
    that is not known, whose weights are others or that takes no images of this size.
    """
    model = model_of(tokenizer, name, weights=weights, device=device)
    return [sample | _coded(sample, model, size=size, fit=fit, views=views, seed=seed) for sample in samples]


def model_of(tokenizer: Ref[Files] | None, name: str, *, weights: str = "", device: str = "cpu") -> Tokenizer:
    """The tokenizer that was trained in this build, or the one of this name. Raises ConfigError where its weights are
    not `weights`, if those are given.
    """
    if tokenizer is not None:
        return tokenizers.of_files(tokenizer.value, device=device)
    model = tokenizers.load(name, device=device)
    if weights and model.weights != weights:
        raise ConfigError(f"the weights of {name} changed since the build was planned; run it again")
    return model


def _coded(sample: Sample, model: Tokenizer, *, size: int, fit: Fit, views: str, seed: int) -> Sample:
    image_HWC = sample["image"].array
    height, width = image_HWC.shape[:2]
    chosen = views_of(views, height, width, fit=fit, seed=seed, key=sample["__key__"])
    # View by view: the pixels of a hundred crops at once would be a hundred images.
    codes = [model.encode(framed(image_HWC, view, size)[None])[0] for view in chosen]
    return {
        "tokens": np.stack(codes).reshape(-1),
        "view_boxes": np.asarray([view.box_yxhw for view in chosen], np.float32).reshape(-1),
        "view_flips": np.asarray([view.flip for view in chosen], np.uint8),
    }


@reduce(version=1)
def token_files(
    rows: Rows,
    *,
    tokenizer: Ref[Files] | None = None,
    name: str = "",
    size: int = 256,
    fit: Fit = "crop",
    views: str = "full",
    codec: str = "pco",
    per_block: int = 256,
    keep_unused: bool = False,
    classes: Ref[list[str]] | None = None,
) -> Files:
    """The token folder of all rows: every view of every image, packed; with the tokenizer's own files where it was
    trained here, so that the folder decodes to pixels by itself.

    classes: `class_name` becomes the row's label among them, -1 without. Raises StageError where a row has no tokens.
    """
    model = model_of(tokenizer, name)
    grid = model.encode(np.zeros((1, size, size, 3), np.uint8)).shape[1:]
    tokens_NVHW = token_column(rows, (grid[0], grid[1]))
    count, views_each = tokens_NVHW.shape[:2]
    table = rows.table(["__key__", "view_boxes", "view_flips"])
    keys = table["__key__"].to_pylist()
    several = views_each > 1
    return Files(
        pack(
            tokens_NVHW.reshape(count * views_each, *grid),
            [key for key in keys for _ in range(views_each)],
            codes=model.codes,
            codec=codec,
            per_block=per_block,
            views=np.tile(np.arange(views_each, dtype=np.uint8), count),
            crops=fixed(table["view_boxes"], np.float32).reshape(-1, 4) if several else None,
            flips=fixed(table["view_flips"], np.uint8).reshape(-1).astype(bool) if several else None,
            labels=np.repeat(_labels(rows, classes.value), views_each) if classes else None,
            codebook_KD=model.codebook,
            keep_unused=keep_unused,
            class_names=tuple(classes.value) if classes else (),
            extra=_files_of(tokenizer),
            about=_about(rows, model, size=size, fit=fit, views=views, images=count),
        )
    )


def token_column(rows: Rows, grid: tuple[int, int]) -> NDArray[np.uint16]:
    """uint16 (N, V, h, w) of the column `tokens`. Raises StageError where rows have none, or not as many as others."""
    flat_ND = fixed(rows.table(["tokens"])["tokens"], np.uint16)
    if flat_ND.shape[1] % (grid[0] * grid[1]):
        raise StageError(f"rows of {flat_ND.shape[1]} tokens are no grids of {grid[0]} x {grid[1]}")
    return flat_ND.reshape(len(flat_ND), -1, *grid)


def fixed(column: Any, dtype: Any) -> NDArray[Any]:
    """(N, length) of a column of lists of one length. Raises StageError where a row has none."""
    array = column.combine_chunks()
    if array.null_count:
        raise StageError(f"{array.null_count} rows have no tokens; tokenize all rows first")
    flat = np.asarray(array.flatten().to_numpy(zero_copy_only=False), dtype)
    return flat.reshape(len(array), -1)


def _labels(rows: Rows, classes: list[str]) -> NDArray[np.int64]:
    number = {name: at for at, name in enumerate(classes)}
    found = read_columns(rows, "class_name")["class_name"].to_pylist()
    return np.array([number.get(name or "", -1) for name in found], np.int64)


def _files_of(tokenizer: Ref[Files] | None) -> dict[str, bytes]:
    if tokenizer is None:
        return {}
    return {
        name: content if isinstance(content, bytes) else content.read_bytes()
        for name, content in tokenizer.value.items()
    }


def _about(
    rows: Rows, model: Tokenizer, *, size: int, fit: Fit, views: str, images: int
) -> Mapping[str, Any]:
    licences = [dict(catalog["licence"]) for catalog in rows.catalogs]
    sizes = read_columns(rows, "bytes")["bytes"]
    return {
        "tokenizer": {"name": model.name, "weights": model.weights, "patch": model.patch},
        "size": size,
        "fit": fit,
        "views": views,
        "images": images,
        "source_bytes": sum(value or 0 for value in sizes.to_pylist()),
        "licences": licences,
    }
