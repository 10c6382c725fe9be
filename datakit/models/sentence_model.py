"""`sentence-transformers:<name>`: a text encoder of the hub, or of a local folder, as its own settings say.

No code that comes with a model is run: only modules of sentence-transformers itself are admitted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datakit.errors import ConfigError, EnvironmentProblem, MissingExtra
from datakit.models import torch_net
from datakit.models.encoder import file_sha256, sha256_of
from datakit.models.text import whole

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


class SentenceEncoder:
    """A model of sentence-transformers, in evaluation mode."""

    def __init__(self, name: str, model: Any, sha256: str, device: torch.device) -> None:
        self.name = f"sentence-transformers:{name}"
        self.weights = sha256 or torch_net.learned_sha256(model)
        self._model = model.to(device)
        self._device = device
        self.dim = self._rows(["blank"]).shape[1]

    def __call__(self, texts: Sequence[str]) -> Floats:
        return self._rows(whole(texts)) if texts else np.empty((0, self.dim), np.float32)

    def _rows(self, texts: list[str]) -> Floats:
        import torch

        cuda = self._device.type == "cuda"
        size = torch_net.CUDA_BATCH if cuda else 1  # as `torch_net.run`
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=cuda):
            rows = self._model.encode(
                texts,
                batch_size=size,
                show_progress_bar=False,
                convert_to_numpy=False,
                convert_to_tensor=True,
            )
        found: Floats = rows.float().cpu().numpy()
        return found


def load(name: str, *, device: str = "cpu") -> SentenceEncoder:
    """The encoder of a model's name or folder. Raises ConfigError (a folder that is none, code in it),
    MissingExtra, EnvironmentProblem (it cannot be fetched).
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as problem:
        raise MissingExtra(f"the text encoder sentence-transformers:{name}", "sentences") from problem
    place, folder = torch_net.pick_device(device), Path(name)
    if folder.is_dir():
        check(folder)
    try:
        model = SentenceTransformer(name, device="cpu", trust_remote_code=False).eval()
    except (OSError, ValueError) as problem:
        raise EnvironmentProblem(f"cannot get sentence-transformers:{name}: {problem}") from problem
    if not folder.is_dir():
        return SentenceEncoder(name, model, "", place)
    return SentenceEncoder(folder.name, model, folder_sha256(folder), place)


def folder_sha256(folder: Path) -> str:
    """sha256 over names and contents of all files of a model's folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = (path.relative_to(folder).as_posix() for path in files)
    return sha256_of(
        f"{name}\0{file_sha256(path, name)}\n".encode() for name, path in zip(names, files, strict=True)
    )


def check(folder: Path) -> None:
    """Raises ConfigError for a folder that is no model, or one that asks for code of its own."""
    # Before its version 6 sentence-transformers ran the code of a local folder without being told to.
    try:
        modules = json.loads((folder / "modules.json").read_bytes())
        kinds = [str(module["type"]) for module in modules]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise ConfigError(
            f"{folder} is no model of sentence-transformers: it has no modules.json that says its parts"
        ) from problem
    if foreign := [kind for kind in kinds if not kind.startswith("sentence_transformers.")]:
        raise ConfigError(f"{folder} asks for {foreign[0]}, code that is not of sentence-transformers")
