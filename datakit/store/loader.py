"""The loader: an epoch's samples in a seeded order, shared out over ranks, resumed anywhere.

    samples = open_store(place)["train"].samples(rank=0, world=2, seed=0, shuffle=True)
    for sample in samples: ...          # one epoch; the next `for` is the next epoch
    state = samples.state_dict()        # seed, epoch, global position: no word of ranks or workers

The samples of an epoch stand at positions 0 … n-1 of one global order (`store/order.py`). Rank r of w takes
every w-th from r on, so that all ranks together go through the positions in order, and "position p is done" says
all about an epoch under way: any other number of ranks or workers goes on from there.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from datakit.errors import ConfigError, SampleError, StoreError
from datakit.stage import Sample
from datakit.store.order import WINDOW, Order, Shuffle
from datakit.store.reading import Place, Reading, reading_of

if TYPE_CHECKING:
    from datakit.store.view import SplitView

T = TypeVar("T")
Uneven = Literal["repeat", "drop", "keep"]
OnError = Literal["raise", "skip"]

BLOCK = 1024  # positions whose places are looked up at once
FULL = 1 << 22  # samples up to which `shuffle=True` mixes all of them, on a local disk
SKIPPED_NAMED = 100  # samples left out that are kept by key; all are counted
STATE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Part:
    """Which part of which order: everything about an epoch but where it stands.

    uneven: what becomes of the last samples where they do not go round all ranks: `repeat` some from the order's
    start, so that every rank has as many and none waits for another; `drop` them; `keep` them, so that ranks
    differ by one.
    """

    rank: int = 0
    world: int = 1
    seed: int = 0
    shuffle: Shuffle = "none"
    window: int = WINDOW
    uneven: Uneven = "repeat"

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ConfigError(f"rank={self.rank} of world={self.world}: ranks go from 0 to {self.world - 1}")
        if self.shuffle not in ("none", "window", "full"):
            raise ConfigError(f"shuffle={self.shuffle!r}: it is True, False, none, window or full")
        if self.window < 1:
            raise ConfigError(f"window={self.window}: shards, at least 1")
        if self.uneven not in ("repeat", "drop", "keep"):
            raise ConfigError(f"uneven={self.uneven!r}: it is repeat, drop or keep")

    def count(self, length: int, start: int = 0) -> int:
        """Samples of this rank from the global position `start` on."""
        left = length - start
        if self.uneven == "repeat":
            return -(-left // self.world)
        if self.uneven == "drop":
            return left // self.world
        return max(0, -(-(left - self.rank) // self.world))


class Samples:
    """The samples of one rank, epoch after epoch. Made by `SplitView.samples`.

    `skipped`: samples left out by reason, where `on_error="skip"`; `skipped_keys`: (key, reason) of the first.
    """

    def __init__(
        self, view: SplitView, part: Part, *, epoch: int = 0, fields: Sequence[str] | None, on_error: OnError
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise ConfigError(f"on_error={on_error!r}: it is raise or skip")
        self.view, self.part, self.fields, self.on_error = view, part, fields, on_error
        self.epoch = epoch
        self.reading: Reading = reading_of(view, fields, shuffle=part.shuffle, window=part.window)
        if len(self.reading) < part.world and part.uneven == "drop":
            raise ConfigError(
                f"{view.split} has {len(self.reading)} samples, fewer than the {part.world} ranks"
            )
        self.skipped: Counter[str] = Counter()
        self.skipped_keys: list[tuple[str, str]] = []
        # Where one that is sound lies, if any does; None: not looked for.
        self._spare: list[Place] | None = None
        self._start = 0  # global position where this epoch begins, or began again
        self._given = 0  # samples of this rank that the present iteration gave

    def __len__(self) -> int:
        """Samples of this rank in a whole epoch, whatever was loaded."""
        return self.part.count(len(self.reading))

    def __iter__(self) -> Iterator[Sample]:
        """The rest of the epoch: from its start, or from where the state that was loaded stood."""
        self._given = 0
        for place in self.places():
            sample = self.read(place) or self.stand_in(self.sound)
            self._given += 1
            if sample is not None:
                yield sample
        self.end_epoch()

    def places(self) -> Iterator[Place]:
        """Where the rest of this rank's samples lie, in order."""
        for block in self.blocks(self._start, self.part.count(len(self.reading), self._start)):
            yield from block

    def blocks(self, start: int, count: int) -> Iterator[list[Place]]:
        """The places of this rank's next `count` samples from a global position on, some at a time."""
        part, length = self.part, len(self.reading)
        order = Order(self.reading.sizes, part.shuffle, seed=part.seed, epoch=self.epoch, window=part.window)
        for begin in range(0, count, BLOCK):
            nth = np.arange(begin, min(begin + BLOCK, count), dtype=np.int64)
            # Past the end, what `repeat` adds: the order's first samples once more.
            positions = (start + part.rank + nth * part.world) % max(1, length)
            self._fetch_ahead(order, int(positions[0]))
            yield self.reading.samples(order.at(positions))

    def _fetch_ahead(self, order: Order, position: int) -> None:
        """Shards of a URL on their way before they are needed."""
        reading = self.reading
        in_list_order = reading.rows is not None and self.part.shuffle == "none"
        if reading.image and reading.shards.files.local is None and not in_list_order:
            entries = reading.shards.entries
            reading.shards.files.prefetch([entries[shard].tar for shard in order.shards_from(position)])

    def read(self, place: Place) -> Sample | None:
        """The sample; None for one that is damaged, where that is to be skipped."""
        try:
            return self.reading.read(place)
        except StoreError as problem:
            self.note(place, "damaged", problem)
            return None

    def stand_in(self, make: Callable[[Place], T | None]) -> T | None:
        """In place of one that was left out: what `make` gives for the first place of this rank's epoch for which it
        gives anything, where other ranks would wait for it; else None.
        """
        if self.part.world == 1 or self.part.uneven == "keep":
            return None
        if self._spare is None:  # looked for once an epoch: a lost shard may be thousands of samples
            places = chain.from_iterable(self.blocks(0, len(self)))
            self._spare = list(islice((place for place in places if make(place) is not None), 1))
        return make(self._spare[0]) if self._spare else None

    def sound(self, place: Place) -> Sample | None:
        """The sample, if it is."""
        try:
            return self.reading.read(place)
        except StoreError:  # put down where its turn is
            return None

    def note(self, place: Place, reason: str, problem: StoreError | SampleError) -> None:
        """Put down a sample that is left out. Raises the problem where none may be."""
        if self.on_error == "raise":
            raise problem
        self.skipped[reason] += 1
        if len(self.skipped_keys) < SKIPPED_NAMED:
            # Its shard's metadata may be what is damaged: then there is no key to tell.
            try:
                key = self.reading.key(place)
            except StoreError:
                key = f"{self.view.split}, row {place[1]} of shard {place[0]}"
            self.skipped_keys.append((key, reason))

    def end_epoch(self) -> None:
        self.set_epoch(self.epoch + 1)

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of this epoch."""
        self.epoch, self._start, self._given, self._spare = epoch, 0, 0, None

    @property
    def start(self) -> int:
        """The global position from which `iter` goes on."""
        return self._start

    def advance_to(self, given: int) -> None:
        """Say how many samples of this rank the present iteration has handed out."""
        self._given = given

    @property
    def position(self) -> int:
        """How far all ranks together are in the epoch, in samples."""
        return min(len(self.reading), self._start + self._given * self.part.world)

    def state_dict(self) -> dict[str, Any]:
        """Where the epoch stands, as plain values; the same on every rank, good for any number of them."""
        return {
            "version": STATE_VERSION,
            "store": self.view.store.digest,
            "selection": self.view.store.selection,
            "split": self.view.split,
            "samples": len(self.reading),
            "seed": self.part.seed,
            "shuffle": self.part.shuffle,
            "window": self.part.window,
            "epoch": self.epoch,
            "position": self.position,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there: seed, shuffle, window, epoch and position are the state's.

        Raises StoreError if the state is of another store, selection or split, ConfigError if it is none.
        """
        try:
            if state["version"] != STATE_VERSION:
                raise ConfigError(
                    f"a loader's state of version {state['version']}; this datakit has {STATE_VERSION}"
                )
            here = self.state_dict()
            for name in ("store", "selection", "split", "samples"):
                if state[name] != here[name]:
                    raise StoreError(f"the state is of another {name} ({state[name]}, not {here[name]})")
            wanted = {name: state[name] for name in ("seed", "shuffle", "window")}
            epoch, position = state["epoch"], state["position"]
            numbers = {"epoch": epoch, "position": position, **wanted}
            for name in ("epoch", "position", "seed", "window"):
                if type(numbers[name]) is not int or (name != "seed" and numbers[name] < 0):
                    raise ConfigError(f"this is no loader's state: {name} is {numbers[name]!r}")
        except (KeyError, TypeError, ValueError) as problem:
            raise ConfigError(f"this is no loader's state: {type(problem).__name__} {problem}") from problem
        if not 0 <= position <= len(self.reading):
            raise ConfigError(
                f"position {position} of {len(self.reading)} samples: this is no loader's state"
            )
        self.part = replace(self.part, **wanted)
        self.reading = reading_of(self.view, self.fields, shuffle=self.part.shuffle, window=self.part.window)
        self.set_epoch(epoch)
        self._start = position


def part_of(
    view: SplitView,
    *,
    rank: int | None,
    world: int | None,
    seed: int,
    shuffle: bool | Shuffle,
    window: int,
    uneven: Uneven,
) -> Part:
    """The part that these words ask for. Without rank and world, those of torchrun's environment, or all of it."""
    rank, world = ranks(rank, world)
    if isinstance(shuffle, bool):
        few = view.store.files.local is not None and len(view) <= FULL
        shuffle = ("full" if few else "window") if shuffle else "none"
    return Part(rank=rank, world=world, seed=seed, shuffle=shuffle, window=window, uneven=uneven)


def ranks(rank: int | None, world: int | None) -> tuple[int, int]:
    """Rank and world as given; without them, those of torchrun's environment, or all of it. Raises ConfigError."""
    if (rank is None) != (world is None):
        raise ConfigError("rank and world go together: give both or neither")
    if rank is not None and world is not None:
        return rank, world
    try:
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        raise ConfigError(
            f"RANK={os.environ.get('RANK')} and WORLD_SIZE={os.environ.get('WORLD_SIZE')} must be numbers"
        ) from None
