"""The application: routes, and what stands around them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from datakit.index.catalogue import Catalogue
from datakit.serve.api import ROUTES, Route
from datakit.serve.browse import KEEP, Browse
from datakit.serve.guard import Guard
from datakit.serve.pages import STATIC, Pages, static_file
from datakit.serve.problems import Caught, http_problem
from datakit.serve.site import Site


def make_app(
    catalogue: Catalogue,
    *,
    token: str,
    hosts: Collection[str] = (),
    loopback: bool = True,
    site: Site | None = None,
) -> Starlette:
    """The pages and the API over a catalogue. token: what a caller must know. hosts, loopback: see `Guard`."""
    site = site or Site(catalogue)
    pages = Pages(site)
    routes = [*_page_routes(pages), *(_api_route(route, site) for route in ROUTES)]
    labels = {route.endpoint: route.path.replace(":path", "") for route in routes}

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        site.pool.close()

    return Starlette(
        routes=routes,
        middleware=[
            Middleware(Noted, site=site, labels=labels),
            Middleware(Guard, token=token, hosts=hosts, loopback=loopback),
            Middleware(Caught, pages=pages),
        ],
        exception_handlers={HTTPException: http_problem(pages)},
        lifespan=lifespan,
    )


def _page_routes(pages: Pages) -> list[StarletteRoute]:
    browse = Browse(pages)
    get = {
        "/": pages.search,
        "/more": pages.more,
        "/sample/{key:path}": browse.sample,
        "/image/{key:path}": browse.image,
        "/thumb/{key:path}": browse.thumb,
        "/picture/{name}": browse.picture,
        "/drops": browse.drops,
        "/duplicates": browse.duplicates,
        "/export/{form}": browse.export,
        "/static/{name}": static,
    }
    routes = [StarletteRoute(path, handler, methods=["GET"]) for path, handler in get.items()]
    return [*routes, StarletteRoute("/", pages.upload, methods=["POST"])]


def _api_route(route: Route, site: Site) -> StarletteRoute:
    async def endpoint(request: Request) -> Response:
        return await route.handler(site, route.words(request), request)

    path = route.path.replace("{key}", "{key:path}")
    return StarletteRoute(path, endpoint, methods=[route.method])


async def static(request: Request) -> Response:
    """Files of ours, and no others."""
    name = str(request.path_params["name"])
    if name not in STATIC:
        raise HTTPException(404)
    return Response(static_file(name), media_type=STATIC[name], headers={"cache-control": KEEP})


class Noted:
    """Counts and times every request, by route: a label that nobody can fill with text of theirs."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        site: Site,
        labels: Mapping[Callable[[Request], Awaitable[Response]] | Any, str],
    ) -> None:
        self.app, self.site, self.labels = app, site, labels

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, started = 500, time.perf_counter()

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, sending)
        finally:
            # Not `route` of the scope, which starlette has had only since 1.1.
            label = self.labels.get(scope.get("endpoint"), "none")
            self.site.metrics.note(label, status, time.perf_counter() - started)
