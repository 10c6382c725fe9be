"""clip-retrieval's service by another hand, so that its clients go on working: /knn-service, /metadata, /indices-list.

An id is a row of the index. What its models would do (safety, violence, aesthetics) is not done here, and asking for it
is refused rather than passed over.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np

from datakit.errors import ConfigError
from datakit.index.clusters import THRESHOLD, clusters
from datakit.index.query import Request, answer
from datakit.serve.asked import number
from datakit.serve.site import Site
from datakit.store.lines import jsonable

MOST = 10_000  # results
SWITCHED_OFF = ("use_safety_model", "use_violence_detector", "use_mclip", "aesthetic_weight")


def knn_service(site: Site, value: Any) -> list[dict[str, Any]]:
    """[{id, similarity, key, caption, url, image}]: as clip-retrieval, best first. Raises ConfigError."""
    if not isinstance(value, Mapping):
        raise ConfigError("a JSON object is wanted")
    for name in SWITCHED_OFF:
        if value.get(name):
            raise ConfigError(f"{name} needs a model that this server does not have: leave it out")
    if value.get("image_url"):
        raise ConfigError("image_url: this server fetches nothing; send the picture as image, in base64")
    k = number("num_images", value.get("num_result_ids") or value.get("num_images") or 10, least=1, most=MOST)
    named = _text(value, "indice_name")
    request = Request(**_example(value), k=k, index=named if named in site.names else "")
    found = answer(site.catalogue, request)
    rows, table = found.rows, found.table
    index = site.catalogue.indices[found.index]
    if value.get("deduplicate") and len(rows):
        groups = clusters(index, THRESHOLD, rows=rows)["cluster"].to_pylist()
        first = [at for at, group in enumerate(groups) if group not in groups[:at]]
        rows, table = rows[first], table.take(first)
    shown = number("num_images", value.get("num_images") or k, least=1, most=MOST)
    return [
        _hit(int(row), one, at < shown)
        for at, (row, one) in enumerate(zip(rows, table.to_pylist(), strict=True))
    ]


def _example(value: Mapping[str, Any]) -> dict[str, Any]:
    given = [name for name in ("text", "image", "embedding_input") if value.get(name)]
    if len(given) != 1:
        raise ConfigError("give one of text, image (base64) and embedding_input")
    if given == ["text"]:
        return {"text": (_text(value, "text"),)}
    if given == ["image"]:
        try:
            return {"image": (base64.b64decode(_text(value, "image"), validate=True),)}
        except (binascii.Error, ValueError):
            raise ConfigError("image is no base64") from None
    try:
        vector = np.asarray(value["embedding_input"], np.float32)
    except (TypeError, ValueError):
        raise ConfigError("embedding_input must be a list of numbers") from None
    if vector.ndim != 1:
        raise ConfigError("embedding_input must be a list of numbers")
    return {"vector": (vector,)}


def _text(value: Mapping[str, Any], name: str) -> str:
    found = value.get(name) or ""
    if not isinstance(found, str):
        raise ConfigError(f"{name} must be a text")
    return found


def _hit(row: int, one: Mapping[str, Any], whole: bool) -> dict[str, Any]:
    hit = {"id": row, "similarity": float(one["score"])}
    if not whole:
        return hit
    said = one.get("caption") or one.get("said") or one.get("class_name") or ""
    return {**hit, "key": one["key"], "caption": str(said), "url": str(one.get("source_url") or "")}


def indices_list(site: Site) -> list[str]:
    return site.names


def metadata(site: Site, value: Any) -> list[dict[str, Any]]:
    """[{id, metadata}] of rows. Raises ConfigError for one that is not there."""
    if not isinstance(value, Mapping) or not isinstance(value.get("ids"), list):
        raise ConfigError("a JSON object with a list of ids is wanted")
    index = site.index(_text(value, "indice_name") if _text(value, "indice_name") in site.names else "")
    ids = [number("id", one, least=0, most=len(index.live) - 1) for one in value["ids"][:MOST]]
    wanted = value.get("metadata") or index.meta.column_names
    if not isinstance(wanted, list) or not all(name in index.meta.column_names for name in wanted):
        raise ConfigError(f"metadata must be some of {', '.join(index.meta.column_names)}")
    rows = index.meta.select(wanted).take(ids).to_pylist()
    return [
        {"id": one, "metadata": {name: jsonable(item) for name, item in row.items()}}
        for one, row in zip(ids, rows, strict=True)
    ]
