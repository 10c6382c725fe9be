"""What the `fg_ood` reference loop may be told: one frozen dataclass, checked when it is made, without torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from datakit.errors import ConfigError, did_you_mean

METHODS = ("ce", "ce_control", "oe", "mixoe_mixup", "mixoe_cutmix")
OUTLIER_METHODS = ("oe", "mixoe_mixup", "mixoe_cutmix")  # left out, with a note, where there are no outliers
DETECTORS = ("msp", "mls", "energy", "gen", "odin", "knn", "mahalanobis", "rmd", "vim")


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """Options of one run; the defaults take about 2.5 minutes a seed on one CPU thread for 2,500 training images.

    backbone    "cnn" (the small one here) or "timm:NAME"; `pretrained` asks timm for its weights
    size        px: images of another size are resized to size x size (bilinear, antialiased), all splits alike
    epochs      of the baseline; `finetune_epochs` of every method after it, each from the baseline's last weights
    lr          peak of the baseline's cosine, `finetune_lr` of the fine-tunes' (SGD, Nesterov momentum 0.9)
    hflip       random mirroring; off, because left and right may be two classes (a hand pointing left)
    methods     "ce" the baseline, "ce_control" as many further epochs of plain CE, "oe", "mixoe_mixup", "mixoe_cutmix"
    device      "auto" (CUDA if there is one, else CPU), "cpu", "cuda", "cuda:1"
    bootstrap   resamples of each AUROC interval
    """

    backbone: str = "cnn"
    pretrained: bool = False
    size: int = 48
    epochs: int = 15
    finetune_epochs: int = 4
    batch_size: int = 32
    lr: float = 0.1
    finetune_lr: float = 0.01
    weight_decay: float = 5e-4
    hflip: bool = False
    methods: tuple[str, ...] = METHODS
    detectors: tuple[str, ...] = DETECTORS
    device: str = "auto"
    bootstrap: int = 1000

    def __post_init__(self) -> None:
        _check_names("method", self.methods, METHODS)
        _check_names("detector", self.detectors, DETECTORS)
        for name in ("size", "epochs", "finetune_epochs", "batch_size", "lr", "finetune_lr", "bootstrap"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be above 0")
        if self.batch_size < 2:
            raise ConfigError("batch_size=1 leaves batch norm nothing to average; take 2 or more")
        if self.size < 16:
            raise ConfigError(f"size={self.size}: four halvings need 16 px or more")
        if self.backbone != "cnn" and not self.backbone.startswith("timm:"):
            raise ConfigError(f'backbone={self.backbone}: "cnn" or "timm:NAME", as timm:resnet18')
        if self.backbone == "cnn" and self.pretrained:
            raise ConfigError("pretrained=true needs a timm backbone: the small CNN has no published weights")

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"methods": list(self.methods), "detectors": list(self.detectors)}


def _check_names(what: str, given: tuple[str, ...], known: tuple[str, ...]) -> None:
    if not given:
        raise ConfigError(f"no {what}s given: choose from {', '.join(known)}")
    if len(set(given)) < len(given):
        raise ConfigError(f"a {what} is listed twice in {', '.join(given)}")
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ConfigError(f"unknown {what} {name}{hint or ': choose from ' + ', '.join(known)}")
