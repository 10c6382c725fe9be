"""A tokenizer of ours as two files: tokenizer.safetensors, all that decides a code, and tokenizer.json, to be read.

The settings stand in both: in the head of the tensors' file, so that its sha256 tells one tokenizer from another, and
in the JSON, with versions and how it was made. A pair that disagrees is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datakit.errors import ConfigError, MissingExtra
from datakit.models.encoder import sha256_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ABOUT, TENSORS = "tokenizer.json", "tokenizer.safetensors"
NAMES = (ABOUT, TENSORS)
VERSION = 1
MAX_CODES = 65_536  # what uint16 counts
MAX_HEAD = 1 << 22  # bytes; the head of a file of a hundred tensors has 10 kB


@dataclass(frozen=True, kw_only=True)
class TokenizerParts:
    """What the two files hold.

    settings  kind, codes, dim, patch, and what else the kind needs
    tensors   name → array
    about     the whole of tokenizer.json
    weights   sha256 of the tensors' file
    """

    settings: Mapping[str, Any]
    tensors: Mapping[str, NDArray[np.generic]]
    about: Mapping[str, Any]
    weights: str

    def tensor(self, name: str, dtype: str, ndim: int) -> NDArray[Any]:
        """One tensor. Raises ConfigError where it is missing or of another kind."""
        array = self.tensors.get(name)
        if array is None or array.dtype != dtype or array.ndim != ndim:
            found = "is not there" if array is None else f"is {array.dtype} of {array.ndim} axes"
            raise ConfigError(f"{TENSORS}: tensor {name} must be {dtype} of {ndim} axes, and {found}")
        return array


def write_parts(
    settings: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], about: Mapping[str, Any]
) -> dict[str, bytes]:
    """The two files by name. Equal arguments give equal bytes. Raises MissingExtra without safetensors."""
    import numpy as np

    safetensors = safetensors_module()
    check_codes(int(settings["codes"]))
    head = json.dumps(settings, sort_keys=True)  # one key: the order of several is not kept
    contiguous = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    data: bytes = safetensors.save(contiguous, metadata={"tokenizer": head})
    words = {
        "format": "datakit tokenizer",
        "version": VERSION,
        **settings,
        **about,
        TENSORS: {"bytes": len(data), "sha256": sha256_of([data])},
    }
    return {ABOUT: (json.dumps(words, indent=1, sort_keys=True) + "\n").encode(), TENSORS: data}


def read_folder(folder: Path) -> TokenizerParts:
    """The tokenizer in this folder. Raises ConfigError naming the file that is missing or wrong."""
    return read_parts({name: folder / name for name in NAMES})


def read_parts(files: Mapping[str, bytes | Path]) -> TokenizerParts:
    """The two files, checked against each other. Raises ConfigError, MissingExtra without safetensors."""
    words, data = _words(_bytes_of(files, ABOUT)), _bytes_of(files, TENSORS)
    digest = sha256_of([data])
    stated = words.get(TENSORS)
    if not isinstance(stated, dict) or stated.get("sha256") != digest:
        raise ConfigError(f"{TENSORS} is not the file that {ABOUT} was written for: its sha256 is {digest}")
    settings = _settings(data)
    for key, value in settings.items():
        if words.get(key) != value:
            raise ConfigError(f"{ABOUT} says {key}={words.get(key)}, {TENSORS} {value}: take both of one fit")
    for key, kind in (("kind", str), ("codes", int), ("dim", int), ("patch", int)):
        if not isinstance(settings.get(key), kind):
            raise ConfigError(f"{TENSORS}: its settings name no {key}")
    check_codes(settings["codes"])
    return TokenizerParts(settings=settings, tensors=_tensors(data), about=words, weights=digest)


def check_codes(codes: int) -> None:
    """Raises ConfigError unless there are 2 to 65,536 codes, as many as uint16 counts."""
    if not 2 <= codes <= MAX_CODES:
        raise ConfigError(f"codes={codes}: tokens are uint16, which counts 2 to {MAX_CODES} codes")


def _bytes_of(files: Mapping[str, bytes | Path], name: str) -> bytes:
    if name not in files:
        raise ConfigError(f"a tokenizer is two files, {' and '.join(NAMES)}: {name} is not among those given")
    found = files[name]
    if isinstance(found, bytes):
        return found
    try:
        return found.read_bytes()
    except OSError as problem:
        raise ConfigError(f"tokenizer: cannot read {found}: {problem.strerror}") from problem


def _words(data: bytes) -> dict[str, Any]:
    try:
        words = json.loads(data)
    except (ValueError, RecursionError) as problem:
        raise ConfigError(f"{ABOUT} is no JSON: {problem}") from problem
    if not isinstance(words, dict) or words.get("format") != "datakit tokenizer":
        raise ConfigError(f"{ABOUT} is not the description of a tokenizer of datakit")
    if words.get("version") != VERSION:
        raise ConfigError(f"{ABOUT} is of version {words.get('version')}; this datakit reads {VERSION}")
    return words


def _settings(data: bytes) -> dict[str, Any]:
    """Out of the head: 8 bytes of its length, then JSON; safetensors itself reads metadata only from a path."""
    length = int.from_bytes(data[:8], "little")
    try:
        if not 2 <= length <= min(MAX_HEAD, len(data) - 8):
            raise ValueError(f"a head of {length} bytes in a file of {len(data)}")
        settings = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["tokenizer"])
        return dict(settings)
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise ConfigError(f"{TENSORS} is no tokenizer of datakit: {problem}") from problem


def _tensors(data: bytes) -> dict[str, NDArray[Any]]:
    safetensors = safetensors_module()
    try:
        found: dict[str, NDArray[Any]] = safetensors.load(data)
    except (
        Exception
    ) as problem:  # its SafetensorError is made anew with each version, a plain Exception's child
        raise ConfigError(f"{TENSORS} is damaged: {problem}") from problem
    return found


def safetensors_module() -> Any:
    """safetensors.numpy. Raises MissingExtra."""
    try:
        import safetensors.numpy
    except ImportError as problem:
        raise MissingExtra("reading and writing tensors", "tokens") from problem
    return safetensors.numpy
