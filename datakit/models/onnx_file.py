"""`onnx:<path>`: a user's own image encoder, from one ONNX file.

The model has one input, either uint8 (N, height, width, 3), which gets plain RGB pixels, or float32
(N, 3, height, width), which gets pixels / 255 less the ImageNet mean over the ImageNet deviation; height and
width as the model fixes them, 224 where it does not. Its first output is (N, dim).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datakit.errors import ConfigError
from datakit.image import resize
from datakit.models.encoder import sha256_of
from datakit.models.session import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Floats = NDArray[np.float32]

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's RGB, in [0, 1]
SIDE = 224  # px, where the model leaves it open


class OnnxEncoder:
    """An encoder by the conventions above."""

    def __init__(self, path: Path) -> None:
        try:
            model = path.read_bytes()
        except OSError as problem:
            raise ConfigError(f"encoder onnx:{path}: cannot read it: {problem.strerror}") from problem
        self.name = f"onnx:{path.name}"
        self.weights = sha256_of([model])
        self._session = Session(model, f"encoder onnx:{path}")
        self._output = next(iter(self._session.outputs))
        self._side, self._plain = _input(self._session, path)
        blank = self._vector(np.zeros((8, 8, 3), np.uint8))
        if blank.ndim != 1 or blank.dtype != np.float32:
            raise ConfigError(f"encoder onnx:{path}: its first output must be float32 (N, dim)")
        self.dim = len(blank)

    def __call__(self, images: Sequence[Pixels]) -> Floats:
        rows = [self._vector(image) for image in images]
        return np.stack(rows) if rows else np.empty((0, self.dim), np.float32)

    def _vector(self, image_HWC: Pixels) -> Floats:
        fitted = resize(image_HWC, side=self._side)
        value = fitted if self._plain else normalised(fitted, MEAN, DEVIATION)
        vector: Floats = self._session.run(self._output, value[None])[0]
        return vector


def load(path: Path) -> OnnxEncoder:
    """The encoder of this file. Raises ConfigError (no such file, another shape), MissingExtra."""
    return OnnxEncoder(path)


def normalised(image_HWC: Pixels, mean: Sequence[float], deviation: Sequence[float]) -> Floats:
    """float32 (3, height, width): pixels / 255, less `mean`, over `deviation`."""
    centre, spread = np.array(mean, np.float32), np.array(deviation, np.float32)
    scaled: Floats = (image_HWC.astype(np.float32) / np.float32(255) - centre) / spread
    return scaled.transpose(2, 0, 1)


def _input(session: Session, path: Path) -> tuple[int, bool]:
    """(side in px, whether it takes plain uint8 pixels)."""
    inputs = list(session.inputs.values())
    kind, shape = inputs[0]
    plain = kind == "tensor(uint8)"
    fits = len(inputs) == 1 and len(shape) == 4 and (plain or kind == "tensor(float)")
    if fits:
        count, height, width, channels = shape if plain else (shape[0], *shape[2:], shape[1])
        sides = {side if isinstance(side, int) else SIDE for side in (height, width)}
        if channels == 3 and len(sides) == 1 and (count == 1 or not isinstance(count, int)):
            return sides.pop(), plain
    has = ", ".join(f"{kind} {shape}" for kind, shape in inputs)
    raise ConfigError(
        f"encoder onnx:{path}: it must have one input of one square image, uint8 (N, side, side, 3)"
        f" or float32 (N, 3, side, side); it has {has}"
    )
