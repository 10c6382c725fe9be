"""Cosmos: two TorchScript programs of the published form; others refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datakit.errors import ConfigError
from datakit.models.tokenizer import Tokenizer, load, weights_of
from datakit.rng import rng_for

torch = pytest.importorskip("torch")


class Encoder(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
    """Codes: the mean of red in a cell of 8 px, 0 to 255; the vectors beside them are left alone."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full((1,), 127.5))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cells = torch.nn.functional.avg_pool2d(x, 8)
        return ((cells[:, 0] + 1) * self.scale).round().int(), cells


class Decoder(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
    """Grey cells; 16-bit weights, as the published files have them."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full((1,), 0.5, dtype=torch.bfloat16))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        grey = codes.float() / (255 * self.scale) - 1
        return grey[:, None].repeat_interleave(8, 2).repeat_interleave(8, 3).expand(-1, 3, -1, -1)


class Half(Encoder):
    """Takes what its weights are: bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.bfloat16()


class Continuous(Encoder):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.nn.functional.avg_pool2d(x, 8), x


class Many(Encoder):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((1, x.shape[2] // 8, x.shape[3] // 8), 64_000), x


class Flat(Encoder):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros((1, 5), dtype=torch.int64), x


class Broken(Encoder):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.view(3).int(), x


class Small(Decoder):
    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return torch.zeros((1, 3, 4, 4))


def pair(folder: Path, encoder: Any, decoder: Any) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is to be replaced
        torch.jit.script(encoder).save(str(folder / "encoder.jit"))
        torch.jit.script(decoder).save(str(folder / "decoder.jit"))
    return f"cosmos:{folder / 'encoder.jit'},{folder / 'decoder.jit'}"


def pictures() -> Any:
    cells = rng_for(0, "cosmos").integers(0, 256, (3, 4, 6, 1)).repeat(3, axis=3).astype(np.uint8)
    return cells.repeat(8, axis=1).repeat(8, axis=2)


def test_programs_see_pixels_from_minus_one_to_one_and_give_codes(tmp_path: Path) -> None:
    name = pair(tmp_path, Encoder(), Decoder())
    model = load(name)
    assert isinstance(model, Tokenizer)
    assert (model.name, model.codes, model.patch, model.size) == (
        "cosmos:encoder.jit,decoder.jit",
        64_000,
        8,
        0,
    )
    assert model.codebook.shape == (64_000, 6) and np.abs(model.codebook).max() == 1
    assert model.weights == weights_of(name) and len(model.weights) == 64
    tokens = model.encode(pictures())
    assert tokens.dtype == np.uint16 and (tokens == pictures()[:, ::8, ::8, 0]).all()
    assert (model.decode(tokens) == pictures()).all()
    assert (model.encode(pictures()[2:]) == tokens[2:]).all()
    assert model.encode(pictures()[:0]).shape == (0, 4, 6) and model.decode(tokens[:0]).shape == (
        0,
        32,
        48,
        3,
    )
    with pytest.raises(ConfigError, match="multiples of 8 px"):
        model.encode(pictures()[:, :30])
    with pytest.raises(ConfigError, match="has codes 0 to 63999"):
        model.decode(np.full((1, 2, 2), 64_000, np.uint16))


def test_a_program_runs_in_the_precision_it_was_saved_in(tmp_path: Path) -> None:
    model = load(pair(tmp_path, Half(), Decoder()))
    apart = np.abs(model.encode(pictures()).astype(int) - pictures()[:, ::8, ::8, 0])
    assert 0 < apart.max() <= 2  # 8 bits of a number are kept


@pytest.mark.parametrize(
    ("encoder", "decoder", "message"),
    [
        (Continuous(), Decoder(), r"a continuous tokenizer \(CI\) has no codes"),
        (Flat(), Decoder(), r"its encoder makes \(5,\) of 64 x 64 px"),
        (Broken(), Decoder(), "its encoder does not take torch.float32 "),
    ],
)
def test_programs_of_another_form_are_refused(
    tmp_path: Path, encoder: Any, decoder: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(pair(tmp_path, encoder, decoder))


def test_what_a_program_gives_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"from 64000 to 64000, not .* below 64000"):
        load(pair(tmp_path, Many(), Decoder())).encode(pictures())
    with pytest.raises(ConfigError, match=r"its decoder gave \(4, 4, 3\), not \(16, 16, 3\)"):
        load(pair(tmp_path, Encoder(), Small())).decode(np.zeros((1, 2, 2), np.uint16))


def test_files_that_are_no_programs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jit").write_bytes(b"no program")
    with pytest.raises(ConfigError, match=r"x\.jit is no TorchScript file"):
        load(f"cosmos:{tmp_path / 'x.jit'},{tmp_path / 'x.jit'}")
    with pytest.raises(ConfigError, match=r"cannot read .*gone"):
        load(f"cosmos:{tmp_path / 'gone'},{tmp_path / 'x.jit'}")
    with pytest.raises(ConfigError, match=r"cannot read .*gone"):
        weights_of(f"cosmos:{tmp_path / 'gone'},{tmp_path / 'x.jit'}")
    with pytest.raises(ConfigError, match="name two files"):
        load("cosmos:one")
