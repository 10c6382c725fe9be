"""`vqgan:<file>`: the VQGAN of taming-transformers (MIT; Esser et al. 2021), with nearest codes or with Gumbel's.

f16: 256 tokens of 256 px, 1,024 or 16,384 codes; f8: 1,024 tokens, 256 to 16,384 codes (latent-diffusion's vq-f8 has
the same layout). Sizes and places of attention are taken from the file. Images are -1 to 1, any sides that are
multiples of the patch. A Gumbel file samples while it trains; here its code is the likeliest. Checkpoints of
Lightning often pickle more than tensors and are then refused: save their state dict first. Tested on random weights
of this layout only: no published file was at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datakit.errors import ConfigError
from datakit.models import torch_net
from datakit.models.net_ops import GROUPS, conv, group_norm_silu, upsample
from datakit.models.net_tokenizer import NetTokenizer
from datakit.models.published import check_layout, count, read_state, shape_of
from datakit.models.token_codes import nearest
from datakit.models.tokenizer_files import check_codes
from datakit.models.vqgan_blocks import (
    attention_shapes,
    block_shapes,
    blocks,
    conv_shapes,
    middle,
    norm_shapes,
    size_shapes,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    State = dict[str, Tensor]

BESIDE = ("loss.",)  # the discriminator and the perceptual net
CODEBOOKS = {
    False: "quantize.embedding.weight",
    True: "quantize.embed.weight",
}  # by whether codes are Gumbel's


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """widths: channels of each size, from whole to smallest; attention: which of them have it, in each net."""

    widths: tuple[int, ...]
    first: int
    blocks: int
    latent: int
    codes: int
    dim: int
    gumbel: bool
    attention: tuple[bool, ...]
    attention_up: tuple[bool, ...]


def load(path: Path, *, device: str = "cpu") -> NetTokenizer:
    """The tokenizer in this file. Raises ConfigError (another layout), MissingExtra."""
    name = f"vqgan:{path.name}"
    state, weights = read_state(path, name)
    size = sizes(state, name)
    state = check_layout(state, layout(size), name, ignored=BESIDE)
    codebook: NDArray[np.float32] = state[CODEBOOKS[size.gumbel]].numpy()
    place = torch_net.pick_device(device)
    state = {key: tensor.to(place) for key, tensor in state.items()}
    by_distance: Callable[[Any], Any] = partial(nearest, codebook_KD=codebook)
    by_score: Callable[[Any], Any] = partial(np.argmax, axis=1)
    return NetTokenizer(
        name=name,
        weights=weights,
        codes=size.codes,
        patch=2 ** (len(size.widths) - 1),
        size=0,
        codebook=codebook,
        encoder=partial(encode, state, size),
        coder=by_score if size.gumbel else by_distance,
        decoder=partial(decode, state, size),
        device=place,
    )


def sizes(state: State, name: str) -> Sizes:
    """As the shapes and the numbers of the layers tell. Raises ConfigError where the first of them are missing."""
    gumbel = CODEBOOKS[True] in state
    codes, dim = shape_of(state, CODEBOOKS[gumbel], 2, name)
    check_codes(codes)
    depth = count(state, "encoder.down.{}.block.0.conv1.weight")
    first = shape_of(state, "encoder.conv_in.weight", 4, name)[0]
    widths = tuple(
        shape_of(state, f"encoder.down.{at}.block.0.conv1.weight", 4, name)[0] for at in range(max(depth, 1))
    )
    if any(width % GROUPS for width in (first, *widths)):
        raise ConfigError(f"tokenizer {name}: channels {(first, *widths)} are no multiples of {GROUPS}")
    return Sizes(
        widths=widths,
        first=first,
        blocks=count(state, "encoder.down.0.block.{}.conv1.weight"),
        latent=shape_of(state, "encoder.conv_out.weight", 4, name)[0],
        codes=codes,
        dim=dim,
        gumbel=gumbel,
        attention=tuple(f"encoder.down.{at}.attn.0.q.weight" in state for at in range(depth)),
        attention_up=tuple(f"decoder.up.{at}.attn.0.q.weight" in state for at in range(depth)),
    )


def layout(size: Sizes) -> dict[str, tuple[int, ...]]:
    """Every tensor's name and shape."""
    found: dict[str, tuple[int, ...]] = {CODEBOOKS[size.gumbel]: (size.codes, size.dim)}
    if size.gumbel:
        found |= conv_shapes("quantize.proj", size.latent, size.codes, 1)
    found |= conv_shapes("quant_conv", size.latent, size.dim, 1)
    found |= conv_shapes("post_quant_conv", size.dim, size.latent, 1)
    deepest = size.widths[-1]
    found |= conv_shapes("encoder.conv_in", 3, size.first, 3)
    found |= conv_shapes("encoder.conv_out", deepest, size.latent, 3)
    found |= conv_shapes("decoder.conv_in", size.latent, deepest, 3)
    found |= conv_shapes("decoder.conv_out", size.widths[0], 3, 3)
    found |= norm_shapes("encoder.norm_out", deepest) | norm_shapes("decoder.norm_out", size.widths[0])
    for part in ("encoder", "decoder"):
        for block in ("block_1", "block_2"):
            found |= block_shapes(f"{part}.mid.{block}", deepest, deepest)
        found |= attention_shapes(f"{part}.mid.attn_1", deepest)
    before = size.first
    for at, width in enumerate(size.widths):
        found |= size_shapes(f"encoder.down.{at}", before, width, size.blocks, size.attention[at])
        if at < len(size.widths) - 1:
            found |= conv_shapes(f"encoder.down.{at}.downsample.conv", width, width, 3)
        before = width
    for at, width in reversed(list(enumerate(size.widths))):
        found |= size_shapes(f"decoder.up.{at}", before, width, size.blocks + 1, size.attention_up[at])
        if at:
            found |= conv_shapes(f"decoder.up.{at}.upsample.conv", width, width, 3)
        before = width
    return found


def encode(state: State, size: Sizes, x: Tensor) -> Tensor:
    """(1, 3, H, W), -1 to 1, to vectors (1, dim, h, w), or Gumbel's scores (1, codes, h, w)."""
    from torch.nn import functional

    x = conv(state, "encoder.conv_in", x, padding=1)
    for at in range(len(size.widths)):
        x = blocks(state, f"encoder.down.{at}", size.blocks, size.attention[at], x)
        if at < len(size.widths) - 1:
            padded = functional.pad(x, (0, 1, 0, 1))  # right and below only, as these nets were trained
            x = conv(state, f"encoder.down.{at}.downsample.conv", padded, stride=2)
    x = group_norm_silu(state, "encoder.norm_out", middle(state, "encoder", x))
    vectors = conv(state, "encoder.conv_out", x, padding=1)
    vectors = conv(state, "quant_conv", vectors)
    return conv(state, "quantize.proj", vectors) if size.gumbel else vectors


def decode(state: State, size: Sizes, vectors: Tensor) -> Tensor:
    """(1, dim, h, w) of codes to (1, 3, H, W)."""
    x = conv(state, "decoder.conv_in", conv(state, "post_quant_conv", vectors), padding=1)
    x = middle(state, "decoder", x)
    for at in reversed(range(len(size.widths))):
        x = blocks(state, f"decoder.up.{at}", size.blocks + 1, size.attention_up[at], x)
        if at:
            x = conv(state, f"decoder.up.{at}.upsample.conv", upsample(x), padding=1)
    return conv(state, "decoder.conv_out", group_norm_silu(state, "decoder.norm_out", x), padding=1)
