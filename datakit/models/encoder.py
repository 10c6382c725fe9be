"""Image encoders and classifiers by name: one protocol, whatever stands behind it.

`efficientnet-lite0` and `conse` come with the extra `demo`; `onnx:<path>` is a user's own file, `timm:<model>` a
model of timm, `open_clip:<model>/<weights>` one of open_clip. A weights file is data, not code: no loader here
unpickles anything but tensors. The one exception says so in its name: `torchscript:<path>` is a program, which is run
with all that you may do; take such a file only from those you trust.
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

EMBEDDED, CONSE = "efficientnet-lite0", "conse"
KINDS = ("onnx", "timm", "torchscript", "open_clip")
FORMS = (EMBEDDED, CONSE, "onnx:<path>", "timm:<model>", "torchscript:<path>", "open_clip:<model>/<weights>")
WEIGHTS = (".pt", ".pth", ".bin", ".safetensors", ".npz")  # how files of weights end; open_clip's tags do not


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


def load(name: str, *, device: str = "cpu") -> Encoder:
    """The encoder called `name`, loaded once a process and device.

    device: cpu, cuda, cuda:N or auto (CUDA if there is one), for those that run on torch.  Raises ConfigError
    (unknown name or device), MissingExtra, EnvironmentProblem (weights that cannot be fetched).
    """
    return _load(name, device)


@cache
def _load(name: str, device: str) -> Encoder:
    kind, _, rest = name.partition(":")
    if name == EMBEDDED:
        from datakit.models import efficientnet

        return efficientnet.load()
    if name == CONSE:
        from datakit.models import conse

        return conse.load().images
    if kind == "onnx" and rest:
        from datakit.models import onnx_file

        return onnx_file.load(Path(rest))
    if kind == "timm" and rest:
        from datakit.models import timm_model

        return timm_model.load(rest, device=device)
    if kind == "torchscript" and rest:
        from datakit.models import torchscript_file

        return torchscript_file.load(Path(rest), device=device)
    if kind == "open_clip" and "/" in rest:
        from datakit.models import open_clip_model

        return open_clip_model.load(rest, device=device).images
    raise _unknown(name)


def weights_of(name: str) -> str:
    """sha256 of the file behind an encoder that is a file, so that another file of that name is another encoder.

    Empty for an encoder that its name and the version of its package tell. Raises ConfigError (unknown, no such
    file).
    """
    kind, _, rest = name.partition(":")
    if kind in ("onnx", "torchscript") and rest:
        return file_sha256(Path(rest), name)
    if kind == "open_clip" and (path := open_clip_file(rest)):
        return file_sha256(path, name)
    if name in (EMBEDDED, CONSE) or (kind == "timm" and rest) or (kind == "open_clip" and "/" in rest):
        return ""
    raise _unknown(name)


def open_clip_file(rest: str) -> Path | None:
    """The file of weights in `<model>/<weights>`, if it is one: it ends as one, or lies in a folder."""
    weights = rest.partition("/")[2]
    return Path(weights) if "/" in weights or Path(weights).suffix in WEIGHTS else None


def file_sha256(path: Path, name: str, what: str = "encoder") -> str:
    """sha256 of the file behind the encoder (or `what`) `name`. Raises ConfigError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise ConfigError(f"{what} {name}: cannot read {path}: {problem.strerror}") from problem


def _unknown(name: str) -> ConfigError:
    _, colon, rest = name.partition(":")
    hint = did_you_mean(name, [f"{kind}:{rest}" for kind in KINDS] if colon else [EMBEDDED, CONSE])
    return ConfigError(f"no encoder {name}{hint}; there are {', '.join(FORMS)}")


def sha256_of(chunks: Iterable[bytes | memoryview]) -> str:
    """64 hex digits over the chunks as one."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
