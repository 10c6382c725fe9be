"""A tokenizer made of two nets with a code between them, run one image at a time.

In float32 on the CPU, one image a run, so that an image's tokens do not depend on its neighbours. Other versions of
torch, or another kind of processor, may turn a vector that lies between two codes to the other. On CUDA the same, one
image a run: not run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from datakit.models.token_maps import check_sides, check_tokens

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Tokens = NDArray[np.uint16]
    Floats = NDArray[np.float32]
    Codes = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class NetTokenizer:
    """Nets and code of one tokenizer; the first five fields as `Tokenizer` has them.

    codebook   float32 (codes, D), what `decoder` is given; summed over levels
    encoder    pixels (1, 3, H, W) → vectors (1, D', h, w)
    coder      vectors (N, D') → codes (N,), or (levels, N)
    decoder    vectors (1, D, h, w) → pixels (1, 3, H, W)
    lowest     what a black pixel is to the nets; a white one is 1
    levels     of tokens, one below the other
    grid       (h, w) of tokens, where they are no map of the image
    """

    name: str
    weights: str
    codes: int
    patch: int
    size: int
    codebook: Floats
    encoder: Callable[[Any], Any]
    coder: Callable[[Floats], Codes]
    decoder: Callable[[Any], Any]
    device: torch.device
    lowest: float = -1.0
    levels: int = 1
    grid: tuple[int, int] | None = None

    def encode(self, images_NHWC: Pixels) -> Tokens:
        check_sides(images_NHWC, self.name, patch=self.patch, size=self.size)
        n, height, width, _ = images_NHWC.shape
        h, w = self.grid or (height // self.patch, width // self.patch)
        maps = [self.coder(self._vectors(image)).reshape(self.levels * h, w) for image in images_NHWC]
        return np.array(maps, dtype=np.uint16).reshape(n, self.levels * h, w)

    def decode(self, tokens_NHW: Tokens) -> Pixels:
        grid = self.grid or ((self.size // self.patch,) * 2 if self.size else None)
        check_tokens(tokens_NHW, self.name, codes=self.codes, grid=grid, levels=self.levels)
        n, rows, w = tokens_NHW.shape
        h = rows // self.levels
        height, width = (self.size, self.size) if self.size else (h * self.patch, w * self.patch)
        images = [self._pixels(tokens.reshape(self.levels, h, w)) for tokens in tokens_NHW]
        return np.array(images, dtype=np.uint8).reshape(n, height, width, 3)

    def _vectors(self, image_HWC: Pixels) -> Floats:
        span = 1 - self.lowest
        found = self._run(self.encoder, (image_HWC.astype(np.float32) * (span / 255) + self.lowest))
        return found.reshape(-1, found.shape[-1])

    def _pixels(self, tokens_QHW: Tokens) -> Pixels:
        found_HWC = self._run(self.decoder, self.codebook[tokens_QHW].sum(axis=0, dtype=np.float32))
        levels = np.rint((found_HWC - self.lowest) * (255 / (1 - self.lowest)))
        return np.asarray(np.clip(levels, 0, 255), dtype=np.uint8)

    def _run(self, net: Callable[[Any], Any], values_HWC: Floats) -> Floats:
        """float32 (h, w, D) of (H, W, C)."""
        import torch

        channels_first = np.ascontiguousarray(values_HWC.transpose(2, 0, 1), dtype=np.float32)
        with torch.inference_mode():
            found = net(torch.from_numpy(channels_first)[None].to(self.device))[0]
            values: Floats = found.float().permute(1, 2, 0).contiguous().cpu().numpy()
        return values
