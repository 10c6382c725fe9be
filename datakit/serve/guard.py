"""Who may ask: token, host, origin; and the headers of every answer.

Rules of reliability.md: loopback, a secret of this run, no other site's page as a caller (DNS rebinding, CSRF), bounded
bodies, nothing loaded from elsewhere.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection, MutableMapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from markupsafe import Markup
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from datakit.serve import bounds

COOKIE = "datakit_token"
MAX_URL = 16_384  # bytes of path and query
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
ELSEWHERE = (
    "cross-site",
    "same-site",
)  # what Sec-Fetch-Site says of other pages, those of other ports among them
_PAGE = Markup(
    '<!doctype html><html lang="en"><head><meta charset="utf-8">{}<title>{}</title></head>'
    "<body><p>{}</p></body></html>\n"
)


def is_api(path: str) -> bool:
    """Whether programs ask here, who are answered in JSON and keep no cookies."""
    return path.startswith("/api") or path in ("/knn-service", "/metadata", "/indices-list", "/metrics")


class Guard:
    """ASGI middleware; see the module. hosts: names that the Host header may say, without port; any address of
    numbers may be said too unless `loopback`. None of it matters where there are none.
    """

    def __init__(self, app: ASGIApp, *, token: str, hosts: Collection[str], loopback: bool = True) -> None:
        self.app, self.token, self.hosts, self.loopback = app, token, frozenset(hosts), loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal, guarded = self._refusal(scope), _with_headers(send)
        try:
            await (refusal or self.app)(scope, bounds.bounded(receive), guarded)
        except bounds.TooLarge:
            await _told(scope, 413, _too_large())(scope, receive, guarded)
        except bounds.TooSlow:
            await _told(scope, 408, "the request took too long to come")(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_URL:
            return _told(scope, 414, f"an address holds {MAX_URL} bytes at most")
        if not self._is_ours(host_of(headers.get("host", ""))):
            return _told(scope, 421, "this server goes by another name; use the address that it printed")
        origin = headers.get("origin")
        if origin and origin != "null" and origin.partition("://")[2] != headers.get("host"):
            return _told(scope, 403, "a page of another site may not ask here")
        length = headers.get("content-length", "0")
        if length.isdecimal() and len(length) < 20 and int(length) > bounds.MAX_BODY:
            return _told(scope, 413, _too_large())
        return self._without_token(scope, headers)

    def _is_ours(self, name: str) -> bool:
        if not self.hosts or name in self.hosts:
            return True
        if self.loopback:
            return False
        try:  # numbers are no name that somebody could let point elsewhere
            return bool(ipaddress.ip_address(name.strip("[]")))
        except ValueError:
            return False

    def _without_token(self, scope: Scope, headers: Headers) -> Response | None:
        """None for a caller who knows the token: as a bearer, in the address, once, or by cookie."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(bearer.strip()):
            return None
        words = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True, errors="replace")
        if any(name == "token" and self._is_token(value) for name, value in words):
            asks_itself = is_api(scope["path"]) or scope["method"] != "GET"
            return None if asks_itself else self._let_in(scope, headers, words)
        if self._is_token(cookie_parser(headers.get("cookie", "")).get(cookie_name(headers), "")):
            moves = headers.get("sec-fetch-mode", "navigate") == "navigate" and scope["method"] == "GET"
            if headers.get("sec-fetch-site") in ELSEWHERE and not moves:
                return _told(scope, 403, "a page of another site may not ask here")
            return None
        return _told(
            scope, 401, "open the address that datakit serve printed: it holds the token of this run"
        )

    def _let_in(self, scope: Scope, headers: Headers, words: list[tuple[str, str]]) -> Response:
        """To the same address without the token, which a cookie holds from now on."""
        rest = urlencode([(name, value) for name, value in words if name != "token"])
        place = "/" + quote(scope["path"].lstrip("/")) + (f"?{rest}" if rest else "")
        if headers.get("sec-fetch-site") in ELSEWHERE:
            # Of a link in another page, a redirect counts as that page's, and strict cookies stay behind.
            refresh = Markup('<meta http-equiv="refresh" content="0;url={}">').format(place)
            link = Markup('<a href="{}">Go on</a>').format(place)
            answer: Response = HTMLResponse(_PAGE.format(refresh, "datakit", link))
        else:
            answer = RedirectResponse(place, status_code=303)
        answer.set_cookie(cookie_name(headers), self.token, httponly=True, samesite="strict", path="/")
        return answer

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())


def cookie_name(headers: Headers) -> str:
    """Browsers have one set of cookies for all ports of a host: each server takes a name of its own."""
    port = headers.get("host", "").rpartition(":")[2]
    return f"{COOKIE}_{port}" if port.isdecimal() and port.isascii() else COOKIE


def host_of(header: str) -> str:
    """The Host header without port."""
    if header.startswith("["):
        return header.partition("]")[0].lower() + "]"
    return header.partition(":")[0].lower()


def _told(scope: Scope, status: int, text: str) -> Response:
    if is_api(scope["path"]):
        return JSONResponse({"problem": text}, status_code=status)
    return HTMLResponse(_PAGE.format("", str(status), text[:1].upper() + text[1:] + "."), status_code=status)


def _too_large() -> str:
    return f"a request holds {bounds.MAX_BODY >> 20} MiB at most"


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
