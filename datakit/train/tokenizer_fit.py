"""The loop behind `fit_tokenizer`: crops, nets, quantiser, loss; and what of them is kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib.metadata import version as version_of
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from datakit.errors import EnvironmentProblem
from datakit.models.token_net import build
from datakit.models.tokenizer_files import write_parts
from datakit.rng import rng_for
from datakit.train.quantizers import Quantizer
from datakit.train.runtime import pick_device, reproducible, seeded
from datakit.train.tokenizer_options import TokenizerOptions

Pixels = NDArray[np.uint8]
NOTES = 20  # lines of history
PACKAGES = ("numpy", "safetensors", "torch", "vector-quantize-pytorch")


def fit(
    images_NHWC: Pixels, options: TokenizerOptions, *, seed: int
) -> tuple[dict[str, bytes], list[dict[str, float]]]:
    """The two files, and the history."""
    device = pick_device(options.device)
    half = half_precision(options.precision, device)
    with reproducible(), seeded(seed, "tokenizer"):
        net = build(options.settings()).to(device).to(memory_format=torch.channels_last).train()
        quantizer = Quantizer(options).to(device).train()
        history = list(_train(net, quantizer, images_NHWC, options, seed=seed, half=half))
    tensors = {name: tensor.detach().cpu().numpy() for name, tensor in net.state_dict().items()}
    about = {
        "fitted": {
            "images": len(images_NHWC),
            "side": list(images_NHWC.shape[1:3]),
            "seed": seed,
            "options": options.as_json(),
            "precision": "bfloat16" if half else "float32",
            "device": device.type,
            "last": history[-1],
        },
        "versions": {name: version_of(name) for name in PACKAGES},
    }
    return write_parts(options.settings(), tensors | quantizer.learned(), about), history


def half_precision(precision: str, device: torch.device) -> bool:
    """Whether to train in bfloat16. Asked of the hardware and not of a clock, which would not always say the same."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    can = torch.cpu.get_capabilities()
    return bool(can.get("avx512_bf16") or can.get("amx_bf16"))


def _train(
    net: nn.ModuleDict,
    quantizer: Quantizer,
    images_NHWC: Pixels,
    options: TokenizerOptions,
    *,
    seed: int,
    half: bool,
) -> Iterator[dict[str, float]]:
    device = next(net.parameters()).device
    weights = [*net.parameters(), *quantizer.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=options.lr, betas=(0.9, 0.99), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, options.steps))
    every, began = max(1, options.steps // NOTES), time.monotonic()
    for step, pixels in enumerate(_crops(images_NHWC, options, seed), start=1):
        x = pixels.to(device, memory_format=torch.channels_last).float() / 127.5 - 1
        back, codes, extra = _there_and_back(net, quantizer, x, half)
        error = nn.functional.mse_loss(back, x)
        loss = error + extra
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
        if step == 1 or step % every == 0 or step == options.steps:
            yield _note(step, float(loss.detach()), float(error.detach()), codes, options.codes)
        if options.seconds and time.monotonic() - began > options.seconds and step < options.steps:
            raise EnvironmentProblem(
                f"training the tokenizer took {options.seconds:g} s for {step} of {options.steps} steps: "
                "allow more seconds, or ask for fewer steps"
            )


def _there_and_back(
    net: nn.ModuleDict, quantizer: Quantizer, x: Tensor, half: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels again, codes, and the quantiser's own loss. Vectors and codes stay in float32."""

    def precision() -> AbstractContextManager[Any]:
        return torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=half)

    with precision():
        vectors = net["encoder"](x)
    coded, codes, extra = quantizer(vectors.float())
    with precision():
        back = net["decoder"](coded.contiguous(memory_format=torch.channels_last))
    return back.float(), codes, extra


def _crops(images_NHWC: Pixels, options: TokenizerOptions, seed: int) -> Iterator[Tensor]:
    """uint8 (batch, 3, crop, crop), as many as there are steps."""
    n, height, width, _ = images_NHWC.shape
    rng, crop = rng_for(seed, "tokenizer", "crops"), options.crop
    for _ in range(options.steps):
        numbers = rng.integers(0, n, options.batch_size)
        tops = rng.integers(0, height - crop + 1, options.batch_size)
        lefts = rng.integers(0, width - crop + 1, options.batch_size)
        mirrored = rng.random(options.batch_size) < 0.5
        batch = np.stack(
            [
                images_NHWC[number, top : top + crop, left : left + crop][:, :: -1 if mirror else 1]
                for number, top, left, mirror in zip(numbers, tops, lefts, mirrored, strict=True)
            ]
        )
        yield torch.from_numpy(batch).permute(0, 3, 1, 2)


def _rate(step: int, steps: int) -> float:
    """A twentieth of the steps rising, then half a cosine down."""
    rising = max(1, steps // 20)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + float(np.cos(np.pi * min(1.0, (step - rising) / max(1, steps - rising)))))


def _note(step: int, loss: float, error: float, codes: Tensor, count: int) -> dict[str, float]:
    shares = np.bincount(codes.cpu().numpy().reshape(-1), minlength=count) / codes.numel()
    seen = shares[shares > 0]
    return {
        "step": step,
        "loss": loss,
        "psnr": float(10 * np.log10(4 / max(error, 1e-12))),  # values -1 to 1: a peak of 2
        "used": len(seen),
        "perplexity": float(2 ** -(seen * np.log2(seen)).sum()),
    }
