"""Image encoders and classifiers by name: one protocol, whatever stands behind it.

`efficientnet-lite0` comes with the extra `demo`; `onnx:<path>` is a user's own file, `timm:<model>` a
model of timm. A weights file is data, not code: no loader here unpickles anything but tensors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from datakit.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Floats = NDArray[np.float32]

EMBEDDED = "efficientnet-lite0"
FORMS = (EMBEDDED, "onnx:<path>", "timm:<model>")


@runtime_checkable
class Encoder(Protocol):
    """Images to vectors. `weights`: sha256 of what was learned, for manifests; `dim`: length of a vector."""

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def weights(self) -> str: ...

    def __call__(self, images: Sequence[Pixels]) -> Floats:
        """float32 (N, dim) of N images, each uint8 (height, width, 3) RGB of any size."""
        ...


@runtime_checkable
class Classifier(Protocol):
    """Images to scores of named classes."""

    @property
    def name(self) -> str: ...

    @property
    def weights(self) -> str: ...

    def logits(self, images: Sequence[Pixels]) -> Floats:
        """float32 (N, classes) of N images, each uint8 (height, width, 3) RGB of any size."""
        ...


@cache
def load(name: str) -> Encoder:
    """The encoder called `name`, loaded once a process. Raises ConfigError (unknown), MissingExtra."""
    kind, _, rest = name.partition(":")
    if name == EMBEDDED:
        from datakit.models import efficientnet

        return efficientnet.load()
    if kind == "onnx" and rest:
        from datakit.models import onnx_file

        return onnx_file.load(Path(rest))
    if kind == "timm" and rest:
        from datakit.models import timm_model

        return timm_model.load(rest)
    raise _unknown(name)


def weights_of(name: str) -> str:
    """sha256 of the file behind an encoder that is a file, so that another file of that name is another encoder.

    Empty for an encoder that its name and the version of its package tell. Raises ConfigError (unknown, no such
    file).
    """
    kind, _, rest = name.partition(":")
    if name != EMBEDDED and not (kind in ("onnx", "timm") and rest):
        raise _unknown(name)
    if kind != "onnx":
        return ""
    try:
        return sha256_of([Path(rest).read_bytes()])
    except OSError as problem:
        raise ConfigError(f"encoder {name}: cannot read {rest}: {problem.strerror}") from problem


def _unknown(name: str) -> ConfigError:
    _, colon, rest = name.partition(":")
    hint = did_you_mean(name, [f"onnx:{rest}", f"timm:{rest}"] if colon else [EMBEDDED])
    return ConfigError(f"no encoder {name}{hint}; there are {', '.join(FORMS)}")


def sha256_of(chunks: Iterable[bytes | memoryview]) -> str:
    """64 hex digits over the chunks as one."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
