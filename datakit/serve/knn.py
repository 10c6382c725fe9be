"""clip-retrieval's service by another hand, so that its clients go on working: /knn-service, /metadata, /indices-list.

An id is a row of the index. Its clients ask for safety, violence and aesthetics models unless told otherwise, and its
own server passes over those that it has not loaded: so does this one, which has none, and names them in a header.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np

from datakit.errors import ConfigError, SampleError, did_you_mean
from datakit.index.clusters import THRESHOLD, clusters
from datakit.index.opened import Index
from datakit.index.query import Request, answer
from datakit.serve.schema import NUMBER, TEXT, TEXTS, TRUTH, WHOLE, Schema, or_null
from datakit.serve.site import Site
from datakit.store.lines import jsonable

MOST = 10_000  # results
USUAL = 100  # as there
PICTURES = 200  # of a result come with it, in base64
PASSED_OVER = ("use_safety_model", "use_violence_detector", "use_mclip", "aesthetic_weight")
_COUNT = or_null({**WHOLE, "minimum": 1, "maximum": MOST})
KNN: Mapping[str, Schema] = {
    "text": or_null(TEXT),
    "image": or_null({**TEXT, "description": "A picture in base64."}),
    "image_url": or_null({**TEXT, "description": "Refused: this server fetches nothing."}),
    "embedding_input": or_null({"type": "array", "items": NUMBER}),
    "modality": or_null({**TEXT, "description": "image; there are no indices of texts."}),
    "num_images": {**_COUNT, "description": "Results with their fields."},
    "num_result_ids": {**_COUNT, "description": "Results at all; those beyond num_images are ids."},
    "indice_name": or_null(TEXT),
    "deduplicate": or_null(TRUTH),
    "use_safety_model": or_null(TRUTH),
    "use_violence_detector": or_null(TRUTH),
    "use_mclip": or_null(TRUTH),
    "aesthetic_score": {"type": ["integer", "string", "null"]},
    "aesthetic_weight": {"type": ["number", "string", "null"]},
}
METADATA: Mapping[str, Schema] = {
    "ids": {"type": "array", "items": {**WHOLE, "minimum": 0, "maximum": 2**48}},
    "metadata": or_null(TEXTS),
    "indice_name": or_null(TEXT),
}


def passed_over(value: Mapping[str, Any]) -> list[str]:
    """What is asked for and not done here."""
    return [name for name in PASSED_OVER if value.get(name)]


def knn_service(site: Site, value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """[{id, similarity, key, caption, url, image, …}]: as clip-retrieval, best first. Raises ConfigError.

    value: checked against KNN. image: a JPEG in base64, of the first results.
    """
    if value.get("image_url"):
        raise ConfigError("image_url: this server fetches nothing; send the picture as image, in base64")
    if value.get("modality") not in (None, "", "image"):
        raise ConfigError("modality: there are indices of images here; ask for modality=image")
    whole = value.get("num_images") or USUAL
    k = value.get("num_result_ids") or whole
    request = Request(**_example(value), k=k, index=_index(site, value))
    found = answer(site.catalogue, request)
    rows, table, index = found.rows, found.table, site.catalogue.indices[found.index]
    if value.get("deduplicate") and len(rows):
        groups = clusters(index, THRESHOLD, rows=rows)["cluster"].to_pylist()
        first = np.unique(groups, return_index=True)[1]
        rows, table = rows[np.sort(first)], table.take(np.sort(first))
    ids = [
        {"id": int(row), "similarity": score}
        for row, score in zip(rows, table["score"].to_pylist(), strict=True)
    ]
    fields = [_fields(site, one, at) for at, one in enumerate(table.slice(0, whole).to_pylist())]
    return [
        {**more, **one} for one, more in zip(ids, [*fields, *({} for _ in ids[len(fields) :])], strict=True)
    ]


def _example(value: Mapping[str, Any]) -> dict[str, Any]:
    given = [name for name in ("text", "image", "embedding_input") if value.get(name)]
    if len(given) != 1:
        raise ConfigError("give one of text, image (base64) and embedding_input")
    if given == ["text"]:
        return {"text": (value["text"],)}
    if given == ["embedding_input"]:
        return {"vector": (np.asarray(value["embedding_input"], np.float64).clip(-3e38, 3e38),)}
    try:
        return {"image": (base64.b64decode(value["image"], validate=True),)}
    except (binascii.Error, ValueError):
        raise ConfigError("image is no base64") from None


def _index(site: Site, value: Mapping[str, Any]) -> str:
    """The name of an index, or nothing: any that can answer. Raises ConfigError."""
    name = str(value.get("indice_name") or "")
    if name and name not in site.names:
        hint = did_you_mean(name, site.names) or f"; there are {', '.join(site.names)}"
        raise ConfigError(f"indice_name: there is no index {name[:40]}{hint}")
    return name


def _fields(site: Site, row: Mapping[str, Any], at: int) -> dict[str, Any]:
    found = {name: jsonable(item) for name, item in row.items() if name not in ("score", "rank")}
    found["caption"] = str(row.get("caption") or row.get("said") or row.get("class_name") or "")
    found["url"] = str(row.get("source_url") or "")
    if site.catalogue.has_store and at < PICTURES:
        try:
            found["image"] = base64.b64encode(site.thumb(str(row["key"]))).decode()
        except SampleError:  # undecodable: its fields are worth having without it
            found["image"] = ""
    return found


def metadata(site: Site, value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """[{id, metadata}] of rows. Raises ConfigError for one that is not there. value: checked against METADATA."""
    if "ids" not in value:
        raise ConfigError("a JSON object with a list of ids is wanted")
    index, ids = site.index(_index(site, value)), value["ids"][:MOST]
    if beyond := next((one for one in ids if one >= len(index.live)), None):
        raise ConfigError(f"ids go from 0 to {len(index.live) - 1}, not {beyond}")
    wanted = _columns(index, value)
    rows = index.meta.select(wanted).take(np.asarray(ids, np.int64)).to_pylist()
    return [
        {"id": one, "metadata": {name: jsonable(item) for name, item in row.items()}}
        for one, row in zip(ids, rows, strict=True)
    ]


def _columns(index: Index, value: Mapping[str, Any]) -> list[str]:
    names = index.meta.column_names
    wanted = list(dict.fromkeys(value.get("metadata") or names))
    if unknown := next((name for name in wanted if name not in names), None):
        raise ConfigError(
            f"metadata: no column {unknown[:40]}{did_you_mean(unknown, names)}; {', '.join(names)}"
        )
    return wanted
