"""Image classifiers that give features and logits: a small CNN for the CPU, or any timm backbone by name."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from datakit.errors import ConfigError, EnvironmentProblem, MissingExtra, did_you_mean
from datakit.train.runtime import seeded

CNN_WIDTHS = (32, 64, 128, 192)  # channels by stage; the last is the feature's length
PLAIN_MEAN, PLAIN_STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Classifier(nn.Module):
    """Trunk and linear head. Normalisation is inside, so that every split, mixed image and ODIN step gets the same
    one and `image_NCHW` is RGB in [0, 1] everywhere outside.
    """

    def __init__(
        self,
        trunk: nn.Module,
        dim: int,
        n_classes: int,
        *,
        mean: tuple[float, ...] = PLAIN_MEAN,
        std: tuple[float, ...] = PLAIN_STD,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(dim, n_classes)
        self.mean_C11: Tensor
        self.std_C11: Tensor
        self.register_buffer("mean_C11", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std_C11", torch.tensor(std).view(-1, 1, 1))

    def forward(self, image_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """RGB (N, 3, H, W) in [0, 1] to (feature_ND, logit_NK)."""
        feature_ND: Tensor = self.trunk((image_NCHW - self.mean_C11) / self.std_C11)
        return feature_ND, self.head(feature_ND)


class Residual(nn.Module):
    """Two 3x3 convolutions, the first halving the map, beside a pooled 1x1 shortcut (He et al. 2016, variant D)."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width_in, width_out, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(width_out, width_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(width_out),
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, ceil_mode=True),
            nn.Conv2d(width_in, width_out, 1, bias=False),
            nn.BatchNorm2d(width_out),
        )

    def forward(self, map_NCHW: Tensor) -> Tensor:
        out_NCHW: Tensor = self.body(map_NCHW) + self.shortcut(map_NCHW)
        return out_NCHW.relu()


class MeanPool(nn.Module):
    """(N, C, H, W) to (N, C). Not AdaptiveAvgPool2d, whose CUDA gradient is not deterministic."""

    def forward(self, map_NCHW: Tensor) -> Tensor:
        return map_NCHW.mean(dim=(2, 3))


def build(name: str, n_classes: int, *, seed: int, pretrained: bool = False) -> Classifier:
    """A fresh classifier; the same seed gives the same weights.

    name: "cnn", or "timm:NAME" with any timm model that takes the images' size.  Raises ConfigError for an unknown
    name, MissingExtra without timm, EnvironmentProblem if `pretrained` weights cannot be fetched.
    """
    with seeded(seed, "weights", name):
        if name == "cnn":
            return Classifier(small_cnn(), CNN_WIDTHS[-1], n_classes)
        return _timm_classifier(name.removeprefix("timm:"), n_classes, pretrained=pretrained)


def small_cnn() -> nn.Module:
    """Four stages, 48 px become 16, 8, 4, 2: 0.9 M weights. A stem with stride 3 rather than 2 halved the time of
    one CPU thread and lost nothing in trials on emoji.
    """
    stem = [
        nn.Conv2d(3, CNN_WIDTHS[0], 5, stride=3, padding=2, bias=False),
        nn.BatchNorm2d(CNN_WIDTHS[0]),
        nn.ReLU(inplace=True),
    ]
    stages = [Residual(a, b) for a, b in pairwise(CNN_WIDTHS)]
    # channels_last: 1.2 to 1.6 times faster on one thread
    return nn.Sequential(*stem, *stages, MeanPool()).to(memory_format=torch.channels_last)


def _timm_classifier(name: str, n_classes: int, *, pretrained: bool) -> Classifier:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise MissingExtra(f"the backbone timm:{name}", "torch") from error
    if not timm.is_model(name):
        raise ConfigError(f"timm has no model {name}{did_you_mean(name, timm.list_models())}")
    try:
        # timm's models are typed as bare modules; `num_classes=0` leaves pooled features of this length
        trunk: Any = timm.create_model(name, pretrained=pretrained, num_classes=0)
    # which exceptions a failed download raises depends on timm's and the hub client's versions
    except Exception as error:
        if not pretrained:
            raise
        raise EnvironmentProblem(
            f"the weights of timm:{name} cannot be had ({type(error).__name__}: {error}); "
            "put them in Hugging Face's cache, or run with pretrained=false"
        ) from error
    dim = int(getattr(trunk, "head_hidden_size", trunk.num_features))
    config = trunk.pretrained_cfg or {}
    mean, std = config.get("mean", IMAGENET_MEAN), config.get("std", IMAGENET_STD)
    return Classifier(trunk, dim, n_classes, mean=tuple(mean), std=tuple(std))
