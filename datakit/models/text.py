"""Text encoders by name: one protocol, whatever stands behind it.

`minilm` comes with the extra `demo`; `conse` and `open_clip:<model>/<weights>` are the text sides of spaces that
images share: `encoder.load` of the same name gives the other side, and the cosine of the two means something.
`sentence-transformers:<name>` is a model of the hub, or a local folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from datakit.errors import ConfigError, did_you_mean
from datakit.models.encoder import CONSE, file_sha256, open_clip_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

MINILM = "minilm"
KINDS = ("open_clip", "sentence-transformers")
FORMS = (MINILM, CONSE, "open_clip:<model>/<weights>", "sentence-transformers:<name>")


@runtime_checkable
class TextEncoder(Protocol):
    """Texts to vectors. `weights`: sha256 of what was learned, for manifests; `dim`: length of a vector."""

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def weights(self) -> str: ...

    def __call__(self, texts: Sequence[str]) -> Floats:
        """float32 (N, dim) of N texts; a long text is cut where the model stops reading."""
        ...


def load(name: str, *, device: str = "cpu") -> TextEncoder:
    """The text encoder called `name`, loaded once a process and device.

    device: cpu, cuda, cuda:N or auto (CUDA if there is one), for those that run on torch.  Raises ConfigError
    (unknown name or device), MissingExtra, EnvironmentProblem (weights that cannot be fetched).
    """
    return _load(name, device)


@cache
def _load(name: str, device: str) -> TextEncoder:
    kind, _, rest = name.partition(":")
    if name == MINILM:
        from datakit.models import minilm

        return minilm.load()
    if name == CONSE:
        from datakit.models import conse

        return conse.load().texts
    if kind == "open_clip" and "/" in rest:
        from datakit.models import open_clip_model

        return open_clip_model.load(rest, device=device).texts
    if kind == "sentence-transformers" and rest:
        from datakit.models import sentence_model

        return sentence_model.load(rest, device=device)
    raise _unknown(name)


def weights_of(name: str) -> str:
    """sha256 of the file or folder behind a text encoder that is one; empty for one that its name tells.

    Raises ConfigError (unknown, no such file), as `encoder.weights_of`.
    """
    kind, _, rest = name.partition(":")
    if kind == KINDS[0] and (path := open_clip_file(rest)):
        return file_sha256(path, name)
    if kind == KINDS[1] and rest and Path(rest).is_dir():
        from datakit.models import sentence_model

        return sentence_model.folder_sha256(Path(rest))
    if name in (MINILM, CONSE) or (kind == KINDS[0] and "/" in rest) or (kind == KINDS[1] and rest):
        return ""
    raise _unknown(name)


def whole(texts: Sequence[str]) -> list[str]:
    """The texts with `?` for half characters (lone surrogates), which JSON may bring and no tokenizer takes."""
    return [text.encode("utf-8", "replace").decode() for text in texts]


def _unknown(name: str) -> ConfigError:
    _, colon, rest = name.partition(":")
    hint = did_you_mean(name, [f"{kind}:{rest}" for kind in KINDS] if colon else [MINILM, CONSE])
    return ConfigError(f"no text encoder {name}{hint}; there are {', '.join(FORMS)}")
