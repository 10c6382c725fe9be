"""The residual and attention blocks of VQGAN: the shapes of their tensors, and what they compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from datakit.models.net_ops import as_rows, conv, group_norm, group_norm_silu

if TYPE_CHECKING:
    from torch import Tensor

    State = Mapping[str, Tensor]
    Shapes = dict[str, tuple[int, ...]]


def blocks(state: State, name: str, count: int, attention: bool, x: Tensor) -> Tensor:
    """All blocks of one size, each followed by attention where that size has it."""
    for at in range(count):
        x = residual(state, f"{name}.block.{at}", x)
        if attention:
            x = self_attention(state, f"{name}.attn.{at}", x)
    return x


def middle(state: State, part: str, x: Tensor) -> Tensor:
    """Block, attention, block, at the smallest size."""
    x = residual(state, f"{part}.mid.block_1", x)
    x = self_attention(state, f"{part}.mid.attn_1", x)
    return residual(state, f"{part}.mid.block_2", x)


def residual(state: State, name: str, x: Tensor) -> Tensor:
    """x, or a 1 x 1 convolution of it where the width changes, plus two convolutions."""
    inner = conv(state, f"{name}.conv1", group_norm_silu(state, f"{name}.norm1", x), padding=1)
    inner = conv(state, f"{name}.conv2", group_norm_silu(state, f"{name}.norm2", inner), padding=1)
    if f"{name}.nin_shortcut.weight" in state:
        x = conv(state, f"{name}.nin_shortcut", x)
    return x + inner


def self_attention(state: State, name: str, x: Tensor) -> Tensor:
    """x plus attention over all places, one head as wide as x."""
    from torch.nn import functional

    normed = group_norm(state, f"{name}.norm", x)
    q, k, v = (as_rows(conv(state, f"{name}.{part}", normed)) for part in "qkv")
    found = functional.scaled_dot_product_attention(q[None], k[None], v[None])[0]
    return x + conv(state, f"{name}.proj_out", found.transpose(1, 2).reshape(x.shape))


def conv_shapes(name: str, inputs: int, outputs: int, side: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, side, side), f"{name}.bias": (outputs,)}


def norm_shapes(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def block_shapes(name: str, inputs: int, outputs: int) -> Shapes:
    found = norm_shapes(f"{name}.norm1", inputs) | norm_shapes(f"{name}.norm2", outputs)
    found |= conv_shapes(f"{name}.conv1", inputs, outputs, 3) | conv_shapes(
        f"{name}.conv2", outputs, outputs, 3
    )
    return found if inputs == outputs else found | conv_shapes(f"{name}.nin_shortcut", inputs, outputs, 1)


def attention_shapes(name: str, width: int) -> Shapes:
    found = norm_shapes(f"{name}.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        found |= conv_shapes(f"{name}.{part}", width, width, 1)
    return found


def size_shapes(name: str, inputs: int, outputs: int, count: int, attention: bool) -> Shapes:
    """Of all blocks of one size; the first of them changes the width."""
    found: Shapes = {}
    for at in range(count):
        found |= block_shapes(f"{name}.block.{at}", inputs if at == 0 else outputs, outputs)
        if attention:
            found |= attention_shapes(f"{name}.attn.{at}", outputs)
    return found
