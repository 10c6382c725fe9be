"""The quantisers of vector-quantize-pytorch as one module: what trains a codebook, whose numbers are then kept.

Codes are running means (decay) of the vectors that chose them, start as the k-means of the first batch, and are set
to vectors of the batch when too few choose them: without these a codebook collapses to a few codes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from vector_quantize_pytorch import FSQ, LFQ, ResidualVQ, VectorQuantize

from datakit.train.tokenizer_options import LEARNED, TokenizerOptions

ENTROPY = 0.03  # weight of LFQ's entropy loss: at the library's 0.1 it outweighs the pixels, at 0.01 most codes idle


class Quantizer(nn.Module):
    """(N, dim, h, w) float32 → vectors of codes with the gradient let through, codes int64, loss of its own."""

    def __init__(self, options: TokenizerOptions) -> None:
        super().__init__()
        settings = options.settings()
        self.kind = options.kind
        self.inner: Any
        if options.kind == "fsq":
            self.inner = FSQ(settings["levels"])
        elif options.kind == "lfq":
            self.inner = LFQ(
                dim=settings["dim"], commitment_loss_weight=options.commitment, entropy_loss_weight=ENTROPY
            )
        else:
            self.inner = _learned(options, settings["dim"])

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n, dim, h, w = vectors.shape
        with torch.autocast(vectors.device.type, enabled=False):
            rows = vectors.float().permute(0, 2, 3, 1).reshape(n, h * w, dim)
            found = self.inner(rows)
        coded, codes = found[0], found[1]
        extra = found[2].sum() if len(found) > 2 else vectors.new_zeros(())
        return coded.reshape(n, h, w, dim).permute(0, 3, 1, 2), codes.long(), extra

    def learned(self) -> dict[str, NDArray[np.float32]]:
        """The codebook (codes, dim) where one was learned."""
        if self.kind not in LEARNED:
            return {}
        layer = self.inner.layers[0] if self.kind == "rvq" else self.inner
        codebook: NDArray[np.float32] = layer._codebook.embed[0].detach().cpu().numpy()
        return {"codebook": codebook}


def _learned(options: TokenizerOptions, dim: int) -> nn.Module:
    chosen = (
        options.batch_size * (options.crop // options.patch) ** 2 / options.codes
    )  # of each code, in a step
    common: dict[str, Any] = {
        "dim": dim,
        "codebook_size": options.codes,
        "decay": options.decay,
        "kmeans_init": True,
        "threshold_ema_dead_code": options.revive * chosen,
        "commitment_weight": options.commitment,
        "rotation_trick": False,  # as good here, and its products are no faster
    }
    if options.kind == "rvq":
        # one codebook for all levels (Lee et al. 2022), so that a number means one vector
        levels: nn.Module = ResidualVQ(num_quantizers=options.quantizers, shared_codebook=True, **common)
        return levels
    found: nn.Module = VectorQuantize(use_cosine_sim=options.kind == "cosine_vq", **common)
    return found
