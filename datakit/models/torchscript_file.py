"""`torchscript:<path>`: a user's own TorchScript file, which is a program and is run.

Unlike every other form, the file is code and not only numbers: whoever loads it runs what its maker wrote, so take it
only from people whose programs you would start; a model of others is better asked for as ONNX. It takes one image,
float32 (1, 3, 224, 224), RGB normalised as ImageNet's, and gives float32 (1, dim). It runs in float32, one image a
run, on every device, since a traced net may know its batch by heart. On CUDA: not run on a GPU.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datakit.errors import ConfigError, MissingExtra
from datakit.image import resize
from datakit.models import torch_net
from datakit.models.encoder import sha256_of
from datakit.models.onnx_file import DEVIATION, MEAN, SIDE, normalised

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Floats = NDArray[np.float32]


class TorchScriptEncoder:
    """An encoder by the conventions above."""

    def __init__(self, path: Path, device: str) -> None:
        try:
            model = path.read_bytes()
        except OSError as problem:
            raise ConfigError(f"encoder torchscript:{path}: cannot read it: {problem.strerror}") from problem
        self.name = f"torchscript:{path.name}"
        self.weights = sha256_of([model])
        self._device = torch_net.pick_device(device)
        self._program = _program(model, path).to(self._device).eval()
        self.dim = self._dim(path)

    def __call__(self, images: Sequence[Pixels]) -> Floats:
        rows = [self._vector(image) for image in images]
        return np.stack(rows) if rows else np.empty((0, self.dim), np.float32)

    def _vector(self, image_HWC: Pixels) -> Floats:
        vector: Floats = self._output(image_HWC)[0].cpu().numpy()
        return vector

    def _output(self, image_HWC: Pixels) -> Any:
        import torch

        value = normalised(resize(image_HWC, side=SIDE), MEAN, DEVIATION)
        with torch.inference_mode():
            return self._program(torch.from_numpy(np.ascontiguousarray(value))[None].to(self._device))

    def _dim(self, path: Path) -> int:
        import torch

        try:
            found = self._output(np.zeros((8, 8, 3), np.uint8))
        except RuntimeError as problem:  # what TorchScript raises for all that fails inside
            last = str(problem).strip().rpartition("\n")[2]
            raise ConfigError(
                f"encoder torchscript:{path}: it does not take float32 (1, 3, {SIDE}, {SIDE}): {last}"
            ) from problem
        fits = isinstance(found, torch.Tensor) and found.ndim == 2 and found.dtype == torch.float32
        if not fits or len(found) != 1:
            raise ConfigError(f"encoder torchscript:{path}: its output must be float32 (1, dim)")
        return int(found.shape[1])


def load(path: Path, *, device: str = "cpu") -> TorchScriptEncoder:
    """The encoder of this file, whose code is run. Raises ConfigError (no such file, another shape), MissingExtra."""
    try:
        import torch  # noqa: F401
    except ImportError as problem:
        raise MissingExtra(f"the encoder torchscript:{path}", "torch") from problem
    return TorchScriptEncoder(path, device)


def _program(model: bytes, path: Path) -> Any:
    import torch

    try:
        with warnings.catch_warnings():
            # torch warns that TorchScript is to be replaced by torch.export, whose files change with each version
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            return torch.jit.load(io.BytesIO(model), map_location="cpu")  # type: ignore[no-untyped-call]
    except RuntimeError as problem:
        reason = str(problem).partition("\n")[0]
        raise ConfigError(f"encoder torchscript:{path} is no TorchScript file: {reason}") from problem
