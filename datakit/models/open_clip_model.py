"""`open_clip:<model>/<weights>`: both sides of a model of open_clip: images and texts in one space, rows of length 1.

weights: a tag that open_clip knows and fetches (`laion2b_s34b_b79k`), or the path of a file of yours: a name that
ends as weights do (.pt, .safetensors …) or has a slash. Files are read as tensors alone; what is pickled in them
beside tensors is refused. A local file needs no network, unless the model's tokenizer lies on the hub.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datakit.errors import ConfigError, EnvironmentProblem, MissingExtra, did_you_mean, need
from datakit.models import torch_net
from datakit.models.encoder import file_sha256, open_clip_file
from datakit.models.text import whole

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Space:
    """A model and what both its sides have in common."""

    name: str
    weights: str
    dim: int
    model: Any
    architecture: str
    preprocess: Any
    device: torch.device

    @property
    def images(self) -> Images:
        return Images(self)

    @property
    def texts(self) -> Texts:
        return Texts(self)


class _Side:
    def __init__(self, space: Space) -> None:
        self.name, self.dim, self.weights = space.name, space.dim, space.weights
        self._space = space


class Images(_Side):
    """The encoder of images."""

    def __call__(self, images: Sequence[Pixels]) -> Floats:
        space = self._space
        prepared = (self._prepared(image) for image in images)
        return torch_net.run(
            lambda batch: space.model.encode_image(batch, normalize=True),
            prepared,
            space.device,
            dim=self.dim,
        )

    def _prepared(self, image_HWC: Pixels) -> Floats:
        from PIL import Image

        pixels: Floats = self._space.preprocess(Image.fromarray(np.ascontiguousarray(image_HWC))).numpy()
        return pixels


class Texts(_Side):
    """The encoder of texts. Its tokenizer is made with the first text: some come from the hub."""

    def __call__(self, texts: Sequence[str]) -> Floats:
        space = self._space
        tokens = (self._tokenizer([text])[0].numpy() for text in whole(texts))
        return torch_net.run(
            lambda batch: space.model.encode_text(batch, normalize=True), tokens, space.device, dim=self.dim
        )

    @cached_property
    def _tokenizer(self) -> Any:
        import open_clip

        try:
            return open_clip.get_tokenizer(self._space.architecture)
        except ImportError as problem:
            raise MissingExtra(f"the tokenizer of {self.name}", "sentences") from problem
        except OSError as problem:
            raise EnvironmentProblem(f"cannot get the tokenizer of {self.name}: {problem}") from problem


@cache
def load(name: str, *, device: str = "cpu") -> Space:
    """Both sides of `<model>/<weights>`, once a process and device.

    Raises ConfigError (unknown model, tag, file or device; a file that is of another model), MissingExtra,
    EnvironmentProblem (weights that cannot be fetched).
    """
    try:
        import open_clip  # noqa: F401
    except ImportError as problem:
        raise MissingExtra(f"the encoder open_clip:{name}", "clip") from problem
    architecture, _, weights = name.partition("/")
    place, path = torch_net.pick_device(device), open_clip_file(name)
    _check(architecture, "" if path else weights)
    sha256 = file_sha256(path, f"open_clip:{name}") if path else ""
    model, preprocess = _model(architecture, weights, path)
    shown = f"open_clip:{architecture}/{path.name if path else weights}"
    return _space(shown, sha256, architecture, model, preprocess, place)


def _check(architecture: str, tag: str) -> None:
    import open_clip

    if architecture not in open_clip.list_models():
        hint = did_you_mean(architecture, open_clip.list_models())
        raise ConfigError(f"open_clip has no model {architecture}{hint}")
    if "hf_model_name" in open_clip.get_model_config(architecture)["text_cfg"]:
        need(f"the text side of open_clip's {architecture}", "sentences", ["transformers"])
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag and tag not in tags:
        hint = f"{did_you_mean(tag, tags)}; it knows {', '.join(tags) or 'none'}, or give a file"
        raise ConfigError(f"open_clip has no weights {tag} of {architecture}{hint}")


def _model(architecture: str, weights: str, path: Path | None) -> tuple[Any, Any]:
    """(net on the CPU, what makes a picture its input)."""
    import open_clip

    try:
        model, _, preprocess = open_clip.create_model_and_transforms(
            architecture, pretrained=str(path or weights), weights_only=True
        )
    # what a broken file or network raises is of no one kind; a file that a tag names is sound
    except Exception as problem:
        if path is None:
            raise EnvironmentProblem(
                f"cannot get the weights {weights} of open_clip's {architecture}: {problem}"
            ) from problem
        reason = str(problem).strip().partition("\n")[0]
        raise ConfigError(f"{path} holds no weights of open_clip's {architecture}: {reason}") from problem
    return model.eval(), preprocess


def _space(
    name: str, sha256: str, architecture: str, model: Any, preprocess: Any, device: torch.device
) -> Space:
    sha256 = sha256 or torch_net.learned_sha256(model)
    space = Space(name, sha256, 0, model.to(device), architecture, preprocess, device)
    return replace(space, dim=space.images([np.zeros((8, 8, 3), np.uint8)]).shape[1])
