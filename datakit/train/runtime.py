"""One thread, fixed seeds, deterministic kernels: what makes two runs of a loop equal bit for bit.

On a GPU the same switches are set, but that was not run on a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped,unused-ignore]

from datakit.models.torch_net import pick_device as pick_device
from datakit.rng import seed_for


def version() -> str:
    """torch's, for the record: other versions may sum in another order."""
    return str(torch.__version__)


def torch_seed(seed: int, *names: str | int) -> int:
    """A seed torch accepts, from a seed and names."""
    return seed_for(seed, *names) % 2**63


@contextmanager
def seeded(seed: int, *names: str | int) -> Iterator[None]:
    """torch's global generator set by name inside, and as it was after: for libraries that draw from it."""
    with torch.random.fork_rng(devices=_cuda_devices()):
        torch.manual_seed(torch_seed(seed, *names))
        yield


@contextmanager
def reproducible() -> Iterator[None]:
    """One thread in torch, BLAS and OpenMP, deterministic kernels only; the settings found are put back.

    One thread because sums are split by the number of threads: results would depend on the machine's cores and
    on how many workers share it.
    """
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    if torch.cuda.is_available():
        # cuBLAS reads it when it starts, and torch refuses deterministic products without it
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with threadpool_limits(1):
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(strict)
            torch.set_num_threads(threads)


def _cuda_devices() -> list[int]:
    return list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
