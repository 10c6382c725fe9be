"""The trainers of embeddings over the rows of a step: vectors are columns, what was learned is a table or JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from datakit.errors import CatalogError, StageError
from datakit.stage import Rows, reduce
from datakit.stages.columns import codes
from datakit.train.dual_encoder import LEAST_GROUPS, Captioned, DualOptions, train_dual_encoder
from datakit.train.mrl import MrlOptions, group_numbers, nested_embeddings

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@reduce(version=1)
def nested_projection(
    rows: Rows, *, label: str, seed: int, options: Mapping[str, Any], vectors: str = "features"
) -> pa.Table:
    """A projection to nested embeddings, learned from the column `label`; read it with `projection.from_table`.

    options: those of `MrlOptions` that are not at their default. Rows without a label are left out. Raises
    CatalogError where the labels are of fewer than two classes.
    """
    label_N, classes = codes(rows.table([label]).column(label))
    if len(classes) < 2:
        raise CatalogError(
            f"the column {label} names {len(classes)} class; nested embeddings need two or more"
        )
    known_N = label_N >= 0
    features_ND = column_vectors(rows, vectors)
    learned = nested_embeddings(
        features_ND[known_N], label_N[known_N], seed=seed, options=MrlOptions(**options)
    )
    return learned.projection.to_table()


@reduce(version=2)
def dual_encoder(
    rows: Rows,
    *,
    seed: int,
    options: Mapping[str, Any],
    image: str = "features",
    text: str = "caption_vectors",
    group: str = "",
) -> dict[str, Any]:
    """`DualResult` without its weights, as JSON; {} where fewer than four groups have captions.

    Columns as in `captioned`. options: those of `DualOptions` that are not at their default.
    """
    if len(column_captions(rows, text)[0]) < 2:
        return {}
    data = captioned(rows, image=image, text=text, group=group)
    if len(np.unique(data.group_of_M)) < LEAST_GROUPS:
        return {}
    result = train_dual_encoder(
        data.images_ND,
        data.texts_MT,
        data.image_of_M,
        groups_N=data.group_N,
        seed=seed,
        options=DualOptions(**options),
    )
    return result.as_json()


def captioned(rows: Rows, *, image: str, text: str, group: str = "") -> Captioned:
    """Image vectors and caption vectors of all rows.

    image: column of one vector a row. text: column of one vector, or of a list of them, a row; null or empty where a
    row has no caption. group: column of what a row shows: rows of one value are right answers to each other, as two
    drawings of one emoji; a row without is its own group, and all are if no column is named.
    Raises CatalogError where there are fewer than two captions.
    """
    images_ND = column_vectors(rows, image)
    texts_MT, image_of_M = column_captions(rows, text)
    if len(texts_MT) < 2:
        raise CatalogError(f"the column {text} holds {len(texts_MT)} captions; two or more are needed")
    group_N = group_numbers(None, len(rows))
    if group:
        named_N, values = codes(rows.table([group]).column(group))
        group_N = group_numbers(np.where(named_N >= 0, named_N, len(values) + group_N), len(rows))
    return Captioned(images_ND=images_ND, texts_MT=texts_MT, image_of_M=image_of_M, group_N=group_N)


def column_vectors(rows: Rows, name: str) -> Floats:
    """float32 (N, D) of a column of lists. Raises StageError where a row has none, or one of another length."""
    column = rows.table([name]).column(name)
    if column.null_count:
        raise StageError(f"{column.null_count} rows have no {name}; embed all rows first")
    return _matrix(column.combine_chunks(), name)


def column_captions(rows: Rows, name: str) -> tuple[Floats, Ints]:
    """float32 (M, T) of a column of vectors or of lists of vectors, and the row of each."""
    column = rows.table([name]).column(name).combine_chunks()
    if pa.types.is_null(column.type):  # no row has a caption
        return np.empty((0, 1), np.float32), np.empty(0, np.int64)
    if not _is_list(column.type):
        raise StageError(f"{name} holds {column.type}, no vectors; embed the captions first")
    if not _is_list(column.type.value_type):
        row_M = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
        return _matrix(column.drop_null(), name), row_M
    row_M = np.asarray(pc.list_parent_indices(column).to_numpy(), dtype=np.int64)
    return _matrix(pc.list_flatten(column), name), row_M


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _matrix(lists: pa.Array, name: str) -> Floats:
    widths = pc.unique(pc.list_value_length(lists)).to_pylist() or [0]
    if len(widths) > 1:
        raise StageError(
            f"{name}: vectors of {widths[0]} and of {widths[1]} numbers; all must be of one length"
        )
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float32).reshape(len(lists), widths[0])
