"""The Stem-Adapter: embedded token maps in front of an unchanged network for images (SeiT, section 3).

A convolution of kernel 4, stride 2 and padding 1 takes a map (d, 28, 28) to (D, 14, 14): 196 positions, what a ViT of
patch 16 has for images of 224 px. Everything behind its patch embedding stays what timm built.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

from datakit.errors import ConfigError


class StemAdapter(nn.Module):
    """(N, d, h, w) → (N, D, h/2, w/2), or flattened (N, hw/4, D) as a transformer takes its patches."""

    def __init__(self, dim: int, width: int, *, flat: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, width, kernel_size=4, stride=2, padding=1)
        self.flat = flat

    def forward(self, map_NDHW: Tensor) -> Tensor:
        found: Tensor = self.conv(map_NDHW)
        return found.flatten(2).transpose(1, 2) if self.flat else found


def token_model(name: str, *, dim: int, classes: int, side: int = 28) -> nn.Module:
    """The timm model `name`, made anew, behind a Stem-Adapter of `dim` channels: maps (N, dim, side, side) → logits.

    A ViT has its patch embedding replaced, and as many positions as the adapter gives; a ConvNet its stem (`stem` or
    `conv1`), where that ends in as many channels as the rest begins with. Raises ConfigError for another one.
    """
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes)
    except (RuntimeError, ValueError) as problem:
        raise ConfigError(f"timm makes no model {name}: {problem}") from problem
    if hasattr(model, "patch_embed") and hasattr(model, "pos_embed"):
        model = timm.create_model(
            name, pretrained=False, num_classes=classes, img_size=side // 2 * _patch(model)
        )
        width: Any = model.embed_dim
        model.patch_embed = StemAdapter(dim, int(width), flat=True)
        return model
    for stem in ("stem", "conv1"):
        found = getattr(model, stem, None)
        if isinstance(found, nn.Module):
            setattr(model, stem, StemAdapter(dim, _channels(found, name)))
            for after in ("maxpool",) if stem == "conv1" else ():
                setattr(model, after, nn.Identity())  # the map is small already
            return model
    raise ConfigError(f"the model {name} has no patch embedding and no stem that an adapter could stand for")


def _patch(model: nn.Module) -> int:
    size: Any = getattr(model.patch_embed, "patch_size", 16)
    return int(size[0] if isinstance(size, tuple) else size)


def _channels(stem: nn.Module, name: str) -> int:
    """What the rest of the network begins with."""
    convolutions = [module for module in stem.modules() if isinstance(module, nn.Conv2d)]
    if not convolutions:
        raise ConfigError(f"the stem of {name} has no convolution")
    return convolutions[-1].out_channels


class SmallNet(nn.Module):
    """A ConvNet that trains in seconds on a CPU: a Stem-Adapter, then four convolutions, the third of stride 2.

    For embedded tokens as they are; for pixels behind a pixel-unshuffle by `unshuffle`, so that both have one body.
    """

    def __init__(self, dim: int, classes: int, *, width: int = 32, unshuffle: int = 1) -> None:
        super().__init__()
        self.unshuffle = nn.PixelUnshuffle(unshuffle) if unshuffle > 1 else nn.Identity()
        self.stem = StemAdapter(dim * unshuffle**2, width)
        blocks: list[nn.Module] = [nn.BatchNorm2d(width), nn.ReLU()]
        for inner, outer, stride in ((width, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 1)):
            blocks += [nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU()]
        self.body = nn.Sequential(*blocks)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, map_NDHW: Tensor) -> Tensor:
        found: Tensor = self.body(self.stem(self.unshuffle(map_NDHW)))
        return torch.as_tensor(self.head(found.mean(dim=(2, 3))))
