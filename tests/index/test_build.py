"""Parts made anywhere merge to the bytes of one; built twice, or on any number of threads, an index is the same."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle, pairwise
from typing import Any

import numpy as np
import pytest

from datakit.errors import ConfigError
from datakit.index.arrays import one_thread
from datakit.index.base import base_of
from datakit.index.build import encode, encode_points, merge, train
from datakit.index.make import make_index
from datakit.index.pack import index_files
from datakit.index.spec import VARIANTS, Basis, Coarse, Codes, Space, Spec, Target, variant
from datakit.index.tune import tune
from tests.index.conftest import Cloud

ROWS = 1700


def small(name: str, **more: Any) -> Spec:
    spec = variant(name, rows=ROWS, **more)
    return spec if spec.coarse.nlist else replace(spec, coarse=Coarse(nlist=16, iterations=3))


@pytest.mark.parametrize(("name", "metric"), [*zip(VARIANTS, cycle(("cosine", "ip", "l2")), strict=False)])
def test_one_to_sixteen_parts_give_the_same_bytes(name: str, metric: Any, cloud: Cloud) -> None:
    vectors, meta = cloud.vectors[:ROWS], cloud.meta.slice(0, ROWS)
    trained = train(vectors, small(name, space=Space(metric=metric, center=True)))
    made, rng = [], np.random.default_rng(1)
    for many in (1, 2, 5, 16):
        cuts = [0, *np.sort(rng.choice(np.arange(1, ROWS), many - 1, replace=False)).tolist(), ROWS]
        parts = [encode(trained, vectors[start:stop], start) for start, stop in pairwise(cuts)]
        assert [len(part.points) for part in parts] == np.diff(cuts).tolist()
        made.append(index_files(trained, merge(trained, parts), meta, name="x"))
    assert all(files == made[0] for files in made)


def test_a_part_may_be_empty_and_one_row_is_a_part(cloud: Cloud) -> None:
    vectors = cloud.vectors[:ROWS]
    trained = train(vectors, small("adanns-ivfpq4fs"))
    whole = merge(trained, [encode(trained, vectors)])
    cuts = [0, 0, 1, 1024, 1024, 1025, ROWS, ROWS]
    parts = [encode(trained, vectors[a:b], a) for a, b in pairwise(cuts)]
    assert merge(trained, parts).lists == whole.lists


def test_parts_in_another_order_are_another_index(cloud: Cloud) -> None:
    """The check above can fail."""
    vectors = cloud.vectors[:ROWS]
    trained = train(vectors, small("adanns-ivf"))
    parts = [encode(trained, vectors[:800]), encode(trained, vectors[800:], 800)]
    assert merge(trained, parts).lists != merge(trained, parts[::-1]).lists
    broken = replace(parts[1], codes=parts[1].codes[::-1].copy())
    assert merge(trained, [parts[0], broken]).lists != merge(trained, parts).lists


@pytest.mark.parametrize("name", VARIANTS)
def test_the_same_data_gives_the_same_bytes_on_any_number_of_threads(name: str, cloud: Cloud) -> None:
    import faiss

    vectors, meta, made = cloud.vectors[:ROWS], cloud.meta.slice(0, ROWS), []
    before = faiss.omp_get_max_threads()
    for threads in (2, 1):
        faiss.omp_set_num_threads(threads)
        spec = small(name, target=Target(queries=70))
        made.append(make_index(vectors, meta, spec, name="x"))
        assert faiss.omp_get_max_threads() == threads, "what was set is left as it was"
    faiss.omp_set_num_threads(before)
    assert made[0] == made[1]


@pytest.mark.parametrize("name", ["adanns-ivf", "adanns-ivfpq4fs", "adanns-hnsw"])
def test_another_seed_is_another_index_of_the_same_rows(name: str, cloud: Cloud) -> None:
    vectors, meta = cloud.vectors[:ROWS], cloud.meta.slice(0, ROWS)
    one, other = (
        make_index(vectors, meta, replace(small(name), seed=seed), name="x", tuning=False) for seed in (0, 1)
    )
    if name != "adanns-hnsw":
        assert one["axes-0.npz"] != other["axes-0.npz"]
    assert one["index.json"] != other["index.json"]


@pytest.mark.parametrize("name", VARIANTS)
def test_what_the_caller_gave_is_read_and_never_written(name: str, cloud: Cloud) -> None:
    vectors = cloud.vectors[:ROWS].copy()
    vectors.flags.writeable = False
    spec = small(name, space=Space(center=True))
    trained = train(vectors, spec)
    merged = merge(trained, [encode(trained, vectors[:900]), encode(trained, vectors[900:], 900)])
    tune(base_of(trained, merged), queries=vectors[:3])
    assert (vectors == cloud.vectors[:ROWS]).all()


def test_a_point_is_encoded_as_the_vector_it_was_made_of(cloud: Cloud) -> None:
    trained = train(cloud.vectors[:ROWS], small("adanns-ivf", space=Space(center=True)))
    part = encode(trained, cloud.vectors[:ROWS])
    again = encode_points(trained, part.points)
    assert (again.codes == part.codes).all() and (again.assigned == part.assigned).all()


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (np.zeros((5, 7)), r"vectors must be \(N, 48\), and they are \(5, 7\)"),
        (np.zeros(48), r"must be \(N, 48\), and they are \(48,\)"),
        (np.full((3, 48), np.inf), "row 0 holds a number that is not finite"),
    ],
)
def test_vectors_of_another_shape_are_refused(vectors: Any, said: str, cloud: Cloud) -> None:
    trained = train(cloud.vectors[:ROWS], small("adanns-ivf"))
    with pytest.raises(ConfigError, match=said):
        encode(trained, vectors)
    with pytest.raises(ConfigError, match="must be"):
        train(np.zeros((2, 2, 2)), small("flat"))
    with pytest.raises(ConfigError, match="a row is zero"):
        train(np.zeros((100, 8)), small("flat"))


def test_all_rows_alike_or_in_one_line_make_an_index(cloud: Cloud) -> None:
    alike = np.tile(cloud.vectors[:1], (400, 1))
    line = np.outer(np.linspace(-1, 1, 400), cloud.vectors[0]).astype(np.float32)
    for vectors in (alike, line):
        for kind in ("sq8", "pq4fs", "rabitqfs"):
            spec = Spec(space=Space(metric="l2"), codes=Codes(kind=kind), coarse=Coarse(nlist=8))  # type: ignore[arg-type]
            made = make_index(vectors, cloud.meta.slice(0, 400), spec)
            assert made["index.json"]


def test_one_thread_is_one_thread_and_gives_back_what_there_was() -> None:
    import faiss

    before = faiss.omp_get_max_threads()
    with pytest.raises(ZeroDivisionError), one_thread():
        assert faiss.omp_get_max_threads() == 1
        raise ZeroDivisionError
    assert faiss.omp_get_max_threads() == before


def test_prefixes_of_an_opq_basis_are_of_the_prefix_alone(cloud: Cloud) -> None:
    spec = Spec(
        basis=Basis(kind="opq", of="prefix"), codes=Codes(kind="pq8", dims=16), coarse=Coarse(nlist=8)
    )
    axes = train(cloud.vectors[:ROWS], spec).axes
    assert (axes.codes[:, 16:] == 0).all() and np.allclose(axes.codes @ axes.codes.T, np.eye(16), atol=1e-4)
    assert not len(axes.coarse) and axes.nested
