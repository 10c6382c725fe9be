"""What ImageNet-1k's training set would take as tokens, beside what SeiT publishes and what its JPEGs take."""

from __future__ import annotations

IMAGES = 1_281_167  # of ImageNet-1k's training set
TOKENS = 32 * 32  # an image, at 256 px and patches of 8 px
SEIT_BYTES = 1.4e9  # SeiT's published size of its token file (Park et al. 2023)
JPEG_BYTES = 140e9  # of the training set's JPEGs, as SeiT states it


def bytes_for(bits: float, *, images: int = IMAGES, tokens: int = TOKENS) -> float:
    """Bytes of that many images at `bits` a token: log2(391) = 8.611 for SeiT's 391 codes gives 1.412e9."""
    return images * tokens * bits / 8
