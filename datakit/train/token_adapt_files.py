"""TokenAdapt as files: what a build keeps of f and f⁻¹ beside its tokens, and how it comes back.

token_adapt.safetensors  the weights; the codebook stays where the tokens are, and is checked against
token_adapt.json         widths, grid, how it was trained, and whose codebook it is for
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datakit.errors import ConfigError
from datakit.models.tokenizer_files import safetensors_module
from datakit.train.token_adapt import AdaptOptions, TokenAdapt

ABOUT, TENSORS = "token_adapt.json", "token_adapt.safetensors"
FORMAT, VERSION = "datakit token_adapt", 1
MOST_SIDE = 1024  # tokens
TABLE = "table"  # the codebook, which the folder of tokens has


def adapt_files(
    model: TokenAdapt,
    codebook_KD: NDArray[np.float32],
    options: AdaptOptions,
    about: Mapping[str, Any] | None = None,
) -> dict[str, bytes]:
    """The two files by name. codebook_KD: as the model was made with. Raises MissingExtra without safetensors."""
    weights = {
        name: np.ascontiguousarray(tensor.detach().cpu().numpy())
        for name, tensor in sorted(model.state_dict().items())
        if name != TABLE
    }
    data: bytes = safetensors_module().save(weights)
    told = {
        "format": FORMAT,
        "version": VERSION,
        "grid": model.side,
        "codes": len(model.table),
        "codebook": codebook_digest(codebook_KD),
        "options": asdict(options),
        TENSORS: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()},
        **(about or {}),
    }
    return {
        ABOUT: (json.dumps(told, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode(),
        TENSORS: data,
    }


def read_adapt(files: Mapping[str, bytes | Path], codebook_KD: NDArray[np.float32]) -> TokenAdapt:
    """f and f⁻¹ over this codebook, frozen. Raises ConfigError for files that are damaged, or of other tokens."""
    told = _told(_bytes_of(files, ABOUT))
    data = _bytes_of(files, TENSORS)
    if told.get(TENSORS, {}).get("sha256") != hashlib.sha256(data).hexdigest():
        raise ConfigError(f"{TENSORS} is not the file that {ABOUT} was written for")
    try:
        options, side = AdaptOptions(**told["options"]), int(told["grid"])
        if not 1 <= side <= MOST_SIDE:
            raise ValueError(f"a grid of {side} tokens a side")
        model = TokenAdapt(codebook_KD, side, options)
    except (KeyError, TypeError, ValueError, RuntimeError) as problem:
        raise ConfigError(f"{ABOUT}: no TokenAdapt is made of its options: {problem}") from problem
    if told.get("codebook") != codebook_digest(codebook_KD):
        raise ConfigError(f"{ABOUT}: it was trained over another codebook: take both of one build")
    tensors = {
        name: torch.from_numpy(array.copy()) for name, array in safetensors_module().load(data).items()
    }
    try:
        missing, unknown = model.load_state_dict(tensors, strict=False)
    except RuntimeError as problem:
        raise ConfigError(f"{TENSORS}: {problem}") from problem
    if unknown or set(missing) != {TABLE}:
        raise ConfigError(f"{TENSORS} has not the tensors that {ABOUT} asks for")
    return model.eval().requires_grad_(False)


def adapt_of_folder(folder: Path, codebook_KD: NDArray[np.float32]) -> TokenAdapt:
    """The two files of a folder; see `read_adapt`."""
    return read_adapt({name: folder / name for name in (ABOUT, TENSORS)}, codebook_KD)


def codebook_digest(codebook_KD: NDArray[np.float32]) -> str:
    """sha256 of the vectors in order, as float32."""
    return hashlib.sha256(codebook_KD.astype("<f4").tobytes()).hexdigest()


def _told(data: bytes) -> dict[str, Any]:
    try:
        told = json.loads(data)
    except (ValueError, RecursionError) as problem:
        raise ConfigError(f"{ABOUT} is no JSON: {problem}") from problem
    if not isinstance(told, dict) or told.get("format") != FORMAT or told.get("version") != VERSION:
        raise ConfigError(f"{ABOUT} is not the description of a TokenAdapt of datakit, version {VERSION}")
    return told


def _bytes_of(files: Mapping[str, bytes | Path], name: str) -> bytes:
    found = files.get(name)
    if found is None:
        raise ConfigError(f"TokenAdapt is two files, {ABOUT} and {TENSORS}: {name} is not among those given")
    if isinstance(found, bytes):
        return found
    try:
        return found.read_bytes()
    except OSError as problem:
        raise ConfigError(f"TokenAdapt: cannot read {found}: {problem.strerror}") from problem
