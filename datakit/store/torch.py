"""PyTorch's side of the loader: batches as tensors, a stream of samples, a data set by number.

    loader = open_store(place)["train"].torch(batch_size=256, target_size=224, crop="random", shuffle=True)
    for batch in loader: batch["image"], batch["label"]      # uint8 (N, 3, 224, 224), int64 (N,)

Imported only when asked for: it imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate, get_worker_info

from datakit.memory import Room, Scratch
from datakit.stage import Sample
from datakit.store.batches import Batches, Failed, stacked
from datakit.store.loader import Samples

PREFETCH = 2  # batches a worker process makes ahead
_PARTS = Scratch()


class TorchBatches:
    """Batches of tensors, epoch after epoch: `len`, `set_epoch`, `state_dict`, `load_state_dict`.

    workers: 0 decodes in threads of this process; else that many processes, which pays only where `transform` is
    Python that holds the interpreter. The batches are the same, and so is the state.
    """

    def __init__(
        self, batches: Batches, *, workers: int = 0, pin_memory: bool = False, context: str | None = None
    ) -> None:
        self.batches, self.workers, self.pin_memory, self.context = batches, workers, pin_memory, context
        if batches.plain:
            batches.collate = partial(collated, room=batches.room)
        batches.resize = resized

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        if not self.workers:
            for batch in self.batches:
                yield self._ready(batch)
            return
        samples, given = self.batches.samples, 0
        samples.advance_to(0)
        for count, failed, batch in self._loader():
            for one in failed:
                samples.note(one.place, one.reason, one.problem)
            given += count
            samples.advance_to(given)
            if batch is not None:
                yield batch
        samples.end_epoch()

    def _loader(self) -> DataLoader[Any]:
        return DataLoader(
            _WorkerBatches(self.batches),
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=PREFETCH,
            pin_memory=self.pin_memory,
            multiprocessing_context=self.context,
        )

    def _ready(self, batch: Any) -> Any:
        if not self.pin_memory or not isinstance(batch, Mapping):
            return batch
        return {
            name: value.pin_memory() if isinstance(value, torch.Tensor) else value
            for name, value in batch.items()
        }

    def set_epoch(self, epoch: int) -> None:
        self.batches.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the epoch stands after the batch last handed out; what workers made ahead does not count."""
        return self.batches.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.batches.load_state_dict(state)


class _WorkerBatches(IterableDataset[Any]):
    """In worker w of k: batches w, w+k, … of the epoch, each with its number of samples and what failed of it.

    A DataLoader asks its workers in turns, so the batches come out in their order.
    """

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[tuple[int, list[Failed], Any]]:
        worker = get_worker_info()
        assert worker is not None
        make = self.batches.making()
        for places in islice(self.batches.places(), worker.id, None, worker.num_workers):
            made = [make(place) for place in places]
            failed = [one for one in made if isinstance(one, Failed)]
            kept = [one for one in made if not isinstance(one, Failed)] or self.batches.stand_in()
            yield len(made), failed, self.batches.collate(kept) if kept else None


class TorchSamples(IterableDataset[Any]):
    """The samples of one rank as a stream, for a DataLoader of your own; each of its workers takes its share.

    Its workers mix the order among one another; `SplitView.torch` with `batch_size` keeps it, and has a state.
    """

    def __init__(self, samples: Samples, transform: Callable[[Sample], Any] | None = None) -> None:
        self.samples, self.transform = samples, transform
        self._epoch = torch.tensor(samples.epoch)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]  # its workers may live on

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Any]:
        if self.samples.epoch != int(self._epoch):
            self.samples.set_epoch(int(self._epoch))
        worker = get_worker_info()
        share = (worker.id, worker.num_workers) if worker else (0, 1)
        for place in islice(self.samples.places(), share[0], None, share[1]):
            sample = self.samples.read(place) or self.samples.stand_in(self.samples.sound)
            if sample is not None:
                yield self.transform(sample) if self.transform else sample

    def set_epoch(self, epoch: int) -> None:
        """Before each epoch: a stream does not know when all workers have come to its end."""
        self._epoch.fill_(epoch)


class TorchDataset(Dataset[Any]):
    """The samples of a split by number, for samplers of your own: one positional read a sample."""

    def __init__(self, samples: Samples, transform: Callable[[Sample], Any] | None = None) -> None:
        self.reading, self.transform = samples.reading, transform

    def __len__(self) -> int:
        return len(self.reading)

    def __getitem__(self, index: int) -> Any:
        number = range(len(self))[index]
        sample = self.reading.read(self.reading.samples(np.array([number]))[0])
        return self.transform(sample) if self.transform else sample


def resized(image_HWC: NDArray[np.uint8], out_HWC: NDArray[np.uint8]) -> None:
    """uint8 (height, width, 3) to the size of `out_HWC` by torch's antialiased bilinear filter, which is Pillow's to
    within a step of 8 bits and takes a third of its time: it is vectorised.
    """
    # A copy of a part is nothing; channels that lie together are what the vectorised kernel takes, and torch warns of
    # memory that may not be written to, as Pillow's.
    ready = image_HWC.flags.c_contiguous and image_HWC.flags.writeable
    room = None if ready else _PARTS.take(image_HWC.size)
    if room is None:
        part = np.require(image_HWC, requirements=["C", "W"])
    else:
        part = np.frombuffer(room, np.uint8, image_HWC.size).reshape(image_HWC.shape)
        np.copyto(part, image_HWC)
    given, out = (torch.from_numpy(pixels).permute(2, 0, 1)[None] for pixels in (part, out_HWC))
    # What `interpolate` calls, which has no way to say where the result goes.
    torch.ops.aten._upsample_bilinear2d_aa.out(given, list(out.shape[2:]), False, None, None, out=out)


def collated(samples: list[Any], room: Room | None = None) -> Any:
    """Dicts as a dict of tensors, images (N, H, W, C) as (N, C, H, W) in channels-last memory; what a transform made
    of them otherwise, as torch collates it.
    """
    if not isinstance(samples[0], Mapping):
        return default_collate(samples)
    return {name: _tensor(value) for name, value in stacked(samples, room).items()}


def tensors_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch's arrays as tensors, unsigned integers as int64; what is no array stays what it is."""
    return {name: _tensor(value) for name, value in batch.items()}


def _tensor(value: Any) -> Any:
    if isinstance(value, list) and isinstance(value[0], torch.Tensor):
        return default_collate(value)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        return value
    # uint16 and wider unsigned numbers have few operations in torch: labels and tokens are indices, so int64.
    found = torch.from_numpy(
        value.astype(np.int64) if value.dtype.kind == "u" and value.itemsize > 1 else value
    )
    is_image = value.dtype == np.uint8 and value.ndim == 4 and value.shape[-1] == 3
    return found.permute(0, 3, 1, 2) if is_image else found
