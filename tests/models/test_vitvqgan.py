"""ViT-VQGAN by its published layout, against a net written out in torch's own layers; other files refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datakit.errors import ConfigError
from datakit.models.tokenizer import Tokenizer, load, weights_of
from datakit.models.vitvqgan import Sizes, layout
from datakit.rng import rng_for

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
from torch import nn  # noqa: E402

SIZE = Sizes(width=32, depth=2, inner=128, hidden=48)
PATCH, SIDE, CODES, DIM = 8, 4, 40, 6


class Attention(nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
    """Two heads of 64, by the softmax of the paper."""

    def __init__(self) -> None:
        super().__init__()
        self.to_qkv, self.to_out = nn.Linear(32, 384, bias=False), nn.Linear(128, 32)

    def forward(self, x: Any) -> Any:
        q, k, v = (part.unflatten(-1, (2, 64)).transpose(1, 2) for part in self.to_qkv(x).chunk(3, dim=-1))
        scores = (q @ k.transpose(-1, -2) / 8).softmax(dim=-1)
        return self.to_out((scores @ v).transpose(1, 2).flatten(2))


class Normed(nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
    def __init__(self, fn: Any) -> None:
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(32), fn

    def forward(self, x: Any) -> Any:
        return x + self.fn(self.norm(x))


class Mlp(nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(32, 48), nn.Tanh(), nn.Linear(48, 32))

    def forward(self, x: Any) -> Any:
        return self.net(x)


class Half(nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
    """Encoder or decoder: positions, layers, norm."""

    def __init__(self, positions: str) -> None:
        super().__init__()
        self.transformer = nn.Module()
        self.transformer.layers = nn.ModuleList(
            nn.ModuleList([Normed(Attention()), Normed(Mlp())]) for _ in range(2)
        )
        self.transformer.norm = nn.LayerNorm(32)
        setattr(self, positions, nn.Parameter(torch.zeros(1, 16, 32)))
        self._positions = positions

    def rows(self, x: Any) -> Any:
        x = x + getattr(self, self._positions)
        for attention, mlp in self.transformer.layers:
            x = mlp(attention(x))
        return self.transformer.norm(x)


class Whole(nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Half("en_pos_embedding"), Half("de_pos_embedding")
        self.encoder.to_patch_embedding = nn.Sequential(nn.Conv2d(3, 32, 8, stride=8))
        self.decoder.to_pixel = nn.Sequential(nn.Identity(), nn.ConvTranspose2d(32, 3, 8, stride=8))
        self.quantizer = nn.Module()
        self.quantizer.embedding = nn.Embedding(CODES, DIM)
        self.pre_quant, self.post_quant = nn.Linear(32, DIM), nn.Linear(DIM, 32)

    def vectors(self, x: Any) -> Any:
        rows = self.encoder.to_patch_embedding(x).flatten(2).transpose(1, 2)
        return self.pre_quant(self.encoder.rows(rows))

    def codes(self, x: Any) -> Any:
        rows = self.vectors(x)
        table = nn.functional.normalize(self.quantizer.embedding.weight, dim=-1)
        return torch.cdist(nn.functional.normalize(rows, dim=-1), table[None]).argmin(dim=-1)

    def pixels(self, codes: Any) -> Any:
        rows = self.post_quant(nn.functional.normalize(self.quantizer.embedding(codes), dim=-1))
        cells = self.decoder.rows(rows).transpose(1, 2).unflatten(2, (4, 4))
        return self.decoder.to_pixel(cells)


@pytest.fixture(scope="module")
def whole() -> Any:
    torch.manual_seed(3)
    net = Whole().eval()
    for tensor in net.parameters():
        tensor.data.normal_(0, 0.3)
    with torch.no_grad():  # codes where vectors are, so that many are used
        x = torch.from_numpy(pictures(3)).permute(0, 3, 1, 2) / 255
        net.quantizer.embedding.weight[:] = net.vectors(x).flatten(0, 1)[:CODES]
        net.quantizer.embedding.weight += 0.01 * torch.randn(CODES, DIM)
    return net


def pictures(count: int = 3) -> Any:
    """Flat cells, one a patch."""
    cells = rng_for(0, "vit pictures").integers(0, 256, (count, 4, 4, 3)).astype(np.uint8)
    return cells.repeat(8, axis=1).repeat(8, axis=2)


def saved(state: Any, path: Path) -> str:
    torch.save(state, path)
    return f"vitvqgan:{path}"


def test_codes_and_pixels_are_those_of_the_net_written_out(whole: Any, tmp_path: Path) -> None:
    name = saved({"state_dict": whole.state_dict() | {"loss.logvar": torch.zeros(3)}}, tmp_path / "v.ckpt")
    model = load(name)
    assert isinstance(model, Tokenizer)
    assert (model.codes, model.patch, model.size, model.codebook.shape) == (40, 8, 32, (40, 6))
    assert model.weights == weights_of(name)
    assert np.allclose(np.linalg.norm(model.codebook, axis=1), 1, atol=1e-6)
    x = torch.from_numpy(pictures()).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        codes = whole.codes(x)
        pixels = (whole.pixels(codes).clamp(0, 1) * 255).permute(0, 2, 3, 1).numpy()
    tokens = model.encode(pictures())
    assert tokens.dtype == np.uint16 and (tokens.reshape(3, 16) == codes.numpy()).all()
    assert len(np.unique(tokens)) > 5
    assert np.abs(model.decode(tokens) - pixels).max() <= 0.51
    assert (model.encode(pictures()[1:2]) == tokens[1:2]).all()


def test_older_names_and_safetensors_are_read_too(whole: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = whole.state_dict()
    older = {
        key.replace("coder.transformer.norm.", "coder.norm.").replace(
            "to_pixel.1.", "to_pixel.conv_out."
        ): value
        for key, value in state.items()
    }
    assert older.keys() != state.keys()
    save_file(older, tmp_path / "older.safetensors")
    one = load(f"vitvqgan:{tmp_path / 'older.safetensors'}")
    two = load(saved(state, tmp_path / "today.pt"))
    assert (one.encode(pictures()) == two.encode(pictures())).all()


def test_the_layout_is_that_of_the_net(whole: Any) -> None:
    found = layout(SIZE, SIZE, patch=PATCH, side=SIDE, codes=CODES, dim=DIM)
    assert found == {key: tuple(tensor.shape) for key, tensor in whole.state_dict().items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("pre_quant.bias", None), r"has no tensor pre_quant\.bias, which should be \(6,\)"),
        (
            ("quantizer.embedding.weight", None),
            r"quantizer\.embedding\.weight should have 2 axes, and is not in",
        ),
        (("pre_quant.bias", (7,)), r"pre_quant\.bias is \(7,\), and should be \(6,\)"),
        (("encoder.en_pos_embedding", (1, 15, 32)), "15 positions are no square"),
        (
            ("encoder.extra.weight", (2,)),
            r"a tensor encoder\.extra\.weight, which this layout knows nothing of",
        ),
        (("encoder.transformer.layers.0.0.fn.to_qkv.weight", (390, 32)), "no heads of 64"),
    ],
)
def test_a_file_of_another_layout_is_refused(whole: Any, tmp_path: Path, change: Any, message: str) -> None:
    key, shape = change
    state = dict(whole.state_dict())
    state.pop(key, None)
    if shape:
        state[key] = torch.zeros(shape)
    with pytest.raises(ConfigError, match=message):
        load(saved(state, tmp_path / "v.pt"))


def test_sides_and_maps_of_another_size_are_refused(whole: Any, tmp_path: Path) -> None:
    model = load(saved(whole.state_dict(), tmp_path / "v.pt"))
    with pytest.raises(ConfigError, match="takes 32 x 32 px, not 40 x 32: resize first"):
        model.encode(np.zeros((1, 32, 40, 3), np.uint8))
    with pytest.raises(ConfigError, match=r"takes maps of \(4, 4\), not \(4, 5\)"):
        model.decode(np.zeros((1, 4, 5), np.uint16))


class Harm:
    """What a pickle may do."""

    def __reduce__(self) -> Any:
        return (print, ("run",))


def test_what_is_pickled_beside_tensors_is_never_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}, "hyper": Harm()}, tmp_path / "harm.ckpt")
    with pytest.raises(ConfigError, match="holds more than tensors"):
        load(f"vitvqgan:{tmp_path / 'harm.ckpt'}")
    assert "run" not in capsys.readouterr().out
    torch.save({"a": torch.zeros(1)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    old = (tmp_path / "old.pt").read_bytes()
    for data in (b"", b"nothing", (tmp_path / "harm.ckpt").read_bytes()[:100], old[:60], old[:-9]):
        (tmp_path / "bad.pt").write_bytes(data)
        with pytest.raises(ConfigError, match="no PyTorch file"):
            load(f"vitvqgan:{tmp_path / 'bad.pt'}")
    torch.save({"state_dict": {"a": 3}}, tmp_path / "three.pt")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    for name, message in (
        ("three.pt", "a in the file is no tensor"),
        ("list.pt", "holds no dict of tensors"),
        ("bad.safetensors", "no safetensors file"),
        ("gone.pt", "cannot read"),
    ):
        with pytest.raises(ConfigError, match=message):
            load(f"vitvqgan:{tmp_path / name}")
