"""Resizing, and light random views of image batches: shift, optional mirroring, brightness and saturation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

SHIFT = 1 / 24  # of the side, each way: 2 px at 48
JITTER = 0.3  # brightness and saturation factors in 1 +- this
CHUNK = 512  # images resized at once

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Padded:
    """Images with their borders repeated outwards by `margin` px, ready for shifted crops of the first size."""

    images_NHWC: Images
    margin: int

    def __len__(self) -> int:
        return len(self.images_NHWC)


def resize(images_NHWC: Images, size: int) -> Images:
    """uint8 images to (N, size, size, 3), bilinear with antialiasing; those of that size come back as they are."""
    if images_NHWC.shape[1:3] == (size, size):
        return images_NHWC
    chunks = [images_NHWC[start : start + CHUNK] for start in range(0, len(images_NHWC), CHUNK)]
    return np.concatenate([_resize_chunk(chunk, size) for chunk in chunks])


def pad(images_NHWC: Images) -> Padded:
    """Room for shifts. Repeated borders rather than black: a white background stays one."""
    margin = max(1, round(images_NHWC.shape[1] * SHIFT))
    sides = ((0, 0), (margin, margin), (margin, margin), (0, 0))
    return Padded(np.pad(images_NHWC, sides, mode="edge"), margin)


def to_tensor(images_NHWC: Images, device: torch.device) -> Tensor:
    """uint8 (N, H, W, 3) to float (N, 3, H, W) in [0, 1], in channels_last memory as the images already lie."""
    image_NHWC = torch.tensor(images_NHWC).to(device)  # a copy: images may lie in read-only memory
    return image_NHWC.permute(0, 3, 1, 2).to(torch.float32) / 255


def views(source: Padded, rows_N: npt.NDArray[np.intp], rng: np.random.Generator, *, hflip: bool) -> Images:
    """A random shift of each chosen image, uint8 (N, H, W, 3)."""
    n, reach = len(rows_N), 2 * source.margin
    height, width = (side - reach for side in source.images_NHWC.shape[1:3])
    top_N, left_N = rng.integers(0, reach + 1, size=(2, n))
    y_NH, x_NW = top_N[:, None] + np.arange(height), left_N[:, None] + np.arange(width)
    if hflip:
        x_NW = np.where(rng.random(n)[:, None] < 0.5, x_NW[:, ::-1], x_NW)
    shifted_NHWC: Images = source.images_NHWC[rows_N[:, None, None], y_NH[:, :, None], x_NW[:, None, :]]
    return shifted_NHWC


def jitter(image_NCHW: Tensor, rng: np.random.Generator) -> Tensor:
    """Each image's brightness and saturation scaled by factors in 1 +- JITTER, clipped to [0, 1]."""
    factors_2N = rng.uniform(1 - JITTER, 1 + JITTER, size=(2, len(image_NCHW))).astype(np.float32)
    factors = torch.from_numpy(factors_2N).to(image_NCHW.device)
    bright_N111, vivid_N111 = factors[0].view(-1, 1, 1, 1), factors[1].view(-1, 1, 1, 1)
    grey_N1HW = image_NCHW.mean(dim=1, keepdim=True)
    return ((grey_N1HW + (image_NCHW - grey_N1HW) * vivid_N111) * bright_N111).clamp(0, 1)


def batch(
    source: Padded,
    rows_N: npt.NDArray[np.intp],
    rng: np.random.Generator,
    *,
    hflip: bool,
    device: torch.device,
) -> Tensor:
    """Augmented (N, 3, H, W) in [0, 1] on `device`. The same for ID and outliers: a difference would be a shortcut."""
    return jitter(to_tensor(views(source, rows_N, rng, hflip=hflip), device), rng)


def _resize_chunk(images_NHWC: Images, size: int) -> Images:
    image_NCHW = torch.tensor(images_NHWC).permute(0, 3, 1, 2).float()
    small_NCHW = F.interpolate(image_NCHW, size=(size, size), mode="bilinear", antialias=True)
    small_NHWC = small_NCHW.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return np.asarray(small_NHWC.numpy())
