"""`timm:<model>`: the pooled features of a model of timm, pre-processed as the model's own settings say.

PyTorch adds in an order that depends on the machine's threads, so vectors are equal within tolerance and
not bit for bit; on the CPU each image is still run by itself, so that its neighbours do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from datakit.errors import ConfigError, EnvironmentProblem, MissingExtra, did_you_mean
from datakit.image import resize
from datakit.models import torch_net
from datakit.models.onnx_file import normalised

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Floats = NDArray[np.float32]


class TimmEncoder:
    """A timm model without its head, in evaluation mode."""

    def __init__(self, name: str, model: Any, settings: dict[str, Any], device: torch.device) -> None:
        self.name = f"timm:{name}"
        self.dim = int(model.num_features)
        self.weights = torch_net.learned_sha256(model)
        self._model = model.to(device)
        self._settings = settings
        self._device = device

    def __call__(self, images: Sequence[Pixels]) -> Floats:
        return torch_net.run(self._model, map(self._prepare, images), self._device, dim=self.dim)

    def _prepare(self, image_HWC: Pixels) -> Floats:
        side = int(self._settings["input_size"][-1])
        whole = max(side, round(side / float(self._settings["crop_pct"])))
        edge = (whole - side) // 2
        seen = resize(image_HWC, side=whole)[edge : edge + side, edge : edge + side]
        return np.ascontiguousarray(normalised(seen, self._settings["mean"], self._settings["std"]))


def load(name: str, *, pretrained: bool = True, device: str = "cpu") -> TimmEncoder:
    """The encoder of timm's model `name`; its weights are fetched by timm, or random if not `pretrained`.

    Raises ConfigError (unknown name or device), MissingExtra, EnvironmentProblem (the weights cannot be fetched).
    """
    try:
        import timm
        from timm.data.config import resolve_model_data_config
    except ImportError as problem:
        raise MissingExtra(f"the encoder timm:{name}", "torch") from problem
    place = torch_net.pick_device(device)
    if not timm.is_model(name):
        raise ConfigError(f"timm has no model {name}{did_you_mean(name, timm.list_models())}")
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=0).eval()
    except (OSError, RuntimeError) as problem:
        raise EnvironmentProblem(f"cannot get the weights of timm:{name}: {problem}") from problem
    settings: dict[str, Any] = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    return TimmEncoder(name, model, settings, place)
