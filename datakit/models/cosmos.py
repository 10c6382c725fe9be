"""`cosmos:<encoder>,<decoder>`: NVIDIA's Cosmos image tokenizer, discrete: two TorchScript programs, which are run.

Files of TorchScript are code and not only numbers: whoever loads them runs what their maker wrote, so take them only
from people whose programs you would start. The encoder takes (1, 3, H, W), -1 to 1, and gives whole numbers
(1, h, w) first; the decoder takes those and gives pixels. Codes are finite scalars of 8, 8, 8, 5, 5, 5 levels
(64,000); the patch, 8 or 16 px, is found by a trial. They run in the precision they were saved in, one image a run.
Tested on small programs of this form only: no published file was at hand.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datakit.errors import ConfigError, MissingExtra
from datakit.models import torch_net
from datakit.models.encoder import sha256_of
from datakit.models.token_codes import scalar_codebook
from datakit.models.token_maps import check_sides, check_tokens
from datakit.models.tokenizer import digest_of_pair

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Tokens = NDArray[np.uint16]
    Floats = NDArray[np.float32]

LEVELS = (8, 8, 8, 5, 5, 5)
CODES = 64_000
TRIAL = 64  # px, a multiple of both patches there are


@dataclass(frozen=True, kw_only=True)
class Cosmos:
    """The two programs and where they run."""

    name: str
    weights: str
    patch: int
    encoder: Any
    decoder: Any
    device: torch.device
    codes: int = CODES
    size: int = 0

    @property
    def codebook(self) -> Floats:
        """float32 (64000, 6), -1 to 1."""
        return scalar_codebook(LEVELS)

    def encode(self, images_NHWC: Pixels) -> Tokens:
        check_sides(images_NHWC, self.name, patch=self.patch)
        n, height, width, _ = images_NHWC.shape
        grid = (height // self.patch, width // self.patch)
        maps = [_codes(self.encoder, image, self.device, self.name) for image in images_NHWC]
        for codes in maps:
            if codes.shape != grid or not 0 <= codes.min() <= codes.max() < self.codes:
                raise ConfigError(
                    f"tokenizer {self.name}: its encoder gave {codes.shape} numbers from {codes.min()} to "
                    f"{codes.max()}, not {grid} below {self.codes}"
                )
        return np.array(maps, dtype=np.uint16).reshape(n, *grid)

    def decode(self, tokens_NHW: Tokens) -> Pixels:
        check_tokens(tokens_NHW, self.name, codes=self.codes)
        n, h, w = tokens_NHW.shape
        images = [_image(self.decoder, tokens, self.device, self.name) for tokens in tokens_NHW]
        shape = (h * self.patch, w * self.patch, 3)
        if any(image.shape != shape for image in images):
            raise ConfigError(f"tokenizer {self.name}: its decoder gave {images[0].shape}, not {shape}")
        return np.array(images, dtype=np.uint8).reshape(n, *shape)


def load(encoder: Path, decoder: Path, *, device: str = "cpu") -> Cosmos:
    """The tokenizer of these two programs, which are run. Raises ConfigError (no such program), MissingExtra."""
    name = f"cosmos:{encoder.name},{decoder.name}"
    try:
        import torch  # noqa: F401
    except ImportError as problem:
        raise MissingExtra(f"the tokenizer {name}", "torch") from problem
    place = torch_net.pick_device(device)
    programs, digests = [], []
    for path in (encoder, decoder):
        try:
            data = path.read_bytes()
        except OSError as problem:
            raise ConfigError(f"tokenizer {name}: cannot read {path}: {problem.strerror}") from problem
        programs.append(_program(data, path, name).to(place).eval())
        digests.append(sha256_of([data]))
    codes = _codes(programs[0], np.zeros((TRIAL, TRIAL, 3), np.uint8), place, name)
    if codes.ndim != 2 or len(codes) != codes.shape[1] or TRIAL % len(codes):
        raise ConfigError(f"tokenizer {name}: its encoder makes {codes.shape} of {TRIAL} x {TRIAL} px")
    return Cosmos(
        name=name,
        weights=digest_of_pair(*digests),
        patch=TRIAL // len(codes),
        encoder=programs[0],
        decoder=programs[1],
        device=place,
    )


def _codes(encoder: Any, image_HWC: Pixels, device: torch.device, name: str) -> NDArray[np.int64]:
    """int64 (h, w)."""
    import torch

    pixels = torch.from_numpy(np.ascontiguousarray(image_HWC.transpose(2, 0, 1)))[None].to(device)
    found = _called(encoder, (pixels.float() / 127.5 - 1).to(_precision(encoder)), name, "encoder")
    codes = found[0] if isinstance(found, tuple) else found
    if not isinstance(codes, torch.Tensor) or codes.is_floating_point() or len(codes) != 1:
        raise ConfigError(
            f"tokenizer {name}: its encoder must give whole numbers (1, h, w) first; a continuous tokenizer "
            "(CI) has no codes, take a discrete one (DI)"
        )
    numbers: NDArray[np.int64] = codes[0].long().cpu().numpy()
    return numbers


def _image(decoder: Any, tokens_HW: Tokens, device: torch.device, name: str) -> Pixels:
    import torch

    tokens = torch.from_numpy(tokens_HW.astype(np.int32))[None].to(device)
    found = _called(decoder, tokens, name, "decoder")
    pixels = found[0] if isinstance(found, tuple) else found
    levels = ((pixels[0].float().permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255)
    image: Pixels = levels.to(torch.uint8).cpu().numpy()
    return image


def _called(program: Any, value: torch.Tensor, name: str, what: str) -> Any:
    import torch

    try:
        with torch.inference_mode():
            return program(value)
    except RuntimeError as problem:  # what TorchScript raises for all that fails inside
        last = str(problem).strip().rpartition("\n")[2]
        raise ConfigError(
            f"tokenizer {name}: its {what} does not take {value.dtype} {tuple(value.shape)}: {last}"
        ) from problem


def _precision(program: Any) -> torch.dtype:
    """Of the weights as they were saved: parts of a program may have it written in."""
    import torch

    return next((weight.dtype for weight in program.parameters()), torch.float32)


def _program(data: bytes, path: Path, name: str) -> Any:
    import torch

    try:
        with warnings.catch_warnings():
            # torch warns that TorchScript is to be replaced by torch.export, whose files change with each version
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            return torch.jit.load(io.BytesIO(data), map_location="cpu")  # type: ignore[no-untyped-call]
    except RuntimeError as problem:
        reason = str(problem).partition("\n")[0]
        raise ConfigError(f"tokenizer {name}: {path.name} is no TorchScript file: {reason}") from problem
