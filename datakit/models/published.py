"""Weights that others published: read as tensors and nothing else, and held against the layout that is expected."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datakit.errors import ConfigError, MissingExtra
from datakit.models.encoder import sha256_of

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]
    Layout = Mapping[str, tuple[int, ...]]


def read_state(path: Path, name: str) -> tuple[State, str]:
    """(name → tensor, float32 where it is a fraction, on the CPU; sha256 of the file).

    .safetensors, or a PyTorch file: a dict of tensors, or one under "state_dict" as Lightning writes it. Raises
    ConfigError where the file cannot be read or holds more than tensors, MissingExtra without torch.
    """
    try:
        import torch
    except ImportError as problem:
        raise MissingExtra(f"the tokenizer {name}", "torch") from problem
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise ConfigError(f"tokenizer {name}: cannot read {path}: {problem.strerror}") from problem
    found = _safetensors(data, name) if path.suffix == ".safetensors" else _pytorch(data, name)
    state = {}
    for key, value in found.items():
        if not isinstance(value, torch.Tensor):
            raise ConfigError(f"tokenizer {name}: {key} in the file is no tensor; save the state dict alone")
        state[key] = value.float() if value.is_floating_point() else value
    return state, sha256_of([data])


def check_layout(state: State, layout: Layout, name: str, *, ignored: Sequence[str] = ()) -> State:
    """The tensors of the layout. Raises ConfigError naming the first that is missing, wrong, not finite or unknown.

    ignored: beginnings of names that may be there beside, such as the losses'.
    """
    for key, shape in layout.items():
        if key not in state:
            raise ConfigError(f"tokenizer {name}: the file has no tensor {key}, which should be {shape}")
        if not bool(state[key].isfinite().all()):
            raise ConfigError(f"tokenizer {name}: tensor {key} holds NaN or infinity: the file is damaged")
        if tuple(state[key].shape) != shape:
            raise ConfigError(
                f"tokenizer {name}: tensor {key} is {tuple(state[key].shape)}, and should be {shape}"
            )
    for key in state:
        if key not in layout and not key.startswith(tuple(ignored)):
            raise ConfigError(
                f"tokenizer {name}: the file has a tensor {key}, which this layout knows nothing of"
            )
    return {key: state[key] for key in layout}


def shape_of(state: State, key: str, axes: int, name: str) -> tuple[int, ...]:
    """The shape of a tensor that tells the sizes of a net. Raises ConfigError where it is missing or of other axes."""
    if key not in state or state[key].ndim != axes:
        found = f"is {tuple(state[key].shape)}" if key in state else "is not in the file"
        raise ConfigError(f"tokenizer {name}: tensor {key} should have {axes} axes, and {found}")
    return tuple(state[key].shape)


def count(state: Mapping[str, Any], pattern: str) -> int:
    """How many of pattern with 0, 1, 2 … for its {} are there."""
    found = 0
    while pattern.format(found) in state:
        found += 1
    return found


def _safetensors(data: bytes, name: str) -> Mapping[str, Any]:
    try:
        import safetensors.torch
    except ImportError as problem:
        raise MissingExtra(f"the tokenizer {name}", "torch") from problem
    try:
        found: Mapping[str, Any] = safetensors.torch.load(data)
    except Exception as problem:  # its SafetensorError is a plain Exception's child
        raise ConfigError(f"tokenizer {name} is no safetensors file: {problem}") from problem
    return found


def _pytorch(data: bytes, name: str) -> Mapping[str, Any]:
    import torch

    try:
        with warnings.catch_warnings():
            # a TorchScript archive given here is refused a line later
            warnings.filterwarnings("ignore", message=".*TorchScript archive", category=UserWarning)
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as problem:  # damaged bytes make its reader raise nearly anything
        reason = str(problem).strip().partition("\n")[0]
        raise ConfigError(
            f"tokenizer {name} holds more than tensors, or is no PyTorch file: load it where you trust it, "
            f"and save its state dict as safetensors ({reason})"
        ) from problem
    inner = found.get("state_dict", found) if isinstance(found, dict) else None
    if not isinstance(inner, dict):
        raise ConfigError(f"tokenizer {name}: the file holds no dict of tensors")
    return inner
