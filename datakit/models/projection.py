"""A learned map from features to an embedding whose prefixes are embeddings too; numpy only, so an index can apply it.

Matryoshka embeddings (Kusupati et al. 2022) put the coarse meaning into the first numbers. A prefix of a unit vector
is not a unit vector: cosines of prefixes are only right after each prefix is scaled to length 1 again, and an
AdANNS index that forgets it ranks by length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datakit.errors import ConfigError, StoreError

Features = NDArray[np.floating[Any]]
Floats = NDArray[np.float32]

ROWS = 8192  # mapped at once: 32 MB at 1,024 hidden units


@dataclass(frozen=True)
class Layer:
    """An affine map: x @ weight_IO + bias_O, float32."""

    weight_IO: Floats
    bias_O: Floats

    def __post_init__(self) -> None:
        if self.weight_IO.ndim != 2 or self.bias_O.shape != self.weight_IO.shape[1:]:
            raise ValueError(
                f"weights {self.weight_IO.shape} and bias {self.bias_O.shape} do not fit together"
            )


@dataclass(frozen=True, kw_only=True)
class Projection:
    """Features, standardised by mean_D and scale_D, through layers with ReLU between them.

    dims: the nested sizes trained for, ascending; the last is the embedding's length. Layers that do not fit one
    another are a ValueError.
    """

    mean_D: Floats
    scale_D: Floats
    layers: tuple[Layer, ...]
    dims: tuple[int, ...]

    def __post_init__(self) -> None:
        sizes = [len(self.mean_D), *(layer.weight_IO.shape[1] for layer in self.layers)]
        inputs = [layer.weight_IO.shape[0] for layer in self.layers]
        if not self.layers or inputs != sizes[:-1] or self.scale_D.shape != self.mean_D.shape:
            raise ValueError(f"layers that take {inputs} numbers do not fit those that give {sizes}")
        if list(self.dims) != sorted(set(self.dims)) or not self.dims or self.dims[-1] != sizes[-1]:
            raise ValueError(f"nested sizes {self.dims} must ascend to {sizes[-1]}, the embedding's length")

    @property
    def dim_in(self) -> int:
        return len(self.mean_D)

    @property
    def dim(self) -> int:
        return self.dims[-1]

    def transform(self, features_ND: Features, dim: int | None = None) -> Floats:
        """(N, dim_in) to unit vectors float32 (N, dim): the first `dim` numbers of the embedding, all if None.

        Raises ConfigError where the features have another length or `dim` is not 1 to the embedding's.
        """
        if features_ND.ndim != 2 or features_ND.shape[1] != self.dim_in:
            raise ConfigError(f"features {features_ND.shape} given to a projection of {self.dim_in} numbers")
        chunks = [self._map(features_ND[at : at + ROWS]) for at in range(0, len(features_ND), ROWS)]
        whole = np.concatenate(chunks) if chunks else np.zeros((0, self.dim), dtype=np.float32)
        return prefix(whole, self.dim if dim is None else dim)

    def to_table(self) -> pa.Table:
        """One row an array: name, shape, values. What a step keeps and a folder stores."""
        arrays: list[tuple[str, NDArray[Any]]] = [("mean", self.mean_D), ("scale", self.scale_D)]
        for at, layer in enumerate(self.layers):
            arrays += [(f"weight.{at}", layer.weight_IO), (f"bias.{at}", layer.bias_O)]
        arrays.append(("dims", np.array(self.dims)))
        return pa.table(
            {
                "name": [name for name, _ in arrays],
                "shape": pa.array([list(array.shape) for _, array in arrays], pa.list_(pa.int64())),
                "values": pa.array(
                    [array.astype(np.float32).reshape(-1) for _, array in arrays], pa.list_(pa.float32())
                ),
            }
        )

    def _map(self, features_ND: Features) -> Floats:
        x_ND = (features_ND.astype(np.float32) - self.mean_D) / self.scale_D
        for layer in self.layers[:-1]:
            x_ND = np.maximum(x_ND @ layer.weight_IO + layer.bias_O, 0)
        last = self.layers[-1]
        return np.asarray(x_ND @ last.weight_IO + last.bias_O, dtype=np.float32)


def from_table(table: pa.Table) -> Projection:
    """What `to_table` wrote. Raises StoreError where arrays are missing, or do not fit together."""
    try:
        arrays = {
            row["name"]: np.array(row["values"], dtype=np.float32).reshape(row["shape"])
            for row in table.to_pylist()
        }
        depth = sum(name.startswith("weight.") for name in arrays)
        return Projection(
            mean_D=arrays["mean"],
            scale_D=arrays["scale"],
            layers=tuple(Layer(arrays[f"weight.{at}"], arrays[f"bias.{at}"]) for at in range(depth)),
            dims=tuple(int(dim) for dim in arrays["dims"]),
        )
    except (KeyError, TypeError, ValueError) as problem:
        raise StoreError(
            f"a table that should hold a projection does not: {problem}; build it again"
        ) from problem


def prefix(vectors_ND: Features, dim: int) -> Floats:
    """The first `dim` numbers of every vector, each scaled to length 1 (a zero row stays zero); always a copy.

    A copy because scaling a view in place would shorten the caller's own vectors, as AdANNS's code did.
    """
    if not 1 <= dim <= vectors_ND.shape[1]:
        raise ConfigError(
            f"dim={dim}: vectors of {vectors_ND.shape[1]} numbers have prefixes of 1 to that many"
        )
    cut_ND = np.array(vectors_ND[:, :dim], dtype=np.float32)
    length_N1 = np.linalg.norm(cut_ND, axis=1, keepdims=True)
    return np.asarray(cut_ND / np.where(length_N1 > 0, length_N1, 1), dtype=np.float32)


def nested_sizes(dim: int, *, least: int = 8) -> tuple[int, ...]:
    """Halvings of `dim` down to `least`, ascending: 8, 16, … 256, as the paper takes them."""
    sizes = [dim]
    while sizes[-1] % 2 == 0 and sizes[-1] // 2 >= least:
        sizes.append(sizes[-1] // 2)
    return tuple(reversed(sizes))


def standard(features_ND: Features) -> tuple[Floats, Floats]:
    """Mean (D,) and standard deviation (D,), in float64 first; a column that does not vary has 1."""
    x_ND = np.asarray(features_ND, dtype=np.float64)
    scale_D = x_ND.std(axis=0)
    still = scale_D <= 1e-6 * max(float(np.abs(x_ND).mean()), 1e-12)
    return x_ND.mean(axis=0).astype(np.float32), np.where(still, 1.0, scale_D).astype(np.float32)
