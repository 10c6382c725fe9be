"""The JSON routes, each with what it takes: one table that answers, checks, and is the OpenAPI document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from datakit.errors import ConfigError
from datakit.index.clusters import THRESHOLD
from datakit.serve.asked import ASKED, asked_of, asked_of_json
from datakit.serve.browse import image_of
from datakit.serve.knn import KNN, METADATA, knn_service, metadata, passed_over
from datakit.serve.schema import NUMBER, TEXT, Schema, of_json, of_words
from datakit.serve.site import Site
from datakit.texts import load_json

MAX_JSON = 1 << 20  # bytes
MAX_PICTURE = 20 << 20  # of a request with a picture in base64
Words = Mapping[str, Any]
Handler = Callable[[Site, Words, Request], Awaitable[Response]]


@dataclass(frozen=True, kw_only=True)
class Route:
    """path: with {name} parts. query: words of the address. body: properties of a POST's JSON object, which its handler
    reads with `body_of`. more: whether others are passed over. kind: media type of the answer; answer: its schema.
    """

    path: str
    method: str
    summary: str
    handler: Handler
    query: Mapping[str, Schema] = field(default_factory=dict)
    body: Mapping[str, Schema] = field(default_factory=dict)
    more: bool = False
    kind: str = "application/json"
    answer: Schema = field(default_factory=lambda: {"type": "object"})

    def words(self, request: Request) -> Words:
        """Those of the address. Raises ConfigError for one that this route does not take."""
        return of_words(request.query_params.multi_items(), self.query)


async def body_of(request: Request, most: int = MAX_JSON) -> Any:
    """The JSON of a request. Raises ConfigError for what is none, or too large."""
    data = await request.body()
    if len(data) > most:
        raise ConfigError(f"the JSON of a request holds {most} bytes at most")
    try:
        return load_json(data.decode())  # UTF-8 alone: others may hide half pairs
    except ValueError as problem:
        why = f": {problem}" if "more than" in str(problem) else ""
        raise ConfigError(f"the body is no JSON that can be read{why}") from None


async def indices(site: Site, words: Words, request: Request) -> Response:
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


async def search(site: Site, words: Words, request: Request) -> Response:
    """GET as an address asks; POST as a JSON object does."""
    posted = request.method == "POST"
    asked = asked_of_json(await body_of(request)) if posted else asked_of(request.query_params.multi_items())
    found = await site.run(lambda: site.answer(asked).to_json())
    hits = found["hits"][asked.start : asked.start + asked.k]
    return JSONResponse({**found, "start": asked.start, "hits": hits})


async def sample(site: Site, words: Words, request: Request) -> Response:
    key = str(request.path_params["key"])
    return JSONResponse({"key": key, "sample": await site.run(lambda: site.catalogue.sample(key))})


async def image(site: Site, words: Words, request: Request) -> Response:
    return await image_of(site, str(request.path_params["key"]))


async def folded(site: Site, words: Words, request: Request) -> Response:
    threshold = float(words.get("threshold", THRESHOLD))
    found = await site.run(lambda: site.groups(words.get("index", ""), threshold))
    return JSONResponse({"threshold": threshold, "clusters": found})


async def counts(site: Site, words: Words, request: Request) -> Response:
    text = site.metrics.text({"jobs": site.pool.jobs, "indices": len(site.names)})
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


async def knn(site: Site, words: Words, request: Request) -> Response:
    value = of_json(await body_of(request, MAX_PICTURE), KNN, more=True)
    headers = {"datakit-passed-over": ", ".join(left)} if (left := passed_over(value)) else None
    return JSONResponse(await site.run(lambda: knn_service(site, value)), headers=headers)


async def names(site: Site, words: Words, request: Request) -> Response:
    return JSONResponse(site.names)


async def known(site: Site, words: Words, request: Request) -> Response:
    value = of_json(await body_of(request), METADATA, more=True)
    return JSONResponse(await site.run(lambda: metadata(site, value)))


async def document(site: Site, words: Words, request: Request) -> Response:
    from datakit.serve.openapi import openapi

    return JSONResponse(openapi(ROUTES))


HIT: Schema = {
    "type": "object",
    "properties": {"key": TEXT, "score": NUMBER, "rank": {"type": "integer"}},
    "required": ["key", "score", "rank"],
}
FOUND: Schema = {
    "type": "object",
    "properties": {
        "index": TEXT, "metric": TEXT, "plan": {"type": "object"}, "start": {"type": "integer"},
        "hits": {"type": "array", "items": HIT},
    },
}  # fmt: skip
LIST: Schema = {"type": "array", "items": {"type": "object"}}
ROUTES = (
    Route(path="/api/indices", method="GET", summary="What can be asked.", handler=indices),
    Route(
        path="/api/search", method="GET", summary="Neighbours of examples.", handler=search, query=ASKED,
        answer=FOUND,
    ),
    Route(
        path="/api/search", method="POST", summary="Neighbours of examples.", handler=search, body=ASKED,
        answer=FOUND,
    ),
    Route(path="/api/sample/{key}", method="GET", summary="Every field of a sample.", handler=sample),
    Route(path="/api/image/{key}", method="GET", summary="Its image.", handler=image, kind="image/*", answer={}),
    Route(
        path="/api/clusters", method="GET", summary="Near-duplicates.", handler=folded,
        query={"threshold": {**NUMBER, "minimum": 0, "maximum": 1, "default": THRESHOLD}, "index": TEXT},
    ),
    Route(path="/api/openapi.json", method="GET", summary="This document.", handler=document),
    Route(
        path="/metrics", method="GET", summary="Counts for Prometheus.", handler=counts, kind="text/plain",
        answer=TEXT,
    ),
    Route(
        path="/knn-service", method="POST", summary="As clip-retrieval answers.", handler=knn, body=KNN, more=True,
        answer=LIST,
    ),
    Route(
        path="/indices-list", method="GET", summary="Names, as clip-retrieval gives them.", handler=names,
        answer={"type": "array", "items": TEXT},
    ),
    Route(
        path="/metadata", method="POST", summary="Fields of rows, as clip-retrieval gives them.", handler=known,
        body=METADATA, more=True, answer=LIST,
    ),
)  # fmt: skip
