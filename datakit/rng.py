"""Random numbers by name: the same (seed, names) gives the same stream, on any worker, in any order."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def seed_for(seed: int, *names: str | int) -> int:
    """A 128-bit integer from a seed and names; blake2b, so that near names give unrelated streams."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")


def rng_for(seed: int, *names: str | int) -> np.random.Generator:
    """Generator for (seed, stage, key, ...): Philox, counter-based, as Grain does for its elements."""
    import numpy as np

    return np.random.Generator(np.random.Philox(key=seed_for(seed, *names)))
