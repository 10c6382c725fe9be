"""`vitvqgan:<file>`: the ViT-VQGAN of enhancing-transformers (MIT), the tokenizer that SeiT used.

Small: 8 layers of 512, base: 12 of 768; 256 px, patches of 8, 8,192 codes of 32 numbers, cosine (Yu et al. 2021).
Sizes are taken from the file's shapes; heads have 64 numbers. Images are 0 to 1, not normalised, and SeiT resized
them to a square without keeping their aspect. Both generations of the names of the last layers are known. Tested
on random weights of this layout only: no published file was at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING

from datakit.errors import ConfigError
from datakit.models import torch_net
from datakit.models.net_ops import as_map, as_rows, attend, conv, layer_norm, linear
from datakit.models.net_tokenizer import NetTokenizer
from datakit.models.published import check_layout, count, read_state, shape_of
from datakit.models.token_codes import nearest, unit
from datakit.models.tokenizer_files import check_codes

if TYPE_CHECKING:
    from torch import Tensor

    State = dict[str, Tensor]

HEAD = 64  # numbers of an attention head
OLDER = {
    "encoder.norm.": "encoder.transformer.norm.",
    "decoder.norm.": "decoder.transformer.norm.",
    "decoder.to_pixel.conv_out.": "decoder.to_pixel.1.",
}
BESIDE = ("loss.",)  # the discriminator and the perceptual net


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of one of the two transformers."""

    width: int
    depth: int
    inner: int  # heads * HEAD
    hidden: int


def load(path: Path, *, device: str = "cpu") -> NetTokenizer:
    """The tokenizer in this file. Raises ConfigError (another layout), MissingExtra."""
    name = f"vitvqgan:{path.name}"
    state, weights = read_state(path, name)
    state = {_today(key): tensor for key, tensor in state.items()}
    patch = shape_of(state, "encoder.to_patch_embedding.0.weight", 4, name)[2]
    codes, dim = shape_of(state, "quantizer.embedding.weight", 2, name)
    tokens = shape_of(state, "encoder.en_pos_embedding", 3, name)[1]
    side = isqrt(tokens)
    check_codes(codes)
    if side * side != tokens:
        raise ConfigError(f"tokenizer {name}: {tokens} positions are no square of patches")
    encoder, decoder = sizes(state, "encoder", name), sizes(state, "decoder", name)
    expected = layout(encoder, decoder, patch=patch, side=side, codes=codes, dim=dim)
    state = check_layout(state, expected, name, ignored=BESIDE)
    codebook = unit(state["quantizer.embedding.weight"].numpy())
    place = torch_net.pick_device(device)
    state = {key: tensor.to(place) for key, tensor in state.items()}
    return NetTokenizer(
        name=name,
        weights=weights,
        codes=codes,
        patch=patch,
        size=side * patch,
        codebook=codebook,
        encoder=partial(encode, state, encoder, patch, side),
        coder=partial(nearest, codebook_KD=codebook, cosine=True),
        decoder=partial(decode, state, decoder, patch, side),
        device=place,
        lowest=0.0,
    )


def sizes(state: State, part: str, name: str) -> Sizes:
    """Of the encoder or the decoder, as the shapes of its first layer tell."""
    first = f"{part}.transformer.layers.0"
    qkv, width = shape_of(state, f"{first}.0.fn.to_qkv.weight", 2, name)
    hidden = shape_of(state, f"{first}.1.fn.net.0.weight", 2, name)[0]
    if qkv % (3 * HEAD):
        raise ConfigError(
            f"tokenizer {name}: {first}.0.fn.to_qkv.weight of {qkv} rows are no heads of {HEAD}"
        )
    depth = count(state, f"{part}.transformer.layers.{{}}.0.norm.weight")
    return Sizes(width=width, depth=depth, inner=qkv // 3, hidden=hidden)


def layout(
    encoder: Sizes, decoder: Sizes, *, patch: int, side: int, codes: int, dim: int
) -> dict[str, tuple[int, ...]]:
    """Every tensor's name and shape."""
    found: dict[str, tuple[int, ...]] = {
        "encoder.en_pos_embedding": (1, side * side, encoder.width),
        "encoder.to_patch_embedding.0.weight": (encoder.width, 3, patch, patch),
        "encoder.to_patch_embedding.0.bias": (encoder.width,),
        "decoder.de_pos_embedding": (1, side * side, decoder.width),
        "decoder.to_pixel.1.weight": (decoder.width, 3, patch, patch),
        "decoder.to_pixel.1.bias": (3,),
        "quantizer.embedding.weight": (codes, dim),
        "pre_quant.weight": (dim, encoder.width),
        "pre_quant.bias": (dim,),
        "post_quant.weight": (decoder.width, dim),
        "post_quant.bias": (decoder.width,),
    }
    for part, size in (("encoder", encoder), ("decoder", decoder)):
        norms = [f"{part}.transformer.norm"]
        for layer in (f"{part}.transformer.layers.{at}" for at in range(size.depth)):
            norms += [f"{layer}.0.norm", f"{layer}.1.norm"]
            found[f"{layer}.0.fn.to_qkv.weight"] = (3 * size.inner, size.width)
            for name, rows, columns in (
                ("0.fn.to_out", size.width, size.inner),
                ("1.fn.net.0", size.hidden, size.width),
                ("1.fn.net.2", size.width, size.hidden),
            ):
                found |= {f"{layer}.{name}.weight": (rows, columns), f"{layer}.{name}.bias": (rows,)}
        for name in norms:
            found |= {f"{name}.weight": (size.width,), f"{name}.bias": (size.width,)}
    return found


def encode(state: State, size: Sizes, patch: int, side: int, x: Tensor) -> Tensor:
    """(1, 3, S, S), 0 to 1, to (1, dim, side, side)."""
    rows = as_rows(conv(state, "encoder.to_patch_embedding.0", x, stride=patch))
    rows = _transformer(state, "encoder", size, rows + state["encoder.en_pos_embedding"])
    return as_map(linear(state, "pre_quant", rows), side)


def decode(state: State, size: Sizes, patch: int, side: int, vectors: Tensor) -> Tensor:
    """(1, dim, side, side) of codes to (1, 3, S, S)."""
    from torch.nn import functional

    rows = linear(state, "post_quant", as_rows(vectors)) + state["decoder.de_pos_embedding"]
    cells = as_map(_transformer(state, "decoder", size, rows), side)
    last = "decoder.to_pixel.1"
    return functional.conv_transpose2d(cells, state[f"{last}.weight"], state[f"{last}.bias"], stride=patch)


def _transformer(state: State, part: str, size: Sizes, x: Tensor) -> Tensor:
    """Norms before the layers, tanh between the two of the MLP."""
    for layer in (f"{part}.transformer.layers.{at}" for at in range(size.depth)):
        qkv = linear(state, f"{layer}.0.fn.to_qkv", layer_norm(state, f"{layer}.0.norm", x))
        x = x + linear(state, f"{layer}.0.fn.to_out", attend(qkv, size.inner // HEAD))
        hidden = linear(state, f"{layer}.1.fn.net.0", layer_norm(state, f"{layer}.1.norm", x)).tanh()
        x = x + linear(state, f"{layer}.1.fn.net.2", hidden)
    return layer_norm(state, f"{part}.transformer.norm", x)


def _today(key: str) -> str:
    for before, after in OLDER.items():
        if key.startswith(before):
            return after + key.removeprefix(before)
    return key
