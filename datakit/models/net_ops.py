"""Layers as functions of a dict of tensors and a name: what nets of a known layout are run with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    State = Mapping[str, Tensor]

GROUPS = 32  # of every group norm in VQGAN and MaskGIT-VQ


def linear(state: State, name: str, x: Tensor) -> Tensor:
    from torch.nn import functional

    return functional.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def conv(state: State, name: str, x: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    from torch.nn import functional

    weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
    return functional.conv2d(x, weight, bias, stride=stride, padding=padding)


def layer_norm(state: State, name: str, x: Tensor) -> Tensor:
    from torch.nn import functional

    return functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def group_norm_silu(state: State, name: str, x: Tensor) -> Tensor:
    """silu(norm(x)), as before every convolution of these nets."""
    return _silu(group_norm(state, name, x))


def group_norm(state: State, name: str, x: Tensor) -> Tensor:
    from torch.nn import functional

    return functional.group_norm(x, GROUPS, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)


def attend(qkv: Tensor, heads: int) -> Tensor:
    """Self-attention of (1, N, 3 * width), queries, keys and values one after the other, to (1, N, width)."""
    from torch.nn import functional

    n = qkv.shape[1]
    q, k, v = qkv.reshape(1, n, 3, heads, -1).permute(2, 0, 3, 1, 4)
    found: Tensor = functional.scaled_dot_product_attention(q, k, v)
    return found.transpose(1, 2).reshape(1, n, -1)


def upsample(x: Tensor) -> Tensor:
    """Every pixel four times."""
    from torch.nn import functional

    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def as_rows(x: Tensor) -> Tensor:
    """(1, C, H, W) to (1, H * W, C)."""
    return x.flatten(2).transpose(1, 2)


def as_map(rows: Tensor, side: int) -> Tensor:
    """(1, side * side, C) to (1, C, side, side)."""
    return rows.transpose(1, 2).reshape(1, -1, side, side)


def _silu(x: Tensor) -> Tensor:
    from torch.nn import functional

    return functional.silu(x)
