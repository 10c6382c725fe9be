"""Errors as answers: what was asked wrongly is told, what went wrong here is written to our own log alone."""

from __future__ import annotations

import sys
import traceback
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from datakit.errors import ConfigError, DatakitError, SampleError
from datakit.serve.bounds import TooLarge, TooSlow
from datakit.serve.guard import is_api
from datakit.serve.pages import Pages
from datakit.serve.pool import Busy

DAMAGED = "a file of this store is not as written; datakit verify says which"
OURS = "something went wrong here, which is a defect of datakit; its terminal shows where"
WORDS = {404: "there is nothing here", 405: "this is asked in another way", 400: "this cannot be read"}


class Caught:
    """ASGI middleware, inside of the guard."""

    def __init__(self, app: ASGIApp, *, pages: Pages) -> None:
        self.app, self.pages = app, pages

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
        except (TooLarge, TooSlow):
            raise
        except Exception as problem:
            answer = self._answer(Request(scope), problem)
            if not started:
                await answer(scope, receive, send)
                return
            # Half an answer is out: the connection breaks, so that nobody takes it for a whole one.
            raise BrokenPipeError("an answer ended early") from None

    def _answer(self, request: Request, problem: Exception) -> Response:
        said = self.pages.site.said
        if isinstance(problem, Busy):
            return told(request, self.pages, 503, str(problem))
        if isinstance(problem, ConfigError | SampleError):
            missing = "has no key" in str(problem) or "holds no sample" in str(problem)
            return told(request, self.pages, 404 if missing else 400, said(problem))
        traceback.print_exception(problem, file=sys.stderr)
        if isinstance(problem, DatakitError):
            return told(request, self.pages, 503, DAMAGED if problem.exit_code == 3 else said(problem))
        return told(request, self.pages, 500, OURS)


def told(request: Request, pages: Pages, status: int, text: str) -> Response:
    """JSON where programs ask, a page where people do."""
    if is_api(request.url.path):
        return JSONResponse({"problem": text}, status_code=status)
    return pages.problem(status, text)


def http_problem(pages: Pages) -> Any:
    """Of starlette's own errors: no such route, another method, a form that is none."""

    async def handle(request: Request, problem: HTTPException) -> Response:
        return told(request, pages, problem.status_code, WORDS.get(problem.status_code, WORDS[400]))

    return handle
