"""Batches of a loader: read, decoded at the size needed and stacked, by threads, in the loader's order.

Threads, not processes: the codecs leave the interpreter free, and a sample that crosses processes costs 0.2 ms.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from datakit.codec import Codec, Resize, chosen, cover
from datakit.errors import ConfigError, SampleError, StoreError
from datakit.image import Image
from datakit.memory import Room, Slabs
from datakit.rng import rng_for
from datakit.scaled import Box
from datakit.stage import Sample
from datakit.store.loader import Samples
from datakit.store.reading import IMAGE, Place

Crop = Literal["centre", "random"]
Pixels = NDArray[np.uint8]

AHEAD = 2  # batches in the making beside the one that is handed out
# Of a random crop, as in Szegedy et al. 2015 (Inception): share of the area, width over height, tries.
AREA, ASPECT, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10


@dataclass(frozen=True, slots=True)
class Failed:
    """A sample that cannot be given, and why."""

    place: Place
    reason: str
    problem: StoreError | SampleError


@dataclass(frozen=True, kw_only=True)
class Making:
    """From a place to what goes into a batch. Made for one epoch, called from any thread or process.

    target_size: side in px of `image`, uint8 (side, side, 3); None leaves it an Image. crop: `centre`, after the
    shorter side was scaled; `random`, a part of the image, perhaps mirrored, drawn from (seed, epoch, key).
    """

    samples: Samples
    epoch: int
    target_size: int | None = None
    crop: Crop = "centre"
    transform: Callable[[Sample], Any] | None = None
    resize: Resize | None = None
    codec: Codec = "auto"
    slabs: Slabs = field(default_factory=Slabs)

    def __call__(self, place: Place) -> Any:
        try:
            sample = self.samples.reading.read(place)
            if self.target_size is not None and isinstance(sample.get(IMAGE), Image):
                sample[IMAGE] = self._pixels(sample["__key__"], sample[IMAGE])
        except StoreError as problem:
            return Failed(place, "damaged", problem)
        except SampleError as problem:
            named = SampleError(problem.reason, f"{self._name(place)}: {problem.detail}")
            return Failed(place, problem.reason, named)
        return self.transform(sample) if self.transform else sample

    def _pixels(self, key: str, image: Image) -> Pixels:
        assert self.target_size is not None
        if self.crop == "centre":
            return self._cover(image, None)
        rng = rng_for(self.samples.part.seed, "crop", self.epoch, key)
        header = image.header
        upright = header.orientation < 5  # the others lie on their side
        size = (header.width, header.height) if upright else (header.height, header.width)
        box = random_box(*size, rng)
        pixels = self._cover(image, box)
        if rng.random() >= 0.5:
            return pixels
        mirrored = pixels[:, ::-1]
        # Stacking copies it in any order; a transform may hand it to what takes only pixels as they come.
        return mirrored if self.transform is None else np.ascontiguousarray(mirrored)

    def _cover(self, image: Image, box: Box | None) -> Pixels:
        side = self.target_size
        assert side is not None
        space = self.slabs.take(3 * side * side)
        out = None if space is None else np.frombuffer(space, np.uint8).reshape(side, side, 3)
        return cover(image.buffer, side, box=box, resize=self.resize, codec=self.codec, out=out)

    def _name(self, place: Place) -> str:
        reading = self.samples.reading
        return f"{reading.shards.entries[place[0]].tar.path}, sample {reading.key(place)}"


class Batches:
    """The batches of one rank, epoch after epoch. Made by `SplitView.batches`.

    `collate` makes one of a list of what `transform` (or, without one, the loader) gave.
    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int,
        *,
        threads: int | None = None,
        target_size: int | None = None,
        crop: Crop = "centre",
        codec: Codec = "auto",
        transform: Callable[[Sample], Any] | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        drop_last: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size}: at least 1")
        if threads is not None and threads < 0:
            raise ConfigError(f"threads={threads}: 0 or more")
        if target_size is not None and target_size < 1:
            raise ConfigError(f"target_size={target_size}: px, at least 1")
        if crop not in ("centre", "random"):
            raise ConfigError(f"crop={crop!r}: it is centre or random")
        if crop == "random" and target_size is None:
            raise ConfigError("crop='random' needs target_size=, the side in px of what it gives")
        self.samples, self.batch_size, self.drop_last = samples, batch_size, drop_last
        self.threads = (os.cpu_count() or 1) if threads is None else threads
        self.target_size, self.crop, self.codec = target_size, crop, chosen(codec)
        self.transform = transform
        self.room = Room()
        self.collate = collate or partial(stacked, room=self.room)
        self.plain = collate is None
        self.resize: Resize | None = None

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self._batches(len(self.samples))

    def _batches(self, count: int) -> int:
        return count // self.batch_size if self.drop_last else math.ceil(count / self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        """The rest of the epoch, from its start or from where the state that was loaded stood."""
        self.samples.advance_to(0)
        given = 0
        for made in self.made(self.places()):
            kept = self.kept(made) or self.stand_in()
            batch = self.collate(kept) if kept else None
            # Only now: an error above is of a batch that nobody was given.
            given += len(made)
            self.samples.advance_to(given)
            if kept:
                yield batch
        self.samples.end_epoch()

    def stand_in(self) -> list[Any]:
        """For a batch of which nothing is left: the first sound sample of this rank's epoch, where other ranks would
        wait for the batch; else nothing.
        """
        make = self.making()

        def sound(place: Place) -> list[Any] | None:
            made = make(place)
            return None if isinstance(made, Failed) else [made]

        return self.samples.stand_in(sound) or []

    def places(self) -> Iterator[list[Place]]:
        """The places of each batch that is left of the epoch."""
        count = self.samples.part.count(len(self.samples.reading), self.samples.start)
        places = self.samples.places()
        for _ in range(self._batches(count)):
            yield list(islice(places, self.batch_size))

    def making(self) -> Making:
        return Making(
            samples=self.samples,
            epoch=self.samples.epoch,
            target_size=self.target_size,
            crop=self.crop,
            transform=self.transform,
            resize=self.resize,
            codec=self.codec,
        )

    def made(self, batches: Iterator[list[Place]]) -> Iterator[list[Any]]:
        """What became of each place of each batch, in order; AHEAD batches are in the making meanwhile."""
        make = self.making()
        if not self.threads:
            for places in batches:
                yield [make(place) for place in places]
            return
        # Without `with`: an epoch that is left early must not wait for what it no longer wants.
        executor = ThreadPoolExecutor(self.threads, thread_name_prefix="datakit-batches")
        try:
            waiting: deque[list[Future[list[Any]]]] = deque()
            for places in batches:
                waiting.append([executor.submit(_each, make, some) for some in _parts(places, self.threads)])
                if len(waiting) > AHEAD:
                    yield _joined(waiting.popleft())
            while waiting:
                yield _joined(waiting.popleft())
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

    def kept(self, made: list[Any]) -> list[Any]:
        """Those that can be given; the others are put down, in order, or the first is raised."""
        for failed in made:
            if isinstance(failed, Failed):
                self.samples.note(failed.place, failed.reason, failed.problem)
        return [one for one in made if not isinstance(one, Failed)]

    def set_epoch(self, epoch: int) -> None:
        self.samples.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the epoch stands after the batch last handed out; see `Samples.state_dict`."""
        return self.samples.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.samples.load_state_dict(state)


def _each(make: Making, places: Sequence[Place]) -> list[Any]:
    return [make(place) for place in places]


def _parts(places: Sequence[Place], parts: int) -> Iterator[Sequence[Place]]:
    size = max(1, math.ceil(len(places) / parts))
    for start in range(0, len(places), size):
        yield places[start : start + size]


def _joined(futures: Sequence[Future[list[Any]]]) -> list[Any]:
    return [one for future in futures for one in future.result()]


def random_box(width: int, height: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A part of an image as (left, top, right, bottom), each a share in [0, 1]; the centre if none fits."""
    for _ in range(TRIES):
        area = width * height * rng.uniform(*AREA)
        aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        wide, high = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if wide <= width and high <= height:
            left, top = rng.uniform(0, width - wide), rng.uniform(0, height - high)
            return left / width, top / height, (left + wide) / width, (top + high) / height
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left / width, top / height, (left + side) / width, (top + side) / height


def stacked(samples: list[Sample], room: Room | None = None) -> dict[str, Any]:
    """One value a field: arrays of one shape stacked, numbers as an array, everything else as a list."""
    return {name: _column([sample[name] for sample in samples], room or Room()) for name in samples[0]}


def _column(values: list[Any], room: Room) -> Any:
    first = values[0]
    if isinstance(first, np.ndarray):
        same = all(isinstance(value, np.ndarray) and value.shape == first.shape for value in values)
        return _stack(values, first, room) if same else values
    if all(type(value) in (int, float, bool) for value in values):
        return np.asarray(values)
    return values


def _stack(values: list[NDArray[Any]], first: NDArray[Any], room: Room) -> NDArray[Any]:
    dtype = np.result_type(*{value.dtype for value in values})
    if dtype.hasobject:
        return np.stack(values)
    return np.stack(values, out=room.array((len(values), *first.shape), dtype))
