"""The decoder of MaskGIT-VQ: convolutions from a map of vectors to pixels, the second stage of TiTok's first family.

As VQGAN's without attention, with two quirks of the published weights: the convolutions of blocks have no bias, and
where a block changes the width its shortcut starts from the block's own output and not from its input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from datakit.models.net_ops import conv, group_norm_silu, upsample
from datakit.models.published import count
from datakit.models.vqgan_blocks import conv_shapes, norm_shapes

if TYPE_CHECKING:
    from torch import Tensor

    State = Mapping[str, Tensor]
    Shapes = dict[str, tuple[int, ...]]


def decode_pixels(state: State, name: str, vectors: Tensor) -> Tensor:
    """(1, latent, h, w) to (1, 3, H, W), 0 to 1."""
    x = conv(state, f"{name}.conv_in", vectors, padding=1)
    for at in range(count(state, f"{name}.mid.{{}}.conv1.weight")):
        x = _block(state, f"{name}.mid.{at}", x)
    for size in reversed(range(count(state, f"{name}.up.{{}}.block.0.conv1.weight"))):
        for at in range(count(state, f"{name}.up.{size}.block.{{}}.conv1.weight")):
            x = _block(state, f"{name}.up.{size}.block.{at}", x)
        if size:
            x = conv(state, f"{name}.up.{size}.upsample_conv", upsample(x), padding=1)
    return conv(state, f"{name}.conv_out", group_norm_silu(state, f"{name}.norm_out", x), padding=1)


def decoder_shapes(state: State, name: str, latent: int) -> Shapes:
    """Every tensor's name and shape, for the widths and numbers of blocks that `state` has."""
    sizes = count(state, f"{name}.up.{{}}.block.0.conv1.weight")
    firsts = [state[f"{name}.up.{at}.block.0.conv1.weight"] for at in range(sizes)]
    widths = [len(tensor) for tensor in firsts]
    width = widths[-1] if widths else 0
    found = conv_shapes(f"{name}.conv_in", latent, width, 3)
    for at in range(count(state, f"{name}.mid.{{}}.conv1.weight")):
        found |= _block_shapes(f"{name}.mid.{at}", width, width)
    for size in reversed(range(sizes)):
        for at in range(count(state, f"{name}.up.{size}.block.{{}}.conv1.weight")):
            found |= _block_shapes(f"{name}.up.{size}.block.{at}", width, widths[size])
            width = widths[size]
        if size:
            found |= conv_shapes(f"{name}.up.{size}.upsample_conv", width, width, 3)
    return found | norm_shapes(f"{name}.norm_out", width) | conv_shapes(f"{name}.conv_out", width, 3, 3)


def _block(state: State, name: str, x: Tensor) -> Tensor:
    inner = conv(state, f"{name}.conv1", group_norm_silu(state, f"{name}.norm1", x), padding=1)
    inner = conv(state, f"{name}.conv2", group_norm_silu(state, f"{name}.norm2", inner), padding=1)
    if f"{name}.nin_shortcut.weight" in state:
        x = conv(state, f"{name}.nin_shortcut", inner)
    return x + inner


def _block_shapes(name: str, inputs: int, outputs: int) -> Shapes:
    found = norm_shapes(f"{name}.norm1", inputs) | norm_shapes(f"{name}.norm2", outputs)
    found[f"{name}.conv1.weight"] = (outputs, inputs, 3, 3)
    found[f"{name}.conv2.weight"] = (outputs, outputs, 3, 3)
    if inputs != outputs:
        found[f"{name}.nin_shortcut.weight"] = (outputs, outputs, 1, 1)
    return found
