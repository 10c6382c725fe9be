"""Projections: prefixes of unit length that leave the whole alone, and a table that holds all of it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from datakit.errors import ConfigError, StoreError
from datakit.models.projection import (
    ROWS,
    Layer,
    Projection,
    from_table,
    nested_sizes,
    prefix,
    standard,
)
from datakit.rng import rng_for


def random_projection(*sizes: int, dims: tuple[int, ...]) -> Projection:
    rng = rng_for(0, "projection")
    layers = [
        Layer(rng.standard_normal(shape).astype(np.float32), rng.standard_normal(shape[1]).astype(np.float32))
        for shape in pairwise(sizes)
    ]
    return Projection(
        mean_D=rng.standard_normal(sizes[0]).astype(np.float32),
        scale_D=rng.uniform(0.5, 2, sizes[0]).astype(np.float32),
        layers=tuple(layers),
        dims=dims,
    )


def test_every_prefix_is_of_length_one_and_points_where_the_whole_does() -> None:
    projection, x_ND = random_projection(6, 10, 8, dims=(2, 4, 8)), rng_for(0, "x").standard_normal((50, 6))
    whole = projection.transform(x_ND)
    for dim in (1, 2, 4, 8):
        cut = projection.transform(x_ND, dim)
        assert cut.shape == (50, dim) and cut.dtype == np.float32
        assert np.allclose(np.linalg.norm(cut, axis=1), 1, atol=1e-6)
        assert np.allclose(
            cut * np.linalg.norm(whole[:, :dim], axis=1, keepdims=True), whole[:, :dim], atol=1e-6
        )


def test_a_prefix_never_changes_the_vectors_it_was_cut_from() -> None:
    vectors = rng_for(0, "v").standard_normal((1, 8)).astype(np.float32)
    before = vectors.copy()
    cut = prefix(vectors, 8)  # of one row and whole length: a view would be the caller's own memory
    cut[:] = 0
    assert np.array_equal(vectors, before)


def test_a_zero_row_stays_zero() -> None:
    assert np.array_equal(prefix(np.zeros((2, 4)), 2), np.zeros((2, 2)))


def test_rows_are_mapped_alike_in_whatever_company() -> None:
    projection = random_projection(3, 4, dims=(4,))
    x_ND = rng_for(0, "many").standard_normal((ROWS + 2, 3))
    assert np.allclose(projection.transform(x_ND)[-1:], projection.transform(x_ND[-1:]), atol=1e-6)
    assert projection.transform(x_ND[:0]).shape == (0, 4)


def test_a_projection_survives_its_table() -> None:
    projection, x_ND = random_projection(5, 7, 4, dims=(2, 4)), rng_for(0, "t").standard_normal((9, 5))
    again = from_table(projection.to_table())
    assert again.dims == (2, 4) and again.dim == 4 and again.dim_in == 5
    assert np.array_equal(again.transform(x_ND), projection.transform(x_ND))


@pytest.mark.parametrize("lost", ["mean", "scale", "weight.0", "bias.1", "dims"])
def test_a_table_that_lost_an_array_is_refused(lost: str) -> None:
    table = random_projection(5, 7, 4, dims=(2, 4)).to_table()
    kept = [row for row in table.to_pylist() if row["name"] != lost]
    with pytest.raises(StoreError, match="build it again"):
        from_table(pa.Table.from_pylist(kept, schema=table.schema))


def test_what_does_not_fit_is_refused() -> None:
    projection = random_projection(5, 4, dims=(2, 4))
    with pytest.raises(ConfigError, match="projection of 5 numbers"):
        projection.transform(np.zeros((2, 6)))
    for dim in (0, 5):
        with pytest.raises(ConfigError, match=f"dim={dim}"):
            projection.transform(np.zeros((2, 5)), dim)
    with pytest.raises(ValueError, match="must ascend to 4"):
        random_projection(5, 4, dims=(4, 2))
    with pytest.raises(ValueError, match="do not fit together"):
        Layer(np.zeros((2, 3), np.float32), np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="do not fit those that give"):
        Projection(mean_D=np.zeros(4, np.float32), scale_D=np.ones(4, np.float32), dims=(3,),
                   layers=(Layer(np.zeros((5, 3), np.float32), np.zeros(3, np.float32)),))  # fmt: skip


def test_nested_sizes_are_halvings() -> None:
    assert nested_sizes(256) == (8, 16, 32, 64, 128, 256)
    assert nested_sizes(48) == (12, 24, 48)
    assert nested_sizes(6) == (6,)


def test_a_column_that_does_not_vary_is_only_centred() -> None:
    x_ND = np.stack([np.full(20, 7.0), rng_for(0, "s").normal(3, 2, 20)], axis=1)
    mean_D, scale_D = standard(x_ND)
    assert scale_D[0] == 1 and np.allclose((x_ND - mean_D) / scale_D, [[0, 0]], atol=4)
    assert np.allclose(((x_ND - mean_D) / scale_D)[:, 1].std(), 1, atol=1e-5)
