"""`titok:<file>`: TiTok (Apache-2.0; Yu et al. 2024), an image as a row of 32 to 256 tokens that are no map of it.

256 px, 0 to 1; tokens (N, 1, count), patch 0. The first family (L-32, B-64, S-128: 4,096 codes of 12 numbers, unit
length) decodes to the codes of MaskGIT-VQ and from these to pixels: both stages are in a file whose decoder was
fine-tuned; one of the first stage alone encodes, and says so when asked to decode. The second family (8,192 codes)
decodes to pixels itself. The encoder of the first mixes tokens and channels when it folds its row: kept as trained.
Heads have 64 numbers. Tested on random weights of this layout only: no published file was at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from datakit.errors import ConfigError
from datakit.models import torch_net
from datakit.models.maskgit import decode_pixels, decoder_shapes
from datakit.models.net_ops import as_map, as_rows, attend, conv, layer_norm, linear
from datakit.models.net_tokenizer import NetTokenizer
from datakit.models.published import check_layout, count, read_state, shape_of
from datakit.models.token_codes import nearest, unit
from datakit.models.tokenizer_files import check_codes

if TYPE_CHECKING:
    from torch import Tensor

    State = dict[str, Tensor]

HEAD = 64  # numbers of an attention head
CODES_BETWEEN, DIM_BETWEEN = 1024, 256  # of MaskGIT-VQ


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """width, depth: (encoder, decoder). first: of the first family. pixels: its second stage is there."""

    width: tuple[int, int]
    depth: tuple[int, int]
    patch: int
    side: int
    tokens: int
    codes: int
    dim: int
    first: bool
    pixels: bool


def load(path: Path, *, device: str = "cpu") -> NetTokenizer:
    """The tokenizer in this file. Raises ConfigError (another layout), MissingExtra."""
    name = f"titok:{path.name}"
    state, weights = read_state(path, name)
    size = sizes(state, name)
    state = check_layout(state, layout(size, state), name)
    codebook = state["quantize.embedding.weight"].numpy()
    codebook = unit(codebook) if size.first else codebook
    place = torch_net.pick_device(device)
    state = {key: tensor.to(place) for key, tensor in state.items()}
    decoder: Callable[[Any], Any] = partial(decode, state, size)
    return NetTokenizer(
        name=name,
        weights=weights,
        codes=size.codes,
        patch=0,
        size=size.side * size.patch,
        codebook=codebook,
        encoder=partial(encode, state, size),
        coder=partial(nearest, codebook_KD=codebook, cosine=size.first),
        decoder=decoder if size.pixels else partial(_no_pixels, name),
        device=place,
        lowest=0.0,
        grid=(1, size.tokens),
    )


def sizes(state: State, name: str) -> Sizes:
    """As the shapes tell. Raises ConfigError where those that tell them are missing."""
    width, _, patch, _ = shape_of(state, "encoder.patch_embed.weight", 4, name)
    places = shape_of(state, "encoder.positional_embedding", 2, name)[0] - 1
    codes, dim = shape_of(state, "quantize.embedding.weight", 2, name)
    decoder = shape_of(state, "decoder.decoder_embed.weight", 2, name)[0]
    check_codes(codes)
    if isqrt(places) ** 2 != places or width % HEAD or decoder % HEAD:
        raise ConfigError(
            f"tokenizer {name}: {places} places must be a square, widths {width}, {decoder} heads of 64"
        )
    first = "decoder.ffn.2.weight" in state
    return Sizes(
        width=(width, decoder),
        depth=(_depth(state, "encoder"), _depth(state, "decoder")),
        patch=patch,
        side=isqrt(places),
        tokens=shape_of(state, "latent_tokens", 2, name)[0],
        codes=codes,
        dim=dim,
        first=first,
        pixels=not first or "pixel_decoder.conv_in.weight" in state,
    )


def layout(size: Sizes, state: State) -> dict[str, tuple[int, ...]]:
    """Every tensor's name and shape; `state` tells the widths of the second stage alone."""
    places, (wide, wide_back) = size.side**2 + 1, size.width
    found: dict[str, tuple[int, ...]] = {
        "latent_tokens": (size.tokens, wide),
        "quantize.embedding.weight": (size.codes, size.dim),
        "encoder.patch_embed.weight": (wide, 3, size.patch, size.patch),
        "encoder.patch_embed.bias": (wide,),
        "encoder.conv_out.weight": (size.dim, wide, 1, 1),
        "encoder.conv_out.bias": (size.dim,),
        "decoder.decoder_embed.weight": (wide_back, size.dim),
        "decoder.decoder_embed.bias": (wide_back,),
        "decoder.mask_token": (1, 1, wide_back),
    }
    for at, part in enumerate(("encoder", "decoder")):
        found[f"{part}.class_embedding"] = (1, size.width[at])
        found[f"{part}.positional_embedding"] = (places, size.width[at])
        found[f"{part}.latent_token_positional_embedding"] = (size.tokens, size.width[at])
        found |= _transformer_shapes(part, size.width[at], size.depth[at])
    last = size.patch**2 * 3
    ends = [
        ("decoder.ffn.0", 2 * wide_back, wide_back, 1),
        ("decoder.ffn.2", CODES_BETWEEN, 2 * wide_back, 1),
    ]
    if not size.first:
        ends = [("decoder.ffn.0", last, wide_back, 1), ("decoder.conv_out", 3, 3, 3)]
    for name, rows, columns, side in ends:
        found |= {f"{name}.weight": (rows, columns, side, side), f"{name}.bias": (rows,)}
    if size.first and size.pixels:
        found["pixel_quantize.embedding.weight"] = (CODES_BETWEEN, DIM_BETWEEN)
        found |= decoder_shapes(state, "pixel_decoder", DIM_BETWEEN)
    return found


def encode(state: State, size: Sizes, x: Tensor) -> Tensor:
    """(1, 3, S, S), 0 to 1, to (1, dim, 1, tokens)."""
    import torch

    cells = as_rows(conv(state, "encoder.patch_embed", x, stride=size.patch))
    places = (
        torch.cat([state["encoder.class_embedding"][None], cells], 1) + state["encoder.positional_embedding"]
    )
    latent = state["latent_tokens"] + state["encoder.latent_token_positional_embedding"]
    rows = _transformer(state, "encoder", size.depth[0], torch.cat([places, latent[None]], 1))
    rows = layer_norm(state, "encoder.ln_post", rows[:, size.side**2 + 1 :])
    # the first family reads the row as if channels came first
    folded = rows.reshape(1, -1, size.tokens) if size.first else rows.transpose(1, 2)
    return conv(state, "encoder.conv_out", folded[..., None]).reshape(1, size.dim, 1, size.tokens)


def decode(state: State, size: Sizes, vectors: Tensor) -> Tensor:
    """(1, dim, 1, tokens) of codes to (1, 3, S, S)."""
    import torch
    from torch.nn import functional

    masks = state["decoder.mask_token"].expand(1, size.side**2, -1)
    places = (
        torch.cat([state["decoder.class_embedding"][None], masks], 1) + state["decoder.positional_embedding"]
    )
    rows = linear(state, "decoder.decoder_embed", as_rows(vectors))
    rows = torch.cat([places, rows + state["decoder.latent_token_positional_embedding"]], 1)
    rows = _transformer(state, "decoder", size.depth[1], rows)[:, 1 : size.side**2 + 1]
    cells = conv(state, "decoder.ffn.0", as_map(layer_norm(state, "decoder.ln_post", rows), size.side))
    if not size.first:
        # the channels of a cell are its y, x, colour: pixel shuffle wants colour first
        cells = cells.reshape(1, -1, 3, size.side, size.side).transpose(1, 2).flatten(1, 2)
        return conv(state, "decoder.conv_out", functional.pixel_shuffle(cells, size.patch), padding=1)
    shares = conv(state, "decoder.ffn.2", cells.tanh()).softmax(dim=1)
    between = torch.einsum("nkhw,kd->ndhw", shares, state["pixel_quantize.embedding.weight"])
    return decode_pixels(state, "pixel_decoder", between)


def _no_pixels(name: str, vectors: Tensor) -> NoReturn:
    raise ConfigError(
        f"tokenizer {name}: the file holds the first stage alone, which makes codes of MaskGIT-VQ and no pixels; "
        "take the one whose decoder was fine-tuned"
    )


def _depth(state: State, part: str) -> int:
    return count(state, f"{part}.transformer.{{}}.ln_1.weight")


def _transformer(state: State, part: str, depth: int, x: Tensor) -> Tensor:
    from torch.nn import functional

    x = layer_norm(state, f"{part}.ln_pre", x)
    for layer in (f"{part}.transformer.{at}" for at in range(depth)):
        normed = layer_norm(state, f"{layer}.ln_1", x)
        weight, bias = state[f"{layer}.attn.in_proj_weight"], state[f"{layer}.attn.in_proj_bias"]
        attended = attend(functional.linear(normed, weight, bias), x.shape[-1] // HEAD)
        x = x + linear(state, f"{layer}.attn.out_proj", attended)
        hidden = functional.gelu(linear(state, f"{layer}.mlp.c_fc", layer_norm(state, f"{layer}.ln_2", x)))
        x = x + linear(state, f"{layer}.mlp.c_proj", hidden)
    return x


def _transformer_shapes(part: str, width: int, depth: int) -> dict[str, tuple[int, ...]]:
    norms, found = [f"{part}.ln_pre", f"{part}.ln_post"], dict[str, tuple[int, ...]]()
    for layer in (f"{part}.transformer.{at}" for at in range(depth)):
        norms += [f"{layer}.ln_1", f"{layer}.ln_2"]
        for name, rows, columns in (
            ("attn.in_proj_", 3 * width, width),
            ("attn.out_proj.", width, width),
            ("mlp.c_fc.", 4 * width, width),
            ("mlp.c_proj.", width, 4 * width),
        ):
            found |= {f"{layer}.{name}weight": (rows, columns), f"{layer}.{name}bias": (rows,)}
    return found | {f"{name}.{kind}": (width,) for name in norms for kind in ("weight", "bias")}
