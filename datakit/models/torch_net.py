"""A torch net as an encoder runs it: where, in which batches and numbers, and the hash of what it learned.

On the CPU one input a run in float32, so that no vector depends on its neighbours. On CUDA batches in bfloat16, which
keeps 8 bits of a number, so that a vector may differ from the CPU's and depend on its batch: not run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from datakit.errors import ConfigError
from datakit.models.encoder import sha256_of

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

CUDA_BATCH = 64  # inputs a run
T = TypeVar("T")


def pick_device(name: str) -> torch.device:
    """ "auto" is CUDA if there is one, else the CPU.  Raises ConfigError on a device that is not there."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # there and back: "meta" holds no values
    # which of them torch raises depends on the kind of device
    except (AssertionError, ImportError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"device={name} cannot be used here; take auto, cpu, cuda or cuda:N ({reason})"
        ) from error
    return device


def learned_sha256(net: Any) -> str:
    """sha256 over the tensors of a net on the CPU, in the order of their names."""
    tensors = sorted(net.state_dict().items())
    return sha256_of(np.ascontiguousarray(tensor.numpy()).data for _, tensor in tensors)


def run(
    function: Callable[[Any], Any], inputs: Iterable[NDArray[Any]], device: torch.device, *, dim: int
) -> Floats:
    """float32 (N, dim): `function` of tensors (batch, …) on `device`, over N arrays of one shape, taken one by one."""
    import torch

    cuda = device.type == "cuda"
    parts = []
    with torch.inference_mode(), torch.autocast("cuda", dtype=torch.bfloat16, enabled=cuda):
        for part in batches(inputs, CUDA_BATCH if cuda else 1):
            tensor = torch.from_numpy(np.stack(part)).to(device)
            parts.append(function(tensor).float().cpu().numpy())
    return np.concatenate(parts) if parts else np.empty((0, dim), np.float32)


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one of what is left."""
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part
