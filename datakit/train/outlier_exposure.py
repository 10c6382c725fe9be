"""Losses that train with outliers: outlier exposure, and MixOE's mixtures of ID and outlier images.

U is the uniform distribution over the K classes, CE cross-entropy with a hard or soft target, o an outlier.
ID and outlier (or mixed) images go through the net in one forward pass: batch norm then sees one batch, where
separate passes made OE look bad (OpenOOD #138). MixOE's own code takes two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from datakit.errors import ConfigError
from datakit.rng import rng_for
from datakit.train.backbone import Classifier
from datakit.train.runtime import seeded


@dataclass(frozen=True)
class Recipe:
    """One method: what is made of the outliers, the Beta(alpha, alpha) of the mixing share, the extra loss' weight."""

    kind: str  # none | plain | mixup | cutmix
    alpha: float = 1.0
    beta: float = 0.0


RECIPES = {
    "ce": Recipe("none"),
    "ce_control": Recipe("none"),
    "oe": Recipe("plain", beta=1.0),  # as MixOE weighs OE; Hendrycks et al. 2019 take 0.5
    "mixoe_mixup": Recipe("mixup", alpha=1.0, beta=5.0),
    "mixoe_cutmix": Recipe("cutmix", alpha=2.0, beta=5.0),
}

# (model, image_NCHW, label_N, outlier_NCHW or None) to a scalar
Loss = Callable[[Classifier, Tensor, Tensor, Tensor | None], Tensor]


def loss_for(method: str, n_classes: int, *, seed: int) -> Loss:
    """The training loss of a method.

    ce, ce_control   CE(f(x), y)
    oe               CE(f(x), y) + beta CE(f(o), U)                     Hendrycks et al. 2019, eq. 1
    mixoe_*          CE(f(x), y) + beta CE(f(x~), l onehot(y) + (1-l) U), x~ mixed of x and o with share l;
                     one l ~ Beta(alpha, alpha) a batch                 Zhang et al. 2023, section 3

    All shares of a run come from one stream named by `seed` and the method.  Raises ConfigError for an unknown name.
    """
    if method not in RECIPES:
        raise ConfigError(f"unknown method {method}: choose from {', '.join(RECIPES)}")
    recipe = RECIPES[method]
    if recipe.kind == "none":
        return lambda model, image_NCHW, label_N, _: F.cross_entropy(model(image_NCHW)[1], label_N)
    shares = rng_for(seed, "mixing share", method)

    def loss(model: Classifier, image_NCHW: Tensor, label_N: Tensor, outlier_NCHW: Tensor | None) -> Tensor:
        if outlier_NCHW is None:
            raise ValueError(f"{method} needs outliers")
        uniform_NK = torch.full((len(outlier_NCHW), n_classes), 1 / n_classes, device=image_NCHW.device)
        extra_NCHW, target_NK = outlier_NCHW, uniform_NK
        if recipe.kind != "plain":
            onehot_NK = F.one_hot(label_N, n_classes).to(uniform_NK.dtype)
            draw = int(shares.integers(2**62))
            extra_NCHW, target_NK = mix(image_NCHW, onehot_NK, outlier_NCHW, recipe=recipe, draw=draw)
        _, logit_NK = model(torch.cat([image_NCHW, extra_NCHW]))
        id_NK, extra_NK = logit_NK.split([len(image_NCHW), len(extra_NCHW)])
        return F.cross_entropy(id_NK, label_N) + recipe.beta * F.cross_entropy(extra_NK, target_NK)

    return loss


def mix(
    image_NCHW: Tensor, onehot_NK: Tensor, outlier_NCHW: Tensor, *, recipe: Recipe, draw: int
) -> tuple[Tensor, Tensor]:
    """ID images mixed with outliers, and their soft targets: (mixed_NCHW, target_NK).

    mixup: l x + (1-l) o.  cutmix: a box of o pasted into x, l then the exact share of pixels left to x; the authors
    found that way round better.  Targets l onehot + (1-l) U in both.

    torchvision mixes every row with the one before it, so rows are laid x0 o0 x1 o1 ... and the even ones kept:
    x_i meets o_(i-1).  Raises ValueError unless there are as many outliers as images, of one size.
    """
    if image_NCHW.shape != outlier_NCHW.shape:
        raise ValueError(
            f"images {tuple(image_NCHW.shape)} and outliers {tuple(outlier_NCHW.shape)} differ in shape"
        )
    uniform_NK = torch.full_like(onehot_NK, 1 / onehot_NK.shape[1])
    rows_MCHW = torch.stack([image_NCHW, outlier_NCHW], dim=1).flatten(0, 1)
    target_MK = torch.stack([onehot_NK, uniform_NK], dim=1).flatten(0, 1)
    transform = (v2.MixUp if recipe.kind == "mixup" else v2.CutMix)(alpha=recipe.alpha)
    with seeded(draw, recipe.kind):  # the transforms draw from torch's global generator
        mixed_MCHW, soft_MK = transform(rows_MCHW, target_MK)
    return mixed_MCHW[::2], soft_MK[::2]
