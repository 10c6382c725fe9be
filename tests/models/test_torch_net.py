"""How torch nets are run: each input by itself on the CPU, equal within bfloat16's reach on CUDA."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from datakit.errors import ConfigError
from datakit.models import timm_model
from datakit.models.encoder import load
from datakit.models.torch_net import CUDA_BATCH, batches, learned_sha256, pick_device, run
from datakit.rng import rng_for

torch = pytest.importorskip("torch")


def test_on_the_cpu_a_net_sees_one_input_a_run_in_float32() -> None:
    seen = []

    def net(batch: Any) -> Any:
        seen.append((tuple(batch.shape), batch.dtype))
        return batch.sum(dim=2)

    inputs = [np.full((2, 3), at, np.float32) for at in range(4)]
    rows = run(net, iter(inputs), pick_device("cpu"), dim=2)
    assert rows.tolist() == [[0, 0], [3, 3], [6, 6], [9, 9]]
    assert seen == [((1, 2, 3), torch.float32)] * 4
    assert run(net, [], pick_device("cpu"), dim=2).shape == (0, 2)


def test_batches_hold_all_in_order_and_none_is_empty() -> None:
    assert list(batches(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(batches([], 3)) == []


def test_one_changed_weight_is_another_fingerprint() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    first = learned_sha256(net)
    assert first == learned_sha256(net)
    with torch.no_grad():
        net[0].weight[0, 0] += 1
    assert learned_sha256(net) != first


def test_a_device_that_is_not_there_is_a_wrong_word() -> None:
    pytest.importorskip("timm")
    for name in ("toaster", "meta", f"cuda:{torch.cuda.device_count()}"):
        with pytest.raises(ConfigError, match=f"device={name} cannot be used here; take auto, cpu, cuda"):
            load("timm:test_resnet", device=name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_cuda_vectors_are_near_those_of_the_cpu() -> None:
    pytest.importorskip("timm")
    sizes = range(CUDA_BATCH + 3)
    pictures = [rng_for(i, "p").integers(0, 256, (40, 60 + i, 3)).astype(np.uint8) for i in sizes]
    vectors = []
    for device in ("cpu", "auto"):
        torch.manual_seed(0)
        vectors.append(timm_model.load("test_resnet", pretrained=False, device=device)(pictures))
    cosine = (vectors[0] * vectors[1]).sum(axis=1) / np.prod(np.linalg.norm(vectors, axis=2), axis=0)
    assert cosine.min() > 0.99
