"""A tokenizer learned from images: two small nets and a codebook, in about a minute on a CPU.

A VQ-VAE (van den Oord et al. 2017) with what keeps its codes in use: cosine distance (Yu et al. 2021), running means,
a start from k-means, and codes set anew when nothing chooses them. Importing this file costs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datakit.errors import ConfigError
from datakit.models.token_maps import check_images
from datakit.train.mrl import torch_loop
from datakit.train.tokenizer_options import TokenizerOptions

__all__ = ["TokenizerFit", "TokenizerOptions", "fit_tokenizer"]


@dataclass(frozen=True, kw_only=True)
class TokenizerFit:
    """files: tokenizer.json and tokenizer.safetensors, see `datakit.models.tokenizer.of_files`.

    history: step (from 1), loss, psnr (dB, of the crops, before the step), used and perplexity of a batch's codes,
    every twentieth of the steps.
    """

    files: dict[str, bytes]
    history: list[dict[str, float]]


def fit_tokenizer(
    images_NHWC: NDArray[np.uint8], *, options: TokenizerOptions | None = None, seed: int
) -> TokenizerFit:
    """Learn from random crops, half of them mirrored, of uint8 RGB (N, S, S, 3), S at least `options.crop`.

    Equal arguments give equal bytes on one machine's CPU: one thread, a fixed number of steps. Raises ConfigError
    (images too small), MissingExtra without torch, EnvironmentProblem (longer than `options.seconds`).
    """
    options = options or TokenizerOptions()
    check_images(images_NHWC, "training a tokenizer")
    if not len(images_NHWC) or min(images_NHWC.shape[1:3]) < options.crop:
        raise ConfigError(
            f"images {images_NHWC.shape}: crops of {options.crop} px need at least one image as large; "
            "take smaller crops"
        )
    loop = torch_loop("tokenizer_fit", "a tokenizer")
    files, history = loop.fit(images_NHWC, options, seed=seed)
    return TokenizerFit(files=files, history=history)
