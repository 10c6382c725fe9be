"""A tokenizer trained here: a small convolutional net to vectors, codes by formula, a net back to pixels.

Fully convolutional, so that any sides that are multiples of the patch are taken. The first layer folds 4 x 4 px into
channels (pixel unshuffle), since layers at full size would take 50 times as long on a CPU; each halving after it
doubles the patch: 4, 8, 16 px.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from datakit.errors import ConfigError, MissingExtra
from datakit.models import torch_net
from datakit.models.net_tokenizer import NetTokenizer
from datakit.models.token_codes import (
    finite_scalars,
    nearest,
    residual,
    scalar_codebook,
    sign_codebook,
    signs,
)
from datakit.models.tokenizer_files import TENSORS, TokenizerParts

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    Floats = NDArray[np.float32]
    Codes = NDArray[np.int64]

KINDS = ("cosine_vq", "vq", "fsq", "rvq", "lfq")
HALVINGS = {4: 0, 8: 1, 16: 2}  # patch → steps of stride 2 after the stem's 4 px


def of_parts(parts: TokenizerParts, *, device: str = "cpu") -> NetTokenizer:
    """The tokenizer of these files. Raises ConfigError (other tensors than its settings ask for), MissingExtra."""
    try:
        import torch
    except ImportError as problem:
        raise MissingExtra("a trained tokenizer", "torch") from problem
    settings, place = parts.settings, torch_net.pick_device(device)
    _check(settings)
    codebook = _codebook(parts)
    with torch.device("meta"):  # shapes alone: what the settings ask for is not there until the tensors agree
        net = build(settings)
    _fill(net, parts.tensors)
    net.to(place).eval()
    return NetTokenizer(
        name=f"trained-{settings['kind']}",
        weights=parts.weights,
        codes=int(settings["codes"]),
        patch=int(settings["patch"]),
        size=0,
        codebook=codebook,
        encoder=net["encoder"],
        coder=_coder(settings, codebook),
        decoder=net["decoder"],
        device=place,
        levels=int(settings["quantizers"]) if settings["kind"] == "rvq" else 1,
    )


def _coder(settings: Mapping[str, Any], codebook: Floats) -> Callable[[Floats], Codes]:
    kind = settings["kind"]
    if kind == "fsq":
        return partial(finite_scalars, levels=settings["levels"])
    if kind == "lfq":
        return signs
    if kind == "rvq":
        return partial(residual, codebook_KD=codebook, quantizers=int(settings["quantizers"]))
    return partial(nearest, codebook_KD=codebook, cosine=kind == "cosine_vq")


def build(settings: Mapping[str, Any]) -> nn.ModuleDict:
    """Encoder (N, 3, H, W) → (N, dim, H / patch, W / patch) and decoder back, values -1 to 1, with fresh weights."""
    from torch import nn

    channels, dim = int(settings["channels"]), int(settings["dim"])
    block, halvings = _block(channels), HALVINGS[int(settings["patch"])]
    blocks = [block() for _ in range(int(settings["blocks"]))]
    down: list[nn.Module] = [nn.PixelUnshuffle(4), nn.Conv2d(48, channels, 3, padding=1), block()]
    up: list[nn.Module] = [nn.Conv2d(dim, channels, 3, padding=1), *(block() for _ in blocks)]
    for _ in range(halvings):
        down += [nn.Conv2d(channels, channels, 4, stride=2, padding=1)]
        up += [nn.Conv2d(channels, channels * 4, 1), nn.PixelShuffle(2)]
    down += [*blocks, nn.SiLU(), nn.Conv2d(channels, dim, 1)]
    up += [block(), nn.SiLU(), nn.Conv2d(channels, 48, 3, padding=1), nn.PixelShuffle(4)]
    return nn.ModuleDict({"encoder": nn.Sequential(*down), "decoder": nn.Sequential(*up)})


def _block(channels: int) -> Callable[[], nn.Module]:
    from torch import Tensor, nn

    class Residual(nn.Module):
        """x + conv(conv(x)); the second starts at a tenth, which does what a norm would and costs nothing."""

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(channels, channels, 3, padding=1)
            self.second = nn.Conv2d(channels, channels, 3, padding=1)
            nn.init.normal_(self.second.weight, std=0.1 / (3 * channels**0.5))

        def forward(self, x: Tensor) -> Tensor:
            act = nn.functional.silu
            found: Tensor = x + self.second(act(self.first(act(x))))
            return found

    return Residual


def _check(settings: Mapping[str, Any]) -> None:
    """Raises ConfigError for settings that are missing, or of which no net is made."""
    for key, most in (("channels", 4096), ("dim", 4096), ("blocks", 64), ("quantizers", 16)):
        value = settings.get(key)
        if not isinstance(value, int) or not (0 if key == "blocks" else 1) <= value <= most:
            raise ConfigError(f"{TENSORS}: its settings name no {key} up to {most}, but {value}")
    levels = settings.get("levels")
    if not isinstance(levels, list) or not all(isinstance(level, int) and level > 1 for level in levels):
        raise ConfigError(f"{TENSORS}: its settings name no levels, but {levels}")
    if settings["patch"] not in HALVINGS:
        raise ConfigError(f"{TENSORS}: patch={settings['patch']} is none of {', '.join(map(str, HALVINGS))}")


def _codebook(parts: TokenizerParts) -> Floats:
    """Stored for those that learned one, else by formula."""
    settings = parts.settings
    codes, dim = int(settings["codes"]), int(settings["dim"])
    implicit = prod(settings["levels"]) if settings["kind"] == "fsq" else 1 << min(dim, 64)
    if settings["kind"] in ("fsq", "lfq") and implicit != codes:
        raise ConfigError(f"{TENSORS}: its settings make {implicit} codes, and name {codes}")
    if settings["kind"] == "fsq":
        found = scalar_codebook(settings["levels"])
    elif settings["kind"] == "lfq":
        found = sign_codebook(dim)
    else:
        found = np.asarray(parts.tensor("codebook", "float32", 2))
    if found.shape != (codes, dim) or not np.isfinite(found).all():
        raise ConfigError(
            f"{TENSORS}: the codebook is {found.shape}; {(codes, dim)} finite numbers are asked for"
        )
    return found


def _fill(net: nn.ModuleDict, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Copies the tensors in. Raises ConfigError naming the first that is missing or of another shape."""
    import torch

    wanted = net.state_dict()
    for name, tensor in wanted.items():
        array = tensors.get(name)
        if array is None or array.shape != tuple(tensor.shape) or array.dtype != np.float32:
            found = "it is not there" if array is None else f"it is {array.dtype} {array.shape}"
            raise ConfigError(f"{TENSORS}: tensor {name} must be float32 {tuple(tensor.shape)}, and {found}")
    net.load_state_dict({name: torch.from_numpy(np.array(tensors[name])) for name in wanted}, assign=True)
