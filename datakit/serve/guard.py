"""Who may ask, and how much: token, host, origin, sizes; and the headers of every answer.

Rules of reliability.md: loopback, a secret of this run, no other site's page as a caller (DNS rebinding, CSRF), bounded
bodies, nothing loaded from elsewhere.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, MutableMapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import Headers
from starlette.requests import Request, cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "datakit_token"
MAX_URL = 16_384  # bytes of path and query
MAX_BODY = 24 << 20  # bytes
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}


class TooLarge(Exception):
    """A body of more than MAX_BODY bytes."""


class Guard:
    """ASGI middleware; see the module. hosts: what the Host header may say, without port; none: anything."""

    def __init__(self, app: ASGIApp, *, token: str, hosts: Collection[str]) -> None:
        self.app, self.token, self.hosts = app, token, frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        guarded = _with_headers(send)
        if refusal is not None:
            await refusal(scope, receive, guarded)
            return
        try:
            await self.app(scope, _bounded(receive), guarded)
        except TooLarge:
            await _plain(413, f"a request holds {MAX_BODY >> 20} MiB at most")(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_URL:
            return _plain(414, f"an address holds {MAX_URL} bytes at most")
        if self.hosts and _host_of(headers.get("host", "")) not in self.hosts:
            return _plain(421, "this server goes by another name; use the address that it printed")
        origin = headers.get("origin")
        if origin and origin != "null" and origin.partition("://")[2] != headers.get("host"):
            return _plain(403, "a page of another site may not ask here")
        if int(length) > MAX_BODY if (length := headers.get("content-length", "0")).isdecimal() else False:
            return _plain(413, f"a request holds {MAX_BODY >> 20} MiB at most")
        return self._without_token(scope, headers)

    def _without_token(self, scope: Scope, headers: Headers) -> Response | None:
        """None for a caller who knows the token: by cookie, as a bearer, or in the address, once."""
        bearer = headers.get("authorization", "")
        if self._is_token(bearer.removeprefix("Bearer ")) or self._is_token(
            cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        ):
            return None
        words = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if any(name == "token" and self._is_token(value) for name, value in words):
            if scope["method"] != "GET" or scope["path"].startswith("/api"):
                return None
            rest = urlencode([(name, value) for name, value in words if name != "token"])
            answer = RedirectResponse(quote(scope["path"]) + (f"?{rest}" if rest else ""), status_code=303)
            answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict", path="/")
            return answer
        return _plain(401, "open the address that datakit serve printed: it holds the token of this run")

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())


def _host_of(header: str) -> str:
    if header.startswith("["):
        return header.partition("]")[0] + "]"
    return header.partition(":")[0].lower()


def _plain(status: int, text: str) -> Response:
    return PlainTextResponse(text + "\n", status_code=status)


def _bounded(receive: Receive) -> Receive:
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_BODY:
            raise TooLarge
        return message

    return bounded


def _with_headers(send: Send) -> Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message["headers"]}
            extra = [
                (name.encode(), value.encode())
                for name, value in HEADERS.items()
                if name.encode() not in names
            ]
            if b"cache-control" not in names:
                extra.append((b"cache-control", b"no-store"))
            message = {**message, "headers": [*message["headers"], *extra]}
        await send(message)

    return sending


def route_of(request: Request) -> str:
    """The route of a request, without what was asked: a label that nobody can fill with text of theirs."""
    found = request.scope.get("route")
    return str(getattr(found, "path", "none"))
