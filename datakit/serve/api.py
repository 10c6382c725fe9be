"""The JSON routes, each with what it takes: one table that answers, checks and is the OpenAPI document."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from datakit.errors import ConfigError
from datakit.index.clusters import THRESHOLD
from datakit.index.query import Answer
from datakit.serve.asked import MANY, MOST, PAGE, Asked, asked_of, asked_of_json
from datakit.serve.knn import indices_list, knn_service, metadata
from datakit.serve.pages import Pages, share
from datakit.serve.site import Site

MAX_JSON = 1 << 20  # bytes; a picture in base64 comes by /knn-service, within the limit of a request
MAX_PICTURE = 20 << 20
Handler = Callable[[Site, Request], Awaitable[Response]]
TEXT, WHOLE, NUMBER, TRUTH = {"type": "string"}, {"type": "integer"}, {"type": "number"}, {"type": "boolean"}
TEXTS = {"type": "array", "items": TEXT}
ASKED: Mapping[str, Any] = {
    **dict.fromkeys(MANY, TEXTS),
    "where": TEXT,
    "index": TEXT,
    "k": {**WHOLE, "minimum": 1, "maximum": MOST, "default": PAGE},
    "start": {**WHOLE, "minimum": 0, "maximum": MOST},
    "exact": TRUTH,
    "own": TRUTH,
}


@dataclass(frozen=True, kw_only=True)
class Route:
    """path: with {name} parts. query: parameters of a GET. body: properties of a POST's JSON object."""

    path: str
    method: str
    summary: str
    handler: Handler
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "application/json"


async def body_of(request: Request, most: int = MAX_JSON) -> Any:
    """The JSON of a request. Raises ConfigError for what is none, or too large."""
    data = await request.body()
    if len(data) > most:
        raise ConfigError(f"the JSON of a request holds {most} bytes at most")
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ConfigError("the body is no JSON") from None


async def indices(site: Site, request: Request) -> Response:
    def found() -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "rows": len(index),
                "dim": index.dim,
                "metric": index.base.spec.space.metric,
                "answers": list(site.catalogue.kinds[name]),
                "columns": [{"name": one.name, "type": str(one.type)} for one in index.meta.schema],
            }
            for name, index in site.catalogue.indices.items()
        ]

    return JSONResponse({"indices": await site.run(found)})


async def search(site: Site, request: Request) -> Response:
    """GET as an address asks; POST as a JSON object does."""
    asked = (
        asked_of_json(await body_of(request))
        if request.method == "POST"
        else asked_of(request.query_params.multi_items())
    )
    found = await site.run(lambda: site.answer(asked))
    return JSONResponse(_page(found, asked))


def _page(found: Answer, asked: Asked) -> dict[str, Any]:
    value = found.to_json()
    return {**value, "start": asked.start, "hits": value["hits"][asked.start : asked.start + asked.k]}


async def sample(site: Site, request: Request) -> Response:
    key = str(request.path_params["key"])
    site.index().rows([key]) if not site.catalogue.has_store else None
    return JSONResponse({"key": key, "sample": await site.run(lambda: site.catalogue.sample(key))})


async def image(site: Site, request: Request) -> Response:
    return await Pages(site).image(request)


async def folded(site: Site, request: Request) -> Response:
    threshold = share("threshold", request.query_params.get("threshold", str(THRESHOLD)))

    def groups() -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        index = site.index(request.query_params.get("index", ""))
        for row in site.duplicates(index, threshold).to_pylist():
            if row["size"] > 1:
                found.setdefault(str(row["cluster"]), []).append(row["key"])
        return found

    return JSONResponse({"threshold": threshold, "clusters": list((await site.run(groups)).values())})


async def counts(site: Site, request: Request) -> Response:
    text = site.metrics.text({"waiting": site.waiting, "indices": len(site.names)})
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


async def knn(site: Site, request: Request) -> Response:
    value = await body_of(request, MAX_PICTURE)
    return JSONResponse(await site.run(lambda: knn_service(site, value)))


async def names(site: Site, request: Request) -> Response:
    return JSONResponse(indices_list(site))


async def known(site: Site, request: Request) -> Response:
    value = await body_of(request)
    return JSONResponse(await site.run(lambda: metadata(site, value)))


async def document(site: Site, request: Request) -> Response:
    return JSONResponse(openapi())


KNN = {
    "text": TEXT, "image": TEXT, "image_url": TEXT, "embedding_input": {"type": "array", "items": NUMBER},
    "modality": TEXT, "num_images": WHOLE, "num_result_ids": WHOLE, "indice_name": TEXT, "deduplicate": TRUTH,
    "use_safety_model": TRUTH, "use_violence_detector": TRUTH, "use_mclip": TRUTH, "aesthetic_score": TEXT,
    "aesthetic_weight": NUMBER,
}  # fmt: skip
ROUTES = (
    Route(path="/api/indices", method="GET", summary="What can be asked.", handler=indices),
    Route(path="/api/search", method="GET", summary="Neighbours of examples.", handler=search, query=ASKED),
    Route(path="/api/search", method="POST", summary="Neighbours of examples.", handler=search, body=ASKED),
    Route(path="/api/sample/{key}", method="GET", summary="Every field of a sample.", handler=sample),
    Route(path="/api/image/{key}", method="GET", summary="Its image.", handler=image, kind="image/*"),
    Route(
        path="/api/clusters", method="GET", summary="Near-duplicates.", handler=folded,
        query={"threshold": {**NUMBER, "minimum": 0, "maximum": 1}, "index": TEXT},
    ),
    Route(path="/api/openapi.json", method="GET", summary="This document.", handler=document),
    Route(path="/metrics", method="GET", summary="Counts for Prometheus.", handler=counts, kind="text/plain"),
    Route(path="/knn-service", method="POST", summary="As clip-retrieval answers.", handler=knn, body=KNN),
    Route(path="/indices-list", method="GET", summary="Names, as clip-retrieval gives them.", handler=names),
    Route(
        path="/metadata", method="POST", summary="Fields of rows, as clip-retrieval gives them.", handler=known,
        body={"ids": {"type": "array", "items": WHOLE}, "metadata": TEXTS, "indice_name": TEXT},
    ),
)  # fmt: skip


def openapi() -> dict[str, Any]:
    """The document of ROUTES, OpenAPI 3.1."""
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "datakit serve", "version": "1"},
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Problem": {"type": "object", "properties": {"problem": TEXT}, "required": ["problem"]},
            },
        },
        "security": [{"token": []}],
    }


def _operation(route: Route) -> dict[str, Any]:
    problem = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    parameters: list[dict[str, Any]] = [
        {"name": name[1:-1], "in": "path", "required": True, "schema": TEXT}
        for name in route.path.split("/")
        if name.startswith("{")
    ]
    parameters += [{"name": name, "in": "query", "schema": schema} for name, schema in route.query.items()]
    found: dict[str, Any] = {
        "operationId": "_".join(re.findall(r"\w+", f"{route.method.lower()} {route.path}")),
        "summary": route.summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": "Found.", "content": {route.kind: {}}},
            "400": {"description": "What was asked cannot be.", **problem},
            "401": {"description": "The token is missing."},
            "404": {"description": "There is no such thing.", **problem},
            "503": {"description": "Too many requests wait.", **problem},
        },
    }
    if route.body:
        schema = {"type": "object", "properties": dict(route.body)}
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return found
