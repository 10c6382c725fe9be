"""What every tokenizer asks of the images and token maps it is given, in one wording."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from datakit.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def check_images(images_NHWC: NDArray[Any], name: str) -> None:
    """Raises ConfigError unless uint8 (N, height, width, 3)."""
    if images_NHWC.dtype != np.uint8 or images_NHWC.ndim != 4 or images_NHWC.shape[3] != 3:
        raise ConfigError(
            f"{name}: images must be uint8 (N, height, width, 3), not {images_NHWC.dtype} {images_NHWC.shape}"
        )


def check_sides(images_NHWC: NDArray[Any], name: str, *, patch: int, size: int = 0) -> None:
    """Raises ConfigError unless images are uint8 RGB, size x size px, or of sides that are multiples of `patch`."""
    check_images(images_NHWC, name)
    _, height, width, _ = images_NHWC.shape
    if size and (height, width) != (size, size):
        raise ConfigError(f"tokenizer {name} takes {size} x {size} px, not {width} x {height}: resize first")
    if not size and (height % patch or width % patch or not height or not width):
        raise ConfigError(
            f"tokenizer {name} takes sides that are multiples of {patch} px, not {width} x {height}: "
            "resize or crop first"
        )


def check_tokens(
    tokens_NHW: NDArray[Any], name: str, *, codes: int, grid: tuple[int, int] | None = None, levels: int = 1
) -> None:
    """Raises ConfigError unless tokens are whole numbers below `codes`, maps of h = levels x rows (or of `grid`)."""
    if tokens_NHW.ndim != 3 or tokens_NHW.dtype.kind not in "ui" or 0 in tokens_NHW.shape[1:]:
        raise ConfigError(
            f"tokenizer {name}: tokens must be whole numbers (N, h, w), not {tokens_NHW.dtype} {tokens_NHW.shape}"
        )
    if grid and tokens_NHW.shape[1:] != grid:
        raise ConfigError(f"tokenizer {name} takes maps of {grid}, not {tokens_NHW.shape[1:]}")
    if tokens_NHW.shape[1] % levels:
        raise ConfigError(
            f"tokenizer {name}: {tokens_NHW.shape[1]} rows are not {levels} levels, one below the other"
        )
    if tokens_NHW.size and not 0 <= int(tokens_NHW.min()) <= int(tokens_NHW.max()) < codes:
        raise ConfigError(
            f"tokenizer {name} has codes 0 to {codes - 1}; the tokens have {tokens_NHW.min()} to {tokens_NHW.max()}"
        )
