"""The trainers over rows: columns of vectors and of lists of vectors, with gaps; a table and JSON come back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.errors import CatalogError, StageError
from datakit.models.projection import from_table
from datakit.rng import rng_for
from datakit.stages.columns import TableRows
from datakit.train.retrieval_stages import captioned, column_vectors, dual_encoder, nested_projection


def lists(array: Any, dtype: Any = np.float16) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(array, dtype).reshape(-1)), array.shape[1])


def rows_of(**columns: Any) -> TableRows:
    return TableRows(pa.table(columns))


def toy_rows(n: int = 60) -> TableRows:
    rng = rng_for(0, "stages")
    thing = np.arange(n) // 2
    latent = rng.standard_normal((n // 2, 4))[thing]
    names: list[Any] = [f"class {i % 3}" for i in thing]
    names[5] = None
    return rows_of(
        __key__=[f"k{i}" for i in range(n)],
        features=lists(latent @ rng.standard_normal((4, 12))),
        caption_vectors=lists(latent @ rng.standard_normal((4, 10))),
        thing=[f"thing {i}" for i in thing],
        class_name=names,
    )


def test_a_projection_comes_as_a_table_that_numpy_applies() -> None:
    rows = toy_rows()
    stage = nested_projection(
        label="class_name", seed=0, options={"dims": (2, 8), "epochs": 2, "device": "cpu"}
    )
    projection = from_table(stage(rows))
    assert projection.dims == (2, 8) and projection.dim_in == 12
    vectors = projection.transform(column_vectors(rows, "features"), 2)
    assert vectors.shape == (60, 2) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_column_of_one_class_teaches_nothing() -> None:
    rows = rows_of(features=lists(np.zeros((4, 2))), class_name=["a", "a", None, "a"])
    with pytest.raises(CatalogError, match="class_name names 1 class"):
        nested_projection(label="class_name", seed=0, options={})(rows)


def test_the_dual_encoder_comes_as_json() -> None:
    options = {"dims": (4,), "hidden": 8, "epochs": 2, "device": "cpu"}
    found = dual_encoder(seed=0, options=options, group="thing")(toy_rows())
    assert json.loads(json.dumps(found)) == found
    # both images of a thing have one caption: it counts once
    assert len(found["history"]) == 2 and found["settings"]["held_out"] == {"images": 12, "captions": 6}


def test_too_few_things_to_hold_any_out_train_nothing() -> None:
    rows = rows_of(
        features=lists(np.eye(6)), caption_vectors=lists(np.eye(6)), thing=["a", "a", "b", "b", "c", "c"]
    )
    assert dual_encoder(seed=0, options={}, group="thing")(rows) == {}


def test_one_caption_many_or_none() -> None:
    one = rows_of(f=lists(np.eye(3)), t=pa.array([[1.0, 0], None, [0, 1]], pa.list_(pa.float32(), 2)))
    data = captioned(one, image="f", text="t")
    assert data.image_of_M.tolist() == [0, 2] and data.texts_MT.tolist() == [[1, 0], [0, 1]]
    assert data.group_N.tolist() == [0, 1, 2]
    many = rows_of(
        f=lists(np.eye(4)), t=pa.array([[[1.0, 0], [0, 1]], None, [], [[1, 1]]]), g=["x", None, "x", None]
    )
    for rows in (many, TableRows(pa.concat_tables([many.data.slice(0, 1), many.data.slice(1)]))):
        data = captioned(rows, image="f", text="t", group="g")
        assert data.image_of_M.tolist() == [0, 0, 3] and data.texts_MT.tolist() == [[1, 0], [0, 1], [1, 1]]
        groups = data.group_N.tolist()
        assert groups[0] == groups[2] and len(set(groups)) == 3, "a row without a group is its own"


def test_columns_that_hold_no_vectors_are_refused() -> None:
    features = lists(np.eye(2))
    for column, message in (
        (pa.array(["a", "b"]), "t holds string, no vectors"),
        (pa.array([[1.0], [1.0, 2.0]]), "vectors of 1 and of 2 numbers"),
    ):
        with pytest.raises(StageError, match=message):
            captioned(rows_of(f=features, t=column), image="f", text="t")
    with pytest.raises(CatalogError, match="t holds 1 captions"):
        captioned(rows_of(f=features, t=pa.array([[1.0], None])), image="f", text="t")
    with pytest.raises(StageError, match="1 rows have no f"):
        column_vectors(rows_of(f=pa.array([[1.0], None])), "f")
