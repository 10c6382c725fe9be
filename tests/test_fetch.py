"""Addresses out of data: only public ones are asked, at the address that was checked, for no more than was allowed."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from datakit.errors import SampleError
from datakit.fetch import MAX_REDIRECTS, FetchError, fetch, parse_url, why_blocked

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    seen: list[tuple[str, str]]
    answers: dict[str, Answer]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["Host"]))
        with contextlib.suppress(OSError):
            self.server.answers[self.path.partition("?")[0]](self)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as made:
        made.seen, made.answers = [], {}
        thread = threading.Thread(target=made.serve_forever, args=(0.02,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def send(body: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def local(server: Server, path: str = "/") -> str:
    return f"http://images.example:{server.server_address[1]}{path}"


def here(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


def reason(url: str, **options: object) -> str:
    with pytest.raises(SampleError) as caught:
        fetch(url, **{"limit_bytes": 100, "timeout": 5, "allow_private": True, "resolver": here} | options)  # type: ignore[arg-type]
    assert isinstance(caught.value, FetchError) and caught.value.reason.isidentifier()
    return caught.value.reason


def test_what_is_there_comes_with_its_headers(server: Server) -> None:
    server.answers["/a%20b.jpg"] = send(b"picture", X_Robots_Tag="noai")
    found = fetch(local(server, "/a b.jpg?q=ü"), limit_bytes=7, allow_private=True, resolver=here)
    assert (found.status, found.body, found.headers["x-robots-tag"]) == (200, b"picture", "noai")
    port = server.server_address[1]
    assert server.seen == [("/a%20b.jpg?q=%C3%BC", f"images.example:{port}")]
    assert found.url == f"http://images.example:{port}/a%20b.jpg?q=%C3%BC"


def test_the_connection_goes_to_the_address_that_was_checked(server: Server) -> None:
    """A name that is public when asked first and this machine when asked again (DNS rebinding)."""
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["203.0.113.1"] if len(asked) > 1 else ["127.0.0.1"]

    server.answers["/"] = send(b"once")
    assert fetch(local(server), limit_bytes=9, allow_private=True, resolver=rebinding).body == b"once"
    assert asked == ["images.example"]


def test_one_blocked_address_among_public_ones_is_enough(server: Server) -> None:
    for found in (["127.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["2606:4700::1", "::1"], ["nonsense"]):
        assert reason(local(server), resolver=lambda *_: found, allow_private=False) == "blocked_address"  # noqa: B023
    assert not server.seen


def test_redirects_are_followed_checked_and_bounded(server: Server) -> None:
    port = server.server_address[1]
    server.answers = {
        "/old": send(b"", 301, Location="/new"),
        "/new": send(b"found"),
        "/loop": send(b"", 302, Location="/loop"),
        "/inside": send(b"", 307, Location=f"http://inside.example:{port}/new"),
        "/file": send(b"", 308, Location="file:///etc/passwd"),
        "/nowhere": send(b"", 303),
    }
    assert fetch(local(server, "/old"), limit_bytes=9, allow_private=True, resolver=here).body == b"found"
    assert reason(local(server, "/loop")) == "too_many_redirects"
    assert sum(path == "/loop" for path, _ in server.seen) == MAX_REDIRECTS + 1
    assert reason(local(server, "/file")) == "bad_scheme"
    assert reason(local(server, "/nowhere")) == "bad_response"
    before = len(server.seen)
    metadata = reason(
        local(server, "/inside"),
        resolver=lambda host, _: ["169.254.169.254" if host.startswith("inside") else "127.0.0.1"],
    )
    assert metadata == "blocked_address" and len(server.seen) == before + 1


def test_more_bytes_than_allowed_are_not_taken(server: Server) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(bytes(1000))

    server.answers = {
        "/fits": send(bytes(100)),
        "/said": send(bytes(101)),
        "/endless": endless,
        "/short": send(b"half", Content_Length="8"),
        "/packed": send(b"x", Content_Encoding="gzip"),
        "/gone": send(b"", 404),
    }
    found = {path: reason(local(server, path)) for path in server.answers if path != "/fits"}
    assert len(fetch(local(server, "/fits"), limit_bytes=100, allow_private=True, resolver=here).body) == 100
    assert found == {
        "/said": "too_large",
        "/endless": "too_large",
        "/short": "truncated",
        "/packed": "bad_response",
        "/gone": "http_404",
    }


def test_no_answer_is_waited_for_beyond_the_timeout(server: Server) -> None:
    stop = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not stop.wait(0.05):
            handler.wfile.write(b"x")

    server.answers = {"/drip": drip, "/hang": lambda _: bool(stop.wait(20)) and None}
    started = time.monotonic()
    try:
        assert reason(local(server, "/drip"), timeout=0.3) == "timeout"
        assert reason(local(server, "/hang"), timeout=0.3) == "timeout"
        assert reason("http://slow.example/", timeout=0.3, resolver=lambda *_: stop.wait(20)) == "timeout"
    finally:
        stop.set()
    assert time.monotonic() - started < 3


def test_what_does_not_answer_is_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert reason(f"http://images.example:{port}/") == "unreachable"

    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    assert reason("http://images.example/", resolver=unknown) == "unresolved"
    assert reason("http://images.example/", resolver=lambda *_: []) == "unresolved"


def test_proxies_and_credentials_of_the_environment_are_not_used(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/"] = send(b"direct")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/")
    assert fetch(local(server), limit_bytes=9, allow_private=True, resolver=here).body == b"direct"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://images.example/a", "bad_scheme"),
        ("//images.example/a", "bad_scheme"),
        ("javascript:alert(1)", "bad_scheme"),
        ("http://", "bad_url"),
        ("http://user:secret@images.example/", "bad_url"),
        ("http://images.example\\@127.0.0.1/", "bad_url"),
        ("http://images.example:0/", "bad_url"),
        ("http://images.example:99999/", "bad_url"),
        ("http://images.example/\r\nHost: other", "bad_url"),
        ("http://[::1%25lo]/", "bad_url"),
        ("http://a..b/", "bad_url"),
        ("http://" + "a" * 9000, "bad_url"),
        ("http://0x7f.1/", "blocked_address"),
        ("http://2130706433/", "blocked_address"),
        ("http://0177.0.0.1/", "blocked_address"),
    ],
)
def test_a_url_that_is_none_or_hides_an_address_is_refused_unasked(url: str, reason: str) -> None:
    with pytest.raises(FetchError) as caught:
        parse_url(url)
    assert caught.value.reason == reason
    assert "secret" not in str(caught.value)


def test_private_networks_may_be_allowed_and_the_metadata_of_clouds_never() -> None:
    import ipaddress

    for text in ("127.0.0.1", "10.0.0.1", "192.168.1.1", "::1", "fd00::1"):
        assert why_blocked(ipaddress.ip_address(text))
        assert not why_blocked(ipaddress.ip_address(text), allow_private=True)
    for text in ("169.254.169.254", "fe80::1", "224.0.0.1", "0.0.0.0", "::", "::ffff:127.0.0.1", "240.0.0.1"):
        assert why_blocked(ipaddress.ip_address(text), allow_private=True)
    for text in ("93.184.216.34", "2606:4700:4700::1111"):
        assert not why_blocked(ipaddress.ip_address(text))


def test_a_server_must_prove_its_name(tmp_path: object) -> None:
    """A certificate that nobody vouches for: refused, whatever the environment says."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def once() -> None:
            line, _ = listener.accept()
            with line:
                line.recv(1000)
                line.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

        thread = threading.Thread(target=once)
        thread.start()
        assert reason(f"https://images.example:{port}/") == "tls"
        thread.join()
