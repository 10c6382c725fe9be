"""TiTok by its published layout, both families, against nets written out in torch's own layers; others refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datakit.errors import ConfigError
from datakit.models.tokenizer import Tokenizer, load, weights_of
from datakit.rng import rng_for

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

WIDTH, PATCH, SIDE, TOKENS, CODES, DIM = 64, 8, 2, 5, 30, 6


class Layer(nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, 1, batch_first=True)
        self.mlp = named(c_fc=nn.Linear(WIDTH, 4 * WIDTH), c_proj=nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Any) -> Any:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False)[0]
        return x + self.mlp.c_proj(nn.functional.gelu(self.mlp.c_fc(self.ln_2(x))))


class Block(nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
    """Of MaskGIT-VQ: no bias, and the shortcut of the output."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(32, inputs, 1e-6), nn.GroupNorm(32, outputs, 1e-6)
        self.conv1, self.conv2 = (nn.Conv2d(n, outputs, 3, padding=1, bias=False) for n in (inputs, outputs))
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(outputs, outputs, 1, bias=False)

    def forward(self, x: Any) -> Any:
        inner = self.conv2(nn.functional.silu(self.norm2(self.conv1(nn.functional.silu(self.norm1(x))))))
        return inner + (self.nin_shortcut(inner) if hasattr(self, "nin_shortcut") else x)


def named(**children: Any) -> Any:
    found = nn.Module()
    for name, child in children.items():
        setattr(found, name, child)
    return found


def half(**more: Any) -> Any:
    found = named(
        ln_pre=nn.LayerNorm(WIDTH), ln_post=nn.LayerNorm(WIDTH), transformer=nn.ModuleList([Layer(), Layer()]), **more
    )  # fmt: skip
    for name, shape in (
        ("class_embedding", (1, WIDTH)),
        ("positional_embedding", (SIDE**2 + 1, WIDTH)),
        ("latent_token_positional_embedding", (TOKENS, WIDTH)),
    ):
        found.register_parameter(name, nn.Parameter(torch.zeros(shape)))
    return found


class Whole(nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = first
        self.latent_tokens = nn.Parameter(torch.zeros(TOKENS, WIDTH))
        self.quantize = named(embedding=nn.Embedding(CODES, DIM))
        self.encoder = half(
            patch_embed=nn.Conv2d(3, WIDTH, PATCH, stride=PATCH), conv_out=nn.Conv2d(WIDTH, DIM, 1)
        )
        self.decoder = half(decoder_embed=nn.Linear(DIM, WIDTH))
        self.decoder.mask_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        if first:
            self.decoder.ffn = nn.Sequential(nn.Conv2d(WIDTH, 128, 1), nn.Tanh(), nn.Conv2d(128, 1024, 1))
            self.pixel_quantize = named(embedding=nn.Embedding(1024, 256))
            sizes = [Block(64, 32), Block(64, 64), Block(64, 64), Block(64, 64)]  # from whole to smallest
            up = nn.ModuleList(named(block=nn.ModuleList([block])) for block in sizes)
            for size, block in zip(up[1:], sizes[1:], strict=True):
                size.upsample_conv = nn.Conv2d(*[block.conv1.weight.shape[0]] * 2, 3, padding=1)
            self.pixel_decoder = named(
                conv_in=nn.Conv2d(256, 64, 3, padding=1), mid=nn.ModuleList([Block(64, 64)]), up=up,
                norm_out=nn.GroupNorm(32, 32, 1e-6), conv_out=nn.Conv2d(32, 3, 3, padding=1),
            )  # fmt: skip
        else:
            self.decoder.ffn = nn.Sequential(nn.Conv2d(WIDTH, PATCH**2 * 3, 1))
            self.decoder.conv_out = nn.Conv2d(3, 3, 3, padding=1)

    def vectors(self, x: Any) -> Any:
        """(N, DIM, tokens)."""
        net = self.encoder
        cells = net.patch_embed(x).flatten(2).transpose(1, 2)
        places = torch.cat([net.class_embedding.expand(len(x), 1, -1), cells], 1) + net.positional_embedding
        latent = (self.latent_tokens + net.latent_token_positional_embedding).expand(len(x), -1, -1)
        rows = net.ln_pre(torch.cat([places, latent], 1))
        for layer in net.transformer:
            rows = layer(rows)
        rows = net.ln_post(rows[:, -TOKENS:])
        folded = rows.reshape(len(x), WIDTH, TOKENS, 1) if self.first else rows.transpose(1, 2)[..., None]
        return net.conv_out(folded)[..., 0]

    def table(self) -> Any:
        weight = self.quantize.embedding.weight
        return nn.functional.normalize(weight, dim=-1) if self.first else weight

    def codes(self, x: Any) -> Any:
        rows = self.vectors(x).transpose(1, 2)
        rows = nn.functional.normalize(rows, dim=-1) if self.first else rows
        return torch.cdist(rows, self.table()[None]).argmin(dim=-1)

    def pixels(self, codes: Any) -> Any:
        net, n = self.decoder, len(codes)
        places = torch.cat([net.class_embedding[None], net.mask_token.expand(1, SIDE**2, -1)], 1)
        places = (places + net.positional_embedding).expand(n, -1, -1)
        rows = net.decoder_embed(self.table()[codes]) + net.latent_token_positional_embedding
        rows = net.ln_pre(torch.cat([places, rows], 1))
        for layer in net.transformer:
            rows = layer(rows)
        cells = net.ln_post(rows[:, 1 : SIDE**2 + 1]).transpose(1, 2).reshape(n, WIDTH, SIDE, SIDE)
        out = net.ffn(cells)
        if not self.first:
            grid = out.reshape(n, PATCH, PATCH, 3, SIDE, SIDE).permute(0, 3, 4, 1, 5, 2)
            return net.conv_out(grid.reshape(n, 3, PATCH * SIDE, PATCH * SIDE))
        net = self.pixel_decoder
        shares = out.softmax(1).permute(0, 2, 3, 1) @ self.pixel_quantize.embedding.weight
        x = net.mid[0](net.conv_in(shares.permute(0, 3, 1, 2)))
        for size in reversed(net.up):
            x = size.block[0](x)
            if hasattr(size, "upsample_conv"):
                x = size.upsample_conv(x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
        return net.conv_out(nn.functional.silu(net.norm_out(x)))


def whole(first: bool) -> Any:
    torch.manual_seed(6)
    net = Whole(first).eval()
    for tensor in net.parameters():
        tensor.data.normal_(0, 0.3)
    with torch.no_grad():  # codes where vectors are, so that many are used
        found = net.vectors(torch.from_numpy(pictures(6)).permute(0, 3, 1, 2) / 255)
        net.quantize.embedding.weight[:] = found.transpose(1, 2).flatten(0, 1)[:CODES] + 0.01
    return net


def pictures(count: int = 3) -> Any:
    cells = rng_for(0, "titok").integers(0, 256, (count, SIDE, SIDE, 3)).astype(np.uint8)
    return cells.repeat(PATCH, axis=1).repeat(PATCH, axis=2)


def saved(state: Any, path: Path) -> str:
    torch.save(state, path)
    return f"titok:{path}"


@pytest.mark.parametrize("first", [True, False])
def test_codes_and_pixels_are_those_of_the_net_written_out(first: bool, tmp_path: Path) -> None:
    net = whole(first)
    name = saved(net.state_dict(), tmp_path / "t.bin")
    model = load(name)
    assert isinstance(model, Tokenizer)
    assert (model.codes, model.patch, model.size, model.codebook.shape) == (CODES, 0, 16, (CODES, DIM))
    assert model.weights == weights_of(name)
    with torch.no_grad():
        codes = net.codes(torch.from_numpy(pictures()).permute(0, 3, 1, 2) / 255)
        pixels = (net.pixels(codes).clamp(0, 1) * 255).permute(0, 2, 3, 1).numpy()
    tokens = model.encode(pictures())
    assert tokens.dtype == np.uint16 and tokens.shape == (3, 1, TOKENS)
    assert (tokens[:, 0] == codes.numpy()).all() and len(np.unique(tokens)) > 5
    assert np.abs(model.decode(tokens) - pixels).max() <= 0.51
    assert (model.encode(pictures()[2:]) == tokens[2:]).all()
    assert model.encode(pictures()[:0]).shape == (0, 1, TOKENS)
    with pytest.raises(ConfigError, match="takes 16 x 16 px, not 24 x 16"):
        model.encode(np.zeros((1, 16, 24, 3), np.uint8))
    with pytest.raises(ConfigError, match=r"takes maps of \(1, 5\), not \(1, 4\)"):
        model.decode(tokens[:, :, :4])


def test_the_first_stage_alone_encodes_and_says_that_it_does_not_decode(tmp_path: Path) -> None:
    state = whole(True).state_dict()
    model = load(saved({k: v for k, v in state.items() if not k.startswith("pixel_")}, tmp_path / "t.bin"))
    tokens = model.encode(pictures())
    assert tokens.shape == (3, 1, TOKENS)
    with pytest.raises(ConfigError, match="holds the first stage alone"):
        model.decode(tokens)


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("latent_tokens", None, "latent_tokens should have 2 axes, and is not in the file"),
        ("decoder.mask_token", None, r"has no tensor decoder\.mask_token, which should be \(1, 1, 64\)"),
        ("encoder.positional_embedding", (7, 64), "6 places must be a square"),
        ("pixel_decoder.mid.0.conv1.weight", (64, 64, 1, 1), r"and should be \(64, 64, 3, 3\)"),
        ("pixel_decoder.up.0.attn.weight", (1,), "which this layout knows nothing of"),
    ],
)
def test_a_file_of_another_layout_is_refused(tmp_path: Path, key: str, shape: Any, message: str) -> None:
    state = dict(whole(True).state_dict())
    state.pop(key, None)
    if shape:
        state[key] = torch.zeros(shape)
    with pytest.raises(ConfigError, match=message):
        load(saved(state, tmp_path / "t.pt"))
