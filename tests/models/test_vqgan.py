"""VQGAN by its published layout, against a net written out in torch's own layers; other files refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datakit.errors import ConfigError
from datakit.models.tokenizer import Tokenizer, load, weights_of
from datakit.models.vqgan import Sizes, layout
from datakit.rng import rng_for

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

CODES, DIM, LATENT = 24, 8, 8


class Residual(nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(32, inputs, 1e-6), nn.GroupNorm(32, outputs, 1e-6)
        self.conv1, self.conv2 = (nn.Conv2d(n, outputs, 3, padding=1) for n in (inputs, outputs))
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Any) -> Any:
        inner = self.conv2(nn.functional.silu(self.norm2(self.conv1(nn.functional.silu(self.norm1(x))))))
        return inner + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, width, 1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Any) -> Any:
        normed = self.norm(x)
        q, k, v = (layer(normed).flatten(2) for layer in (self.q, self.k, self.v))
        weight = (torch.einsum("bci,bcj->bij", q, k) * x.shape[1] ** -0.5).softmax(dim=2)
        return x + self.proj_out(torch.einsum("bcj,bij->bci", v, weight).reshape(x.shape))


class Size(nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
    def __init__(self, inputs: int, outputs: int, count: int, attention: bool) -> None:
        super().__init__()
        widths = [inputs] + [outputs] * count
        self.block = nn.ModuleList(Residual(a, b) for a, b in pairwise(widths))
        self.attn = nn.ModuleList(Attention(outputs) for _ in range(count if attention else 0))

    def forward(self, x: Any) -> Any:
        for at, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[at](x)
        return x


def named(**children: Any) -> Any:
    found = nn.Module()
    for name, child in children.items():
        setattr(found, name, child)
    return found


class Whole(nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
    """Widths 32 and 64, a block a size, attention at the smaller: patches of 2 px."""

    def __init__(self, gumbel: bool) -> None:
        super().__init__()

        def middle() -> Any:
            return named(block_1=Residual(64, 64), attn_1=Attention(64), block_2=Residual(64, 64))

        self.gumbel = gumbel
        down, up = (
            [Size(32, 32, 1, False), Size(32, 64, 1, True)],
            [Size(64, 32, 2, False), Size(64, 64, 2, True)],
        )
        down[0].downsample = named(conv=nn.Conv2d(32, 32, 3, stride=2))
        up[1].upsample = named(conv=nn.Conv2d(64, 64, 3, padding=1))
        self.encoder = named(
            conv_in=nn.Conv2d(3, 32, 3, padding=1), down=nn.ModuleList(down), mid=middle(),
            norm_out=nn.GroupNorm(32, 64, 1e-6), conv_out=nn.Conv2d(64, LATENT, 3, padding=1),
        )  # fmt: skip
        self.decoder = named(
            conv_in=nn.Conv2d(LATENT, 64, 3, padding=1), mid=middle(), up=nn.ModuleList(up),
            norm_out=nn.GroupNorm(32, 32, 1e-6), conv_out=nn.Conv2d(32, 3, 3, padding=1),
        )  # fmt: skip
        self.quant_conv, self.post_quant_conv = nn.Conv2d(LATENT, DIM, 1), nn.Conv2d(DIM, LATENT, 1)
        self.quantize = named(embedding=nn.Embedding(CODES, DIM))
        if gumbel:
            self.quantize = named(proj=nn.Conv2d(LATENT, CODES, 1), embed=nn.Embedding(CODES, DIM))

    def vectors(self, x: Any) -> Any:
        net = self.encoder
        x = net.down[0](net.conv_in(x))
        x = net.down[1](net.down[0].downsample.conv(nn.functional.pad(x, (0, 1, 0, 1))))
        x = net.mid.block_2(net.mid.attn_1(net.mid.block_1(x)))
        return self.quant_conv(net.conv_out(nn.functional.silu(net.norm_out(x))))

    def codes(self, x: Any) -> Any:
        x = self.vectors(x)
        if self.gumbel:
            return self.quantize.proj(x).argmax(dim=1)
        apart = torch.cdist(x.flatten(2).transpose(1, 2), self.quantize.embedding.weight[None])
        return apart.argmin(dim=-1).reshape(len(x), *x.shape[2:])

    def pixels(self, codes: Any) -> Any:
        net, table = self.decoder, self.quantize.embed if self.gumbel else self.quantize.embedding
        x = net.conv_in(self.post_quant_conv(table(codes).permute(0, 3, 1, 2)))
        x = net.up[1](net.mid.block_2(net.mid.attn_1(net.mid.block_1(x))))
        x = net.up[1].upsample.conv(x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
        return net.conv_out(nn.functional.silu(net.norm_out(net.up[0](x))))


def whole(gumbel: bool = False) -> Any:
    torch.manual_seed(4)
    net = Whole(gumbel).eval()
    for tensor in net.parameters():
        tensor.data.normal_(0, 0.2)
    with torch.no_grad():  # codes where vectors are, so that many are used
        found = net.vectors(torch.rand(1, 3, 16, 16) * 2 - 1)
        if gumbel:
            net.quantize.proj.bias -= net.quantize.proj(found).mean((0, 2, 3))
        else:
            net.quantize.embedding.weight[:] = found.flatten(2)[0].T[:CODES] + 0.01
    return net


def saved(state: Any, path: Path) -> str:
    torch.save(state, path)
    return f"vqgan:{path}"


@pytest.mark.parametrize("gumbel", [False, True])
def test_codes_and_pixels_are_those_of_the_net_written_out(gumbel: bool, tmp_path: Path) -> None:
    net = whole(gumbel)
    name = saved({"state_dict": net.state_dict() | {"loss.x": torch.zeros(1)}}, tmp_path / "v.ckpt")
    model = load(name)
    assert isinstance(model, Tokenizer)
    assert (model.codes, model.patch, model.size, model.codebook.shape) == (CODES, 2, 0, (CODES, DIM))
    assert model.weights == weights_of(name)
    for sides in ((16, 16), (12, 20)):
        images = rng_for(sides[1], "vqgan").integers(0, 256, (2, *sides, 3)).astype(np.uint8)
        with torch.no_grad():
            codes = net.codes(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1)
            pixels = (net.pixels(codes).clamp(-1, 1) + 1).permute(0, 2, 3, 1).numpy() * 127.5
        tokens = model.encode(images)
        assert tokens.dtype == np.uint16 and (tokens == codes.numpy()).all()
        assert len(np.unique(tokens)) > 5
        assert np.abs(model.decode(tokens) - pixels).max() <= 0.51
        assert (model.encode(images[1:]) == tokens[1:]).all()
    with pytest.raises(ConfigError, match="multiples of 2 px, not 7 x 8"):
        model.encode(np.zeros((1, 8, 7, 3), np.uint8))


@pytest.mark.parametrize("gumbel", [False, True])
def test_the_layout_is_that_of_the_net(gumbel: bool) -> None:
    size = Sizes(
        widths=(32, 64), first=32, blocks=1, latent=LATENT, codes=CODES, dim=DIM, gumbel=gumbel,
        attention=(False, True), attention_up=(False, True),
    )  # fmt: skip
    assert layout(size) == {key: tuple(tensor.shape) for key, tensor in whole(gumbel).state_dict().items()}


def test_the_published_sizes_have_the_published_number_of_weights() -> None:
    # f16-1024: ch 128, ch_mult 1 1 2 2 4, 2 blocks, attention at 16 px, 256 latent numbers
    size = Sizes(
        widths=(128, 128, 256, 256, 512), first=128, blocks=2, latent=256, codes=1024, dim=256, gumbel=False,
        attention=(False,) * 4 + (True,), attention_up=(False,) * 4 + (True,),
    )  # fmt: skip
    found = layout(size)
    assert found["encoder.down.2.block.0.nin_shortcut.weight"] == (256, 128, 1, 1)
    assert found["decoder.up.4.attn.2.proj_out.weight"] == (512, 512, 1, 1)
    assert (
        "decoder.up.0.upsample.conv.weight" not in found
        and "encoder.down.4.downsample.conv.weight" not in found
    )


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("quant_conv.bias", None, r"has no tensor quant_conv\.bias, which should be \(8,\)"),
        ("quantize.embedding.weight", None, r"quantize\.embedding\.weight should have 2 axes, and is not in"),
        ("encoder.conv_in.weight", None, r"encoder\.conv_in\.weight should have 4 axes"),
        (
            "decoder.up.1.attn.1.q.weight",
            (64, 64),
            r"q\.weight is \(64, 64\), and should be \(64, 64, 1, 1\)",
        ),
        (
            "decoder.up.0.attn.0.k.weight",
            (1,),
            r"a tensor decoder\.up\.0\.attn\.0\.k\.weight, which this layout",
        ),
        ("encoder.conv_in.weight", (30, 3, 3, 3), "are no multiples of 32"),
        ("quantize.embedding.weight", (70_000, 1), "codes=70000: tokens are uint16"),
    ],
)
def test_a_file_of_another_layout_is_refused(tmp_path: Path, key: str, shape: Any, message: str) -> None:
    state = dict(whole().state_dict())
    state.pop(key, None)
    if shape:
        state[key] = torch.zeros(shape)
    with pytest.raises(ConfigError, match=message):
        load(saved(state, tmp_path / "v.pt"))


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    state = whole().state_dict()
    state["post_quant_conv.bias"][3] = torch.nan
    with pytest.raises(ConfigError, match=r"post_quant_conv\.bias holds NaN or infinity"):
        load(saved(state, tmp_path / "v.pt"))
