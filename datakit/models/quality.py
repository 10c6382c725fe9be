"""How near two images are, and what a tokenizer keeps of a set of them and at how many bits.

PSNR and SSIM (Wang et al. 2004) as scikit-image computes them by default, so that figures can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from datakit.errors import ConfigError
from datakit.models.token_maps import check_images

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from datakit.models.tokenizer import Tokenizer

    Pixels = NDArray[np.uint8]
    Floats = NDArray[np.float64]

WINDOW = 7  # px, the side of SSIM's window
SHARES = (0.01, 0.03)  # K1, K2 of SSIM: what keeps flat windows from dividing by nothing
EQUAL = (
    100.0  # dB an image counts in a mean where it came back without a difference; its own PSNR is infinite
)


def psnr(left_NHWC: Pixels, right_NHWC: Pixels) -> Floats:
    """Peak signal-to-noise ratio of each pair, dB of 255, float64 (N,); infinite for equal images.

    Raises ConfigError unless both are uint8 (N, height, width, 3) of one shape.
    """
    _check_pair(left_NHWC, right_NHWC)
    errors = np.array(
        [np.mean(np.square(left - right)) for left, right in _pairs(left_NHWC, right_NHWC)], dtype=np.float64
    )
    with np.errstate(divide="ignore"):
        return np.asarray(10 * np.log10(255.0**2 / errors), dtype=np.float64)


def ssim(left_NHWC: Pixels, right_NHWC: Pixels) -> Floats:
    """Mean structural similarity of each pair, at most 1, float64 (N,): windows of 7 x 7 px, mean of R, G and B.

    Raises ConfigError as `psnr`, and for sides below 7 px.
    """
    _check_pair(left_NHWC, right_NHWC)
    if min(left_NHWC.shape[1:3]) < WINDOW:
        _, height, width, _ = left_NHWC.shape
        raise ConfigError(f"SSIM looks at {WINDOW} x {WINDOW} px; images of {width} x {height} are too small")
    return np.array([_similarity(left, right) for left, right in _pairs(left_NHWC, right_NHWC)], np.float64)


def reconstruction(tokenizer: Tokenizer, images_NHWC: Pixels) -> dict[str, float | int]:
    """What comes back of these images, and what the tokens cost.

    psnr (dB, an equal image counts 100), ssim: means over images. codes, used: there are, and are seen here.
    perplexity: 2^bits_token. bits_token: order-0 entropy over all tokens here. tokens_image; bits_image = the two
    multiplied: a bound for coders that look at no neighbour, and low where the tokens are few for the codes.
    """
    tokens = tokenizer.encode(images_NHWC)
    if not len(tokens):
        raise ConfigError("no images: there is nothing to measure a tokenizer on")
    back_NHWC = tokenizer.decode(tokens)
    counts = np.bincount(tokens.reshape(-1), minlength=tokenizer.codes)
    shares = counts[counts > 0] / counts.sum()
    bits = max(0.0, float(-(shares * np.log2(shares)).sum()))
    return {
        "images": len(tokens),
        "psnr": float(np.minimum(psnr(images_NHWC, back_NHWC), EQUAL).mean()),
        "ssim": float(ssim(images_NHWC, back_NHWC).mean()),
        "codes": tokenizer.codes,
        "used": int((counts > 0).sum()),
        "perplexity": 2.0**bits,
        "bits_token": bits,
        "tokens_image": int(tokens[0].size),
        "bits_image": bits * tokens[0].size,
    }


def _check_pair(left: NDArray[Any], right: NDArray[Any]) -> None:
    check_images(left, "left images")
    check_images(right, "right images")
    if left.shape != right.shape:
        raise ConfigError(f"images {left.shape} and {right.shape} cannot be compared pixel by pixel")


def _pairs(left_NHWC: Pixels, right_NHWC: Pixels) -> Iterator[tuple[Floats, Floats]]:
    """One pair at a time, so that float64 of all is never held."""
    for left, right in zip(left_NHWC, right_NHWC, strict=True):
        yield left.astype(np.float64), right.astype(np.float64)


def _similarity(left_HWC: Floats, right_HWC: Floats) -> float:
    """Eq. 13 of the paper, covariances with n - 1, windows that lie wholly inside."""
    mean_l, mean_r = _window(left_HWC), _window(right_HWC)
    sample = WINDOW**2 / (WINDOW**2 - 1)
    var_l = sample * (_window(left_HWC**2) - mean_l**2)
    var_r = sample * (_window(right_HWC**2) - mean_r**2)
    both = sample * (_window(left_HWC * right_HWC) - mean_l * mean_r)
    c1, c2 = ((share * 255) ** 2 for share in SHARES)
    score = ((2 * mean_l * mean_r + c1) * (2 * both + c2)) / (
        (mean_l**2 + mean_r**2 + c1) * (var_l + var_r + c2)
    )
    edge = WINDOW // 2
    return float(score[edge:-edge, edge:-edge].mean())


def _window(values_HWC: Floats) -> Floats:
    from scipy.ndimage import uniform_filter

    return np.asarray(uniform_filter(values_HWC, (WINDOW, WINDOW, 1)), dtype=np.float64)
