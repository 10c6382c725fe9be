"""Image tokenizers by name: pixels to a map of code numbers and back, one protocol, whatever stands behind it.

`file:<folder>` holds a tokenizer of ours (tokenizer.json and tokenizer.safetensors, patches or trained); the other
forms read weights that others published. Files of weights are data and nothing in them is unpickled but tensors. The
one exception is `cosmos:<encoder>,<decoder>`: two TorchScript programs, which are run with all that you may do; take
such files only from those you trust.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from datakit.errors import ConfigError, did_you_mean
from datakit.models.encoder import file_sha256
from datakit.models.token_net import KINDS as TRAINED
from datakit.models.tokenizer_files import TENSORS, read_folder, read_parts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from datakit.models.tokenizer_files import TokenizerParts

    Pixels = NDArray[np.uint8]
    Tokens = NDArray[np.uint16]
    Floats = NDArray[np.float32]

FORMS = ("file:<folder>", "vitvqgan:<file>", "vqgan:<file>", "titok:<file>", "cosmos:<encoder>,<decoder>")
KINDS = tuple(form.partition(":")[0] for form in FORMS)


@runtime_checkable
class Tokenizer(Protocol):
    """Images to code numbers and back.

    name, weights   what it is called; sha256 of what was learned, for manifests
    codes           how many code numbers there are (of one level, where tokens have several), at most 65,536
    patch           px a token's side; 0 where tokens are no map of the image
    size            px the image's sides must have; 0: any multiple of `patch`
    codebook        float32 (codes, d): the vector behind each number
    """

    @property
    def name(self) -> str: ...

    @property
    def weights(self) -> str: ...

    @property
    def codes(self) -> int: ...

    @property
    def patch(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def codebook(self) -> Floats: ...

    def encode(self, images_NHWC: Pixels) -> Tokens:
        """uint16 (N, h, w) of uint8 RGB images; an image's tokens do not depend on its neighbours.

        h = levels x height / patch: levels of a residual quantiser lie one below the other. ConfigError for sides
        that it does not take.
        """
        ...

    def decode(self, tokens_NHW: Tokens) -> Pixels:
        """uint8 (N, height, width, 3). ConfigError for numbers beyond `codes` or a map it does not take."""
        ...


def load(name: str, *, device: str = "cpu") -> Tokenizer:
    """The tokenizer called `name`, loaded once a process and device, and anew when its file is another.

    device: cpu, cuda, cuda:N or auto (CUDA if there is one), for those that run on torch.  Raises ConfigError
    (unknown name or device, a file that cannot be read or is another), MissingExtra.
    """
    return _load(name, device, _stamps(name))


def of_files(files: Mapping[str, bytes | Path], *, device: str = "cpu") -> Tokenizer:
    """The tokenizer in the two files that a fit gives: contents, or where they lie. Raises as `load`."""
    return _of_parts(read_parts(files), device)


def weights_of(name: str) -> str:
    """sha256 of the weights behind a tokenizer, so that another file of that name is another tokenizer.

    Raises ConfigError (unknown, no such file).
    """
    digests = [file_sha256(path, name, "tokenizer") for path in _paths(name)]
    return digests[0] if len(digests) == 1 else digest_of_pair(*digests)


def pair(rest: str) -> tuple[Path, Path]:
    """The two files of `<encoder>,<decoder>`. Raises ConfigError."""
    encoder, comma, decoder = rest.partition(",")
    if not (encoder and comma and decoder) or "," in decoder:
        raise ConfigError(f"tokenizer cosmos:{rest}: name two files, cosmos:<encoder>,<decoder>")
    return Path(encoder), Path(decoder)


def digest_of_pair(encoder: str, decoder: str) -> str:
    """One sha256 for two files: of their own digests."""
    return hashlib.sha256(f"{encoder},{decoder}".encode()).hexdigest()


def _paths(name: str) -> tuple[Path, ...]:
    """The files that hold what was learned."""
    kind, rest = _split(name)
    if kind == "cosmos":
        return pair(rest)
    return (Path(rest) / TENSORS if kind == "file" else Path(rest),)


def _stamps(name: str) -> tuple[tuple[int, int, int], ...]:
    """What changes when a file is written anew; files that are missing are told of by those who read them."""
    found = [path.stat() for path in _paths(name) if path.exists()]
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in found)


@cache
def _load(name: str, device: str, stamps: tuple[tuple[int, int, int], ...]) -> Tokenizer:
    kind, rest = _split(name)
    if kind == "file":
        return _of_parts(read_folder(Path(rest)), device)
    if kind == "vitvqgan":
        from datakit.models import vitvqgan

        return vitvqgan.load(Path(rest), device=device)
    if kind == "vqgan":
        from datakit.models import vqgan

        return vqgan.load(Path(rest), device=device)
    if kind == "titok":
        from datakit.models import titok

        return titok.load(Path(rest), device=device)
    from datakit.models import cosmos

    return cosmos.load(*pair(rest), device=device)


def _of_parts(parts: TokenizerParts, device: str) -> Tokenizer:
    if parts.settings["kind"] == "patches":
        from datakit.models import patches

        return patches.of_parts(parts)
    if parts.settings["kind"] in TRAINED:
        from datakit.models import token_net

        return token_net.of_parts(parts, device=device)
    raise ConfigError(
        f"no tokenizer of kind {parts.settings['kind']}; there are patches, {', '.join(TRAINED)}"
    )


def _split(name: str) -> tuple[str, str]:
    kind, colon, rest = name.partition(":")
    if kind in KINDS and rest:
        return kind, rest
    hint = did_you_mean(kind, KINDS) if colon else ""
    raise ConfigError(f"no tokenizer {name}{hint}; there are {', '.join(FORMS)}")
