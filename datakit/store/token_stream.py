"""The loader of tokens alone: batches of grids in a seeded order, shared out over ranks, resumed anywhere.

    stream = stream_tokens("builds/vq_tokens/tokens", 256, shuffle=True, seed=0)
    for batch in stream: batch["tokens"], batch["label"]     # uint16 (N, h, w), int64 (N,); one epoch
    state = stream.state_dict()                              # seed, epoch, position: no word of ranks

The order is that of `store/order.py` with blocks in the place of shards, so `window` reads each block once an epoch
and mixes the images of some of them; a block is decoded once for all its rows that a batch takes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from datakit.errors import ConfigError, StoreError, need
from datakit.rng import rng_for
from datakit.store.loader import Part, Uneven, ranks
from datakit.store.order import WINDOW, Order, Shuffle
from datakit.tokens.opened import TokenSet, open_tokens

Views = Literal["first", "random", "all"]
Rows = NDArray[np.int64]
STATE_VERSION = 1


def stream_tokens(
    place: str | os.PathLike[str] | TokenSet,
    batch_size: int,
    *,
    rank: int | None = None,
    world: int | None = None,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool | Shuffle = False,
    window: int = WINDOW,
    views: Views = "first",
    images: Sequence[int] | NDArray[np.integer[Any]] | None = None,
    uneven: Uneven = "repeat",
    drop_last: bool = False,
    tensors: bool = False,
) -> TokenStream:
    """Batches of a token folder; see above.

    rank, world: without them, RANK and WORLD_SIZE of the environment, or all of it. shuffle: True mixes all images,
    `window` those of `window` blocks. views: of an image that has several, the `first`, another at `random` each
    epoch, or `all`, one after the other. images: numbers of those to read (None: all), as of a split. uneven: as for
    `SplitView.samples`. tensors: torch's, tokens as int64. Raises ConfigError, StoreError.
    """
    if tensors:
        need("batches of tensors", "torch", ["torch"])
    tokens = place if isinstance(place, TokenSet) else open_tokens(place)
    rank, world = ranks(rank, world)
    if isinstance(shuffle, bool):
        shuffle = "full" if shuffle else "none"
    part = Part(rank=rank, world=world, seed=seed, shuffle=shuffle, window=window, uneven=uneven)
    return TokenStream(
        tokens,
        batch_size,
        part,
        epoch=epoch,
        views=views,
        images=images,
        drop_last=drop_last,
        tensors=tensors,
    )


class TokenStream:
    """Batches, epoch after epoch: `len`, `set_epoch`, `state_dict`, `load_state_dict`. Made by `stream_tokens`."""

    def __init__(
        self,
        tokens: TokenSet,
        batch_size: int,
        part: Part,
        *,
        epoch: int,
        views: Views,
        images: Sequence[int] | NDArray[np.integer[Any]] | None,
        drop_last: bool,
        tensors: bool,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size}: at least 1")
        if views not in ("first", "random", "all"):
            raise ConfigError(f"views={views!r}: it is first, random or all")
        self.tokens, self.batch_size, self.part, self.views = tokens, batch_size, part, views
        self.epoch, self.drop_last, self.tensors = epoch, drop_last, tensors
        view = np.asarray(tokens.rows["view"])
        self._firsts = np.flatnonzero(view == 0)  # the row of each image's first view
        self._counts = np.diff(np.append(self._firsts, len(view)))
        chosen = np.arange(len(self._firsts)) if images is None else _numbers(images, len(self._firsts))
        self._images, self._rows = self._positions(chosen)
        blocks = np.asarray(tokens.rows["block"])[self._rows]
        # Rows that lie in one block one after the other are read together, as the samples of a shard are.
        edges = np.flatnonzero(np.diff(blocks)) + 1
        self._sizes = np.diff([0, *edges, len(blocks)]).tolist() if len(blocks) else []
        self._keys = tokens.rows["key"]
        self._labels = np.asarray(tokens.rows["label"]) if "label" in tokens.rows.column_names else None
        self._start = self._given = 0

    def _positions(self, chosen: Rows) -> tuple[Rows, Rows]:
        """(image, row) of each position: one an image, or one a view where all are given."""
        if self.views != "all":
            return chosen, self._firsts[chosen]
        counts = self._counts[chosen]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(chosen, counts), np.repeat(self._firsts[chosen], counts) + within

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch."""
        count = self.part.count(len(self._rows))
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The rest of the epoch: from its start, or from where the state that was loaded stood."""
        part, length = self.part, len(self._rows)
        order = Order(self._sizes, part.shuffle, seed=part.seed, epoch=self.epoch, window=part.window)
        count = part.count(length, self._start)
        self._given = 0
        for begin in range(0, count, self.batch_size):
            end = min(begin + self.batch_size, count)
            if self.drop_last and end - begin < self.batch_size:
                break
            nth = np.arange(begin, end, dtype=np.int64)
            places = order.at((self._start + part.rank + nth * part.world) % max(1, length))
            batch = self._batch(places)
            self._given = end
            yield batch
        self.set_epoch(self.epoch + 1)

    def _batch(self, places: Rows) -> dict[str, Any]:
        rows = self._rows[places]
        if self.views == "random":
            rows = rows + self._drawn()[self._images[places]]
        batch: dict[str, Any] = {
            "__key__": self._keys.take(rows).to_pylist(),
            "tokens": self.tokens.read(rows),
        }
        if self._labels is not None:
            batch["label"] = self._labels[rows].astype(np.int64)
        if not self.tensors:
            return batch
        from datakit.store.torch import tensors_of

        return tensors_of(batch)

    def _drawn(self) -> Rows:
        """The view of each image in this epoch."""
        shares = rng_for(self.part.seed, "views", self.epoch).random(len(self._counts))
        return (shares * self._counts).astype(np.int64)

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of this epoch."""
        self.epoch, self._start, self._given = epoch, 0, 0

    @property
    def position(self) -> int:
        """How far all ranks together are in the epoch, in images (or views, where all are given)."""
        return min(len(self._rows), self._start + self._given * self.part.world)

    def state_dict(self) -> dict[str, Any]:
        """Where the epoch stands, as plain values; the same on every rank, good for any number of them."""
        return {"version": STATE_VERSION, **self._identity(), "epoch": self.epoch, "position": self.position,
                "seed": self.part.seed, "shuffle": self.part.shuffle, "window": self.part.window}  # fmt: skip

    def _identity(self) -> dict[str, Any]:
        return {"tokens": self.tokens.digest, "length": len(self._rows), "views": self.views}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there. Raises StoreError if the state is of other tokens or views, ConfigError if it is none."""
        try:
            if state["version"] != STATE_VERSION:
                raise ConfigError(f"a state of version {state['version']}; this datakit has {STATE_VERSION}")
            for name, here in self._identity().items():
                if state[name] != here:
                    raise StoreError(f"the state is of other {name} ({state[name]}, not {here})")
            epoch, position = state["epoch"], state["position"]
            wanted = {name: state[name] for name in ("seed", "shuffle", "window")}
        except (KeyError, TypeError) as problem:
            raise ConfigError(
                f"this is no state of a token stream: {type(problem).__name__} {problem}"
            ) from problem
        if (
            type(epoch) is not int
            or type(position) is not int
            or not 0 <= position <= len(self._rows)
            or epoch < 0
        ):
            raise ConfigError(f"this is no state of a token stream: epoch {epoch!r}, position {position!r}")
        self.part = replace(self.part, **wanted)
        self.set_epoch(epoch)
        self._start = position


def _numbers(images: Sequence[int] | NDArray[np.integer[Any]], count: int) -> Rows:
    found = np.asarray(images, np.int64)
    if found.ndim != 1 or (len(found) and not 0 <= found.min() <= found.max() < count):
        raise ConfigError(f"images: numbers from 0 to {count - 1}, in one list")
    return found
