"""The training loop of the dual encoder (torch). Not run on a GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from datakit.models.projection import Projection
from datakit.train.dual_encoder import Captioned, Held
from datakit.train.nested_fit import Cosine, batches, on_device, tower_of
from datakit.train.pair_loss import info_nce, nested, ranking
from datakit.train.retrieval_options import DualOptions
from datakit.train.runtime import pick_device, reproducible, seeded

MAX_SCALE = 100.0  # of cosines, as CLIP: beyond it a step may blow the weights up


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Both towers as numpy, what the held-out part said after each epoch, and where it ran."""

    image: Projection
    text: Projection
    history: list[dict[str, float]]
    device: str


class DualEncoder(nn.Module):
    """Two towers, and the scale of their cosines where the loss learns it."""

    def __init__(self, data: Captioned, options: DualOptions) -> None:
        super().__init__()
        self.image = tower_of(data.images_ND, options)
        self.text = tower_of(data.texts_MT, options)
        self.options = options
        # a logarithm, so that steps are factors
        self.log_scale = nn.Parameter(torch.tensor(-math.log(options.temperature)))

    @property
    def scale(self) -> Tensor:
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    def loss(self, image_BD: Tensor, text_BT: Tensor, group_B: Tensor) -> Tensor:
        options = self.options
        whole = nested(self._pair_loss, options.dims, options.weights or None)
        return whole(self.image(image_BD), self.text(text_BT), group_B)

    def _pair_loss(self, left_BD: Tensor, right_BD: Tensor, group_B: Tensor) -> Tensor:
        if self.options.loss == "infonce":
            return info_nce(left_BD, right_BD, group_B, scale=self.scale)
        return ranking(
            left_BD, right_BD, group_B, margin=self.options.margin, negatives=self.options.negatives
        )

    def projections(self) -> tuple[Projection, Projection]:
        return self.image.projection(self.options.dims), self.text.projection(self.options.dims)


def fit(data: Captioned, held: Held | None, options: DualOptions, *, seed: int) -> Fitted:
    """Train on every caption of `data` once an epoch, its image beside it; see `train_dual_encoder`."""
    device = pick_device(options.device)
    history: list[dict[str, float]] = []
    with reproducible(), seeded(seed, "dual encoder"):
        model = DualEncoder(data, options).to(device)
        images, texts = on_device(data.images_ND, device), on_device(data.texts_MT, device)
        image_of, group = (torch.from_numpy(a).to(device) for a in (data.image_of_M, data.group_of_M))
        optimizer = Cosine(model, options, rows=len(texts))
        for epoch in range(options.epochs):
            model.train()
            losses: list[float] = []
            for rows_B in batches(len(texts), options.batch_size, seed, "dual encoder", epoch):
                rows = torch.from_numpy(rows_B).to(device)
                loss = model.loss(images[image_of[rows]], texts[rows], group[rows])
                optimizer.step(loss)
                losses.append(loss.item())
            row = {"epoch": epoch + 1, "loss": math.fsum(losses) / len(losses)}
            if options.loss == "infonce":
                row["scale"] = model.scale.item()
            history.append(row | (held.measure(*model.projections()) if held else {}))
    image, text = model.projections()
    return Fitted(image=image, text=text, history=history, device=str(device))
