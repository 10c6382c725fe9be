"""The one place that fetches an address that stood in data: a column of URLs, a redirect.

Whoever wrote the data chooses the address, and this machine may reach what they may not: its own services, its
network, a cloud's metadata. So a name is resolved once, every address it has must be public, and the connection goes
to the address that was checked, not to the name again: a second answer of its DNS changes nothing. Redirects go
through the same gate. No proxy and no credentials of the environment are used.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from datakit.errors import SampleError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Sequence[str]]  # host, port → addresses

MAX_REDIRECTS = 5
MAX_URL = 8192  # characters
CONNECT_SECONDS = 10.0  # of one address
SILENT_SECONDS = 20.0  # between two pieces of an answer
PIECE = 1 << 16  # bytes read at a time
USER_AGENT = "datakit"
PORTS = {"http": 80, "https": 443}

_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,252}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # a last label like this makes any resolver read an IPv4 address
_DOTTED = re.compile(r"(?:(?:0|[1-9][0-9]{0,2})\.){3}(?:0|[1-9][0-9]{0,2})")
_UNFIT = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")
_ESCAPED = "%/:=&?~+!$,;'@()*[]"
_GLOBAL_6 = ipaddress.IPv6Network("2000::/3")
# By our own list: what Python takes for public differs from release to release. Networks of nobody's machines on the
# public internet, tunnels to any IPv4 address, protocol and documentation ranges, a cloud's own service.
_BLOCKED = tuple(
    ipaddress.ip_network(net)
    for net in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *(
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
        ),
        *("203.0.113.0/24", "224.0.0.0/3", "168.63.129.16/32"),
        *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
    )
)
_REDIRECTS = frozenset((301, 302, 303, 307, 308))


class FetchError(SampleError):
    """An address that gave nothing. `reason`: `bad_url`, `bad_scheme`, `blocked_address`, `unresolved`,
    `unreachable`, `tls`, `timeout`, `too_many_redirects`, `too_large`, `truncated`, `bad_response`, `http_404` …
    """


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """`url`: where redirects ended; `headers` by lower-case name; `body` as sent."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Target:
    """An address taken apart: what to ask for, of whom."""

    url: str
    scheme: str
    host: str
    port: int
    path: str


def fetch(
    url: str,
    *,
    limit_bytes: int,
    timeout: float = 60.0,
    allow_private: bool = False,
    resolver: Resolver | None = None,
    authorities: str | None = None,
) -> Fetched:
    """What `url` holds, of `limit_bytes` at most, within `timeout` seconds in all. Raises FetchError.

    allow_private: also this machine and private networks; never link-local (where clouds keep credentials),
    multicast or reserved addresses.  resolver: names to addresses, in place of the machine's.  authorities: a file
    of certificates to trust beside the machine's own; a server's certificate is always verified.
    """
    deadline = time.monotonic() + timeout
    for _ in range(MAX_REDIRECTS + 1):
        target = parse_url(url)
        with _connected(target, deadline, allow_private, resolver, authorities) as connection:
            response = _asked(connection, target)
            if response.status not in _REDIRECTS:
                return _fetched(target, response, limit_bytes)
            location = response.getheader("Location")
        if not location:
            raise FetchError("bad_response", f"{target.url}: status {response.status} without a Location")
        url = urljoin(target.url, _text(location))
    raise FetchError("too_many_redirects", f"{url}: more than {MAX_REDIRECTS}")


def parse_url(url: str) -> Target:
    """`url` taken apart, its path escaped. Raises FetchError `bad_url`, `bad_scheme`, `blocked_address`."""
    if len(url) > MAX_URL or _UNFIT.search(url):
        raise FetchError("bad_url", f"{url[:80]!r}: too long, or with a character that no URL has")
    try:
        parts = urlsplit(url)
        port, host, user = parts.port, parts.hostname or "", parts.username
    except ValueError as problem:
        raise FetchError("bad_url", f"{url[:80]!r}: {problem}") from problem
    if parts.scheme not in PORTS:
        raise FetchError("bad_scheme", f"{url[:80]!r}: neither http nor https")
    if user is not None or "@" in parts.netloc:
        raise FetchError("bad_url", f"{parts.scheme}://…@{host}: with a user or password")
    if port == 0:
        raise FetchError("bad_url", f"{url[:80]!r}: port 0")
    host = _host(host, "[" in parts.netloc)
    path = quote(parts.path or "/", safe=_ESCAPED) + (
        "?" + quote(parts.query, safe=_ESCAPED) if parts.query else ""
    )
    port = port or PORTS[parts.scheme]
    shown = f"[{host}]" if ":" in host else host
    netloc = shown if port == PORTS[parts.scheme] else f"{shown}:{port}"
    return Target(
        url=f"{parts.scheme}://{netloc}{path}", scheme=parts.scheme, host=host, port=port, path=path
    )


def _host(host: str, bracketed: bool) -> str:
    """A name in ASCII, or an address in its one plain spelling."""
    if bracketed:
        try:
            return str(ipaddress.IPv6Address(host if "%" not in host else ""))
        except ValueError as problem:
            raise FetchError("bad_url", f"[{host[:80]}] is no address") from problem
    try:
        # Also folds digits and dots of other scripts to those of ASCII, as every client does.
        plain = host.encode("idna").decode().lower() if not host.isascii() else host
    except UnicodeError as problem:
        raise FetchError("bad_url", f"{host[:80]!r} is no host: {problem}") from problem
    plain = plain.removesuffix(".")
    if not _HOST.fullmatch(plain) or ".." in plain:
        raise FetchError("bad_url", f"{host[:80]!r} is no host")
    if _NUMBER.fullmatch(plain.rpartition(".")[2]) and not _DOTTED.fullmatch(plain):
        raise FetchError("blocked_address", f"{host[:80]} is an address in an odd spelling")
    return plain


def why_blocked(address: Address, *, allow_private: bool = False) -> str:
    """Why nothing may be fetched from `address`; empty if it may."""
    if address.is_unspecified or address.is_multicast or address.is_link_local:
        return "unspecified, multicast or link-local"
    if allow_private and (address.is_loopback or (address.is_private and not address.is_reserved)):
        return "" if getattr(address, "ipv4_mapped", None) is None else "an IPv4 address in IPv6"
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_6:
        return "no public IPv6 address"
    if not address.is_global or address.is_private or address.is_reserved:
        return "private, shared or reserved"
    return next((f"of {net}" for net in _BLOCKED if net.version == address.version and address in net), "")


def _addresses(
    target: Target, deadline: float, allow_private: bool, resolver: Resolver | None
) -> list[Address]:
    """Those of the host, every one of them fit to be asked."""
    try:
        found: Sequence[str] = [str(ipaddress.ip_address(target.host))]
    except ValueError:
        found = _resolved(target, deadline, resolver or _system)
    addresses = []
    for text in found:
        try:
            address = ipaddress.ip_address(text)
        except ValueError as problem:
            raise FetchError(
                "blocked_address", f"{target.host} is at {text[:80]}, which is none"
            ) from problem
        # One blocked address among public ones is how a name is made to pass: all must be fit.
        if why := why_blocked(address, allow_private=allow_private):
            raise FetchError("blocked_address", f"{target.host} is at {address}: {why}")
        addresses.append(address)
    if not addresses:
        raise FetchError("unresolved", f"{target.host} has no address")
    return addresses


def _resolved(target: Target, deadline: float, resolver: Resolver) -> Sequence[str]:
    """The resolver's answer, in time: the system's own has no timeout."""
    answers: list[Sequence[str] | OSError | UnicodeError] = []

    def ask() -> None:
        try:
            answers.append(resolver(target.host, target.port))
        except (OSError, UnicodeError) as problem:
            answers.append(problem)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(max(0.0, deadline - time.monotonic()))
    if not answers:
        raise FetchError("timeout", f"{target.host}: no answer from the resolver")
    if isinstance(answers[0], OSError | UnicodeError):
        raise FetchError("unresolved", f"{target.host}: {answers[0]}") from answers[0]
    return answers[0]


def _system(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@contextlib.contextmanager
def _connected(
    target: Target, deadline: float, allow_private: bool, resolver: Resolver | None, authorities: str | None
) -> Iterator[http.client.HTTPConnection]:
    """A connection to a checked address of the target, the first that answers."""
    raw = _opened(target, _addresses(target, deadline, allow_private, resolver), deadline)
    with contextlib.closing(_secured(raw, target, deadline, authorities)) as line:
        connection = http.client.HTTPConnection(target.host, target.port)
        # http.client connects by itself only where it has no socket: it never sees a name to look up.
        connection.auto_open = 0
        connection.sock = _Line(line, deadline)
        yield connection


def _opened(target: Target, addresses: Sequence[Address], deadline: float) -> socket.socket:
    problem: OSError | None = None
    for address in addresses:
        try:
            return socket.create_connection((str(address), target.port), _left(deadline, CONNECT_SECONDS))
        except OSError as refused:
            problem = refused
    reason = "timeout" if isinstance(problem, TimeoutError) else "unreachable"
    raise FetchError(reason, f"{target.url}: {problem}") from problem


def _secured(raw: socket.socket, target: Target, deadline: float, authorities: str | None) -> socket.socket:
    if target.scheme == "http":
        return raw
    context = ssl.create_default_context()
    if authorities:
        context.load_verify_locations(authorities)
    try:
        raw.settimeout(_left(deadline, CONNECT_SECONDS))
        return context.wrap_socket(raw, server_hostname=target.host)
    except (OSError, ValueError) as problem:
        raw.close()
        slow = isinstance(problem, TimeoutError)
        raise FetchError("timeout" if slow else "tls", f"{target.url}: {problem}") from problem


def _left(deadline: float, most: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("out of time")
    return min(left, most)


class _Line(io.RawIOBase):
    """A socket whose every wait ends at the deadline: one that drips a byte a second is not waited for.

    Closing it closes nothing: http.client closes its connection before the answer is read.
    """

    def __init__(self, line: socket.socket, deadline: float) -> None:
        super().__init__()
        self._line, self._deadline = line, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._line.settimeout(_left(self._deadline, SILENT_SECONDS))
        return self._line.recv_into(buffer)

    def sendall(self, data: bytes) -> None:
        self._line.settimeout(_left(self._deadline, SILENT_SECONDS))
        self._line.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Line(self._line, self._deadline))


@contextlib.contextmanager
def _talking(target: Target) -> Iterator[None]:
    try:
        yield
    except TimeoutError as problem:
        raise FetchError("timeout", f"{target.url}: {problem}") from problem
    except http.client.IncompleteRead as problem:
        raise FetchError("truncated", f"{target.url}: {problem}") from problem
    except (http.client.HTTPException, OSError, ValueError) as problem:
        raise FetchError("bad_response", f"{target.url}: {type(problem).__name__} {problem}") from problem


def _asked(connection: http.client.HTTPConnection, target: Target) -> http.client.HTTPResponse:
    with _talking(target):
        # Not compressed: what is sent is what is counted.
        asking = {
            "User-Agent": USER_AGENT,
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        connection.request("GET", target.path, headers=asking)
        return connection.getresponse()


def _fetched(target: Target, response: http.client.HTTPResponse, limit: int) -> Fetched:
    headers = {name.lower(): value for name, value in response.getheaders()}
    if not 200 <= response.status < 300:
        raise FetchError(f"http_{response.status}", target.url)
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise FetchError("bad_response", f"{target.url}: sent compressed, which was not asked for")
    pieces, size = [], 0
    with _talking(target):
        if (response.length or 0) > limit:
            raise FetchError("too_large", f"{target.url}: {response.length} bytes, {limit} at most")
        while piece := response.read(min(PIECE, limit + 1 - size)):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise FetchError("too_large", f"{target.url}: more than {limit} bytes")
        if response.length:
            raise FetchError("truncated", f"{target.url}: {response.length} bytes are missing")
    return Fetched(url=target.url, status=response.status, headers=headers, body=b"".join(pieces))


def _text(location: str) -> str:
    """A Location as meant: http.client reads UTF-8 as Latin-1."""
    try:
        return location.encode("latin-1").decode()
    except UnicodeError:
        return location
