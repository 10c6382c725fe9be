"""The plainest tokenizer: every patch becomes the nearest of K typical patches (k-means), without torch.

Vector quantisation of raw pixels (Gersho and Gray 1992): what a learned tokenizer has to beat, and one that is fitted
in seconds. Typical patches are whole numbers 0 to 255, so that all distances are whole numbers too and are computed
without rounding: the same image has the same tokens on every machine, in every batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from datakit.errors import ConfigError
from datakit.models.token_maps import check_sides, check_tokens
from datakit.models.tokenizer_files import TENSORS, TokenizerParts, check_codes, write_parts
from datakit.rng import rng_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Tokens = NDArray[np.uint16]
    Floats = NDArray[np.float32]

PER_CODE = 64  # patches drawn for each code; more hardly move the means
ROUNDS = 30  # of k-means, at most
ROWS = 4096  # patches compared at once: 8 MB at 512 codes
EXACT = 2**24  # float32 holds every whole number up to it


@dataclass(frozen=True, kw_only=True)
class Patches:
    """codes_KP: uint8 (K, patch * patch * 3), each a patch in the order y, x, RGB."""

    codes_KP: Pixels
    patch: int
    weights: str
    name: str = "patches"
    size: int = 0

    @property
    def codes(self) -> int:
        return len(self.codes_KP)

    @property
    def codebook(self) -> Floats:
        """float32 (K, patch * patch * 3), -1 to 1."""
        return np.asarray(self.codes_KP / np.float32(127.5) - 1, dtype=np.float32)

    def encode(self, images_NHWC: Pixels) -> Tokens:
        check_sides(images_NHWC, self.name, patch=self.patch)
        n, height, width, _ = images_NHWC.shape
        tokens = [_nearest(_cut(image[None], self.patch), self.codes_KP) for image in images_NHWC]
        shape = (n, height // self.patch, width // self.patch)
        return np.concatenate([np.empty(0, np.uint16), *tokens]).reshape(shape)

    def decode(self, tokens_NHW: Tokens) -> Pixels:
        check_tokens(tokens_NHW, self.name, codes=self.codes)
        n, h, w = tokens_NHW.shape
        patches = self.codes_KP[tokens_NHW].reshape(n, h, w, self.patch, self.patch, 3)
        return patches.transpose(0, 1, 3, 2, 4, 5).reshape(n, h * self.patch, w * self.patch, 3)


def fit_patches(images_NHWC: Pixels, *, codes: int = 512, patch: int = 8, seed: int) -> dict[str, bytes]:
    """The two files of a patch tokenizer learned from uint8 (N, H, W, 3), sides a multiple of `patch`.

    Patches are drawn by the seed, 64 a code. Raises ConfigError where there are fewer different patches than codes,
    MissingExtra without safetensors.
    """
    check_codes(codes)
    check_sides(images_NHWC, "patches", patch=patch)
    drawn_NP = _drawn(images_NHWC, patch, codes * PER_CODE, rng_for(seed, "patches", codes, patch))
    different = len(np.unique(drawn_NP, axis=0))
    if different < codes:
        raise ConfigError(
            f"codes={codes}, but there are {different} different patches to learn from: "
            "take fewer codes or more images"
        )
    means_KP, rounds = _means(drawn_NP, codes, seed)
    return write_parts(
        {"kind": "patches", "codes": codes, "dim": patch * patch * 3, "patch": patch},
        {"codes": np.clip(np.rint(means_KP), 0, 255).astype(np.uint8)},
        {
            "fitted": {"images": len(images_NHWC), "patches": len(drawn_NP), "rounds": rounds, "seed": seed},
            "versions": _versions(),
        },
    )


def of_parts(parts: TokenizerParts) -> Patches:
    """The tokenizer of these files. Raises ConfigError where the codes are not patches."""
    patch, codes = int(parts.settings["patch"]), int(parts.settings["codes"])
    codes_KP = parts.tensor("codes", "uint8", 2)
    if patch < 1 or codes_KP.shape != (codes, patch * patch * 3):
        raise ConfigError(
            f"{TENSORS}: codes are {codes_KP.shape}, not {(codes, patch * patch * 3)} as its settings say"
        )
    return Patches(codes_KP=codes_KP, patch=patch, weights=parts.weights)


def _cut(images_NHWC: Pixels, patch: int) -> Pixels:
    """(patches, patch * patch * 3), row by row."""
    n, height, width, _ = images_NHWC.shape
    grid = images_NHWC.reshape(n, height // patch, patch, width // patch, patch, 3)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(-1, patch * patch * 3)


def _drawn(images_NHWC: Pixels, patch: int, count: int, rng: np.random.Generator) -> Pixels:
    """At most `count` patches of the grid, drawn without repeats; only the images they lie in are cut."""
    n, height, width, _ = images_NHWC.shape
    a_image = (height // patch) * (width // patch)
    chosen = np.sort(rng.choice(n * a_image, size=min(count, n * a_image), replace=False))
    images, starts = np.unique(chosen // a_image, return_index=True)
    groups = np.split(chosen % a_image, starts[1:])
    return np.concatenate(
        [_cut(images_NHWC[at : at + 1], patch)[group] for at, group in zip(images, groups, strict=True)]
    )


def _means(drawn_NP: Pixels, codes: int, seed: int) -> tuple[NDArray[np.floating[Any]], int]:
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped,unused-ignore]

    state = int(rng_for(seed, "patches", "k-means").integers(2**31))
    with threadpool_limits(1):  # sums are split by the number of threads
        fitted = KMeans(codes, n_init=1, max_iter=ROUNDS, random_state=state).fit(drawn_NP.astype(np.float32))
    return fitted.cluster_centers_, int(fitted.n_iter_)


def _nearest(patches_NP: Pixels, codes_KP: Pixels) -> Tokens:
    """Number of the nearest code, the lower of two as near; exact, since every term is a whole number that fits."""
    largest = 255 * 255 * codes_KP.shape[1] * 2
    dtype: type[np.floating[Any]] = np.float32 if largest <= EXACT else np.float64
    codes: NDArray[Any] = codes_KP.astype(dtype)
    squares_K = np.square(codes).sum(axis=1)
    found = [
        np.argmin(squares_K - 2 * (patches_NP[at : at + ROWS].astype(dtype) @ codes.T), axis=1)
        for at in range(0, len(patches_NP), ROWS)
    ]
    return np.concatenate(found).astype(np.uint16)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("numpy", "scikit-learn", "safetensors")}
