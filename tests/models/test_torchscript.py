"""A user's TorchScript file as an encoder: its conventions held, other files refused."""

from __future__ import annotations

import hashlib
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datakit.errors import ConfigError, MissingExtra
from datakit.models.encoder import Encoder, load, weights_of
from datakit.rng import rng_for

torch = pytest.importorskip("torch")


class Mean(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
    """The mean of each channel; drops out while it trains."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(x.mean((2, 3)), 0.5, self.training)


class Flat(Mean):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((1, 2, 3))


class Whole(Mean):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.mean((2, 3)) > 0).long()


class Small(Mean):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(1, 3 * 32 * 32)


def saved(net: Any, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is to be replaced
        torch.jit.script(net).save(str(path))
    return path


def test_a_users_program_sees_normalised_pixels(tmp_path: Path) -> None:
    path = saved(Mean(), tmp_path / "m.pt")
    model = load(f"torchscript:{path}")
    assert isinstance(model, Encoder)
    assert (model.name, model.dim) == ("torchscript:m.pt", 3)
    assert model.weights == weights_of(f"torchscript:{path}") == hashlib.sha256(path.read_bytes()).hexdigest()
    grey = np.full((50, 80, 3), (0.485 * 255, 0.456 * 255, 0.406 * 255 + 0.225 * 255), np.uint8)
    assert np.allclose(model([grey]), [[0, 0, 1]], atol=0.02)
    pictures = [rng_for(i, "picture").integers(0, 256, (30 + i, 40, 3)).astype(np.uint8) for i in range(3)]
    assert model(pictures).tobytes() == np.concatenate([model([picture]) for picture in pictures]).tobytes()
    assert model([]).shape == (0, 3)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Flat(), r"its output must be float32 \(1, dim\)"),
        (Whole(), r"its output must be float32 \(1, dim\)"),
        (Small(), r"does not take float32 \(1, 3, 224, 224\): .*invalid for input"),
    ],
)
def test_a_program_of_another_shape_is_refused(tmp_path: Path, net: Any, message: str) -> None:
    path = saved(net, tmp_path / "m.pt")
    with pytest.raises(ConfigError, match=message):
        load(f"torchscript:{path}")


def test_a_file_that_is_no_program_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "state.pt")
    (tmp_path / "text.pt").write_bytes(b"no program")
    for name in ("state.pt", "text.pt"):
        with pytest.raises(ConfigError, match=f"{name} is no TorchScript file"):
            load(f"torchscript:{tmp_path / name}")
    with pytest.raises(ConfigError, match=r"gone\.pt: cannot read it: No such file"):
        load(f"torchscript:{tmp_path / 'gone.pt'}")


def test_without_torch_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match=r'"datakit\[torch\]"'):
        load(f"torchscript:{tmp_path / 'm.pt'}")
