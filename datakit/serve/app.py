"""The application: routes, the guard around them, and what an error looks like."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Collection
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from datakit.errors import ConfigError, DatakitError, SampleError
from datakit.index.catalogue import Catalogue
from datakit.serve.api import ROUTES, Handler
from datakit.serve.guard import Guard, route_of
from datakit.serve.pages import Pages
from datakit.serve.site import Busy, Site

STATIC = {"style.css": "text/css", "htmx.min.js": "text/javascript"}
DAMAGED = "a file of this store is not as written; datakit verify says which"


def make_app(catalogue: Catalogue, *, token: str, hosts: Collection[str] = ()) -> Starlette:
    """The pages and the API over a catalogue. token: what a caller must know. hosts: see `Guard`."""
    site = Site(catalogue)
    pages = Pages(site)
    get = [
        ("/", pages.search), ("/more", pages.more), ("/sample/{key:path}", pages.sample),
        ("/image/{key:path}", pages.image), ("/drops", pages.drops), ("/duplicates", pages.duplicates),
        ("/export/{form}", pages.export), ("/static/{name}", static),
    ]  # fmt: skip
    routes = [StarletteRoute(path, handler, methods=["GET"]) for path, handler in get]
    routes.append(StarletteRoute("/", pages.upload, methods=["POST"]))
    routes += [
        StarletteRoute(
            route.path.replace("{key}", "{key:path}"), _bound(route.handler, site), methods=[route.method]
        )
        for route in ROUTES
    ]
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(Guard, token=token, hosts=hosts),
            Middleware(Noted, site=site),
            Middleware(Caught, site=site, pages=pages),
        ],
        exception_handlers={HTTPException: _http_problem(pages)},
    )


def _bound(handler: Handler, site: Site) -> Callable[[Request], Awaitable[Response]]:
    async def bound(request: Request) -> Response:
        return await handler(site, request)

    return bound


async def static(request: Request) -> Response:
    """Two files of ours, and no others."""
    name = str(request.path_params["name"])
    if name not in STATIC:
        raise HTTPException(404)
    data = files("datakit.serve").joinpath("static", name).read_bytes()
    return Response(data, media_type=STATIC[name], headers={"cache-control": "private, max-age=3600"})


def _http_problem(pages: Pages) -> Any:
    async def handle(request: Request, problem: HTTPException) -> Response:
        words = {404: "There is nothing here.", 405: "This is asked in another way."}
        return _told(
            request, pages, problem.status_code, words.get(problem.status_code, "This cannot be asked.")
        )

    return handle


def _told(request: Request, pages: Pages, status: int, text: str) -> Response:
    if _is_api(request.url.path):
        return JSONResponse({"problem": text}, status_code=status)
    return pages.problem(status, text)


def _is_api(path: str) -> bool:
    return path.startswith("/api") or path in ("/knn-service", "/metadata", "/indices-list", "/metrics")


class Caught:
    """Errors as answers: what was asked wrongly is told, what went wrong here is written to our own log alone."""

    def __init__(self, app: ASGIApp, *, site: Site, pages: Pages) -> None:
        self.app, self.site, self.pages = app, site, pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception as problem:
            found = self._answer(Request(scope), problem)
            if started or found is None:
                raise
            await found(scope, receive, send)

    def _answer(self, request: Request, problem: Exception) -> Response | None:
        if isinstance(problem, Busy):
            return _told(request, self.pages, 503, "too many requests wait; ask again in a moment")
        if isinstance(problem, ConfigError | SampleError):
            missing = "has no key" in str(problem) or "holds no sample" in str(problem)
            return _told(request, self.pages, 404 if missing else 400, self.site.said(problem))
        if isinstance(problem, DatakitError):
            traceback.print_exception(problem, file=sys.stderr)
            text = DAMAGED if problem.exit_code == 3 else self.site.said(problem)
            return _told(request, self.pages, 503, text)
        return None


class Noted:
    """Counts and times every request, by route."""

    def __init__(self, app: ASGIApp, *, site: Site) -> None:
        self.app, self.site = app, site

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
            self.site.metrics.note(route_of(Request(scope)), status, time.perf_counter() - started)
