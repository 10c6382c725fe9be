"""F12: URLs in data that lead to this machine, its network or a cloud's metadata, in 80 spellings or by redirect."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datakit.fetch
from datakit.fetch import FetchError, fetch

from . import Outcome, Tell

TITLE = "80 forms of blocked addresses, 10 redirect chains, DNS that changes its answer"
WANTED = "0 connections to blocked addresses; each refused with a reason"
PUBLIC = "93.184.216.34"  # never asked: the connection is turned to our own server
NAMES = {  # what the resolver of a hostile name may say
    "loop.example": ["127.0.0.1"],
    "loop6.example": ["::1"],
    "meta.example": ["169.254.169.254"],
    "private.example": ["10.0.0.1"],
    "carrier.example": ["100.64.0.1"],
    "mixed.example": [PUBLIC, "127.0.0.1"],
    "mixed6.example": [PUBLIC, "::ffff:127.0.0.1"],
    "zero.example": ["0.0.0.0"],
    "unique.example": ["fd00:ec2::254"],
    "scoped.example": ["fe80::1%lo"],
    "garbage.example": ["127.0.0.1.evil"],
    "public.example": [PUBLIC],
    "localhost": ["127.0.0.1", "::1"],
}
HOSTS = [
    "127.0.0.1",
    "127.0.0.2",
    "127.1",
    "127.0.1",
    "127.255.255.255",
    "2130706433",
    "017700000001",
    "0x7f000001",
    "0x7f.0.0.1",
    "0x7F.1",
    "0177.0.0.1",
    "0177.1",
    "127.0.0.01",
    "00127.0.0.1",
    "127.0.0.1.",
    "0",
    "0.0.0.0",
    "0x0",
    "localhost",
    "localhost.",
    "LOCALHOST",
    "LocalHost.",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[::7f00:1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::169.254.169.254]",
    "[2002:7f00:1::]",
    "[2002:a9fe:a9fe::1]",
    "[2001:0:4136:e378:8000:63bf:3fff:fdd2]",
    "[fe80::1]",
    "[fe80::1%25lo]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[ff02::1]",
    "[2001:db8::1]",
    "[3fff::1]",
    "[5f00::1]",
    "169.254.169.254",
    "169.254.169.254.",
    "2852039166",
    "0xA9FEA9FE",
    "0xa9.0xfe.0xa9.0xfe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "169.16689662",
    "10.0.0.1",
    "10.255.255.255",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "192.168.1",
    "100.64.0.1",
    "100.100.100.200",
    "192.0.0.192",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "192.88.99.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "168.63.129.16",
    "１２７.0.0.1",
    "127。0。0。1",
    "①②⑦.0.0.1",
    "loop.example",
    "loop6.example",
    "meta.example",
    "private.example",
    "carrier.example",
    "mixed.example",
    "mixed6.example",
    "zero.example",
    "unique.example",
    "scoped.example",
    "garbage.example",
    "user@127.0.0.1",
    "public.example@127.0.0.1",
    "127.0.0.1%23@public.example",
    "127.0.0.1\\@public.example",
    "public.example:80@127.0.0.1",
    "127%2e0%2e0%2e1",
    "%31%32%37.0.0.1",
    "[::1]@public.example",
    "127.0.0.1%00.public.example",
]
CHAINS = [
    "http://127.0.0.1:{port}/inside",
    "http://localhost:{port}/inside",
    "http://loop.example:{port}/inside",
    "//127.0.0.1:{port}/inside",
    "http://[::ffff:127.0.0.1]:{port}/inside",
    "http://2130706433:{port}/inside",
    "http://meta.example/latest",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/inside",
    "/again",
]
CASES = len(HOSTS) + len(CHAINS) + 1
SUITE = CASES


class _Server(ThreadingHTTPServer):
    """Stands in for everything: the public server that redirects, and the inside that must not be asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.port = self.server_address[1]


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        location = ""
        if self.path.startswith("/chain/"):  # some lead there by a detour
            number, left = map(int, self.path.split("/")[2:4])
            location = f"/chain/{number}/{left - 1}" if left else CHAINS[number].format(port=self.server.port)
        elif self.path == "/again":
            location = "/again"
        self.send_response(302 if location else 200)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class _Machine:
    """Resolver and connections as a machine on the public network would have them."""

    def __init__(self, port: int) -> None:
        self.port, self.blocked, self.answers = port, list[str](), 0

    def resolve(self, host: str, port: int) -> list[str]:
        if host == "rebind.example":  # public when checked, this machine ever after
            self.answers += 1
            return [PUBLIC] if self.answers == 1 else ["127.0.0.1"]
        try:
            return NAMES[host]
        except KeyError:
            # Anything else goes to the machine's own resolver, which reads numbers of every spelling.
            return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST)]

    def connect(self, place: tuple[str, int], timeout: float | None = None) -> socket.socket:
        """Where create_connection would go: the public address is our server, any other is an offence."""
        if place[0] != PUBLIC:
            self.blocked.append(str(place))
        line = socket.socket()
        line.settimeout(timeout)
        line.connect(("127.0.0.1", self.port))
        return line


@contextlib.contextmanager
def _standing(machine_of: _Server) -> Iterator[_Machine]:
    thread = threading.Thread(target=machine_of.serve_forever, args=(0.02,))
    thread.start()
    machine, before = _Machine(machine_of.port), datakit.fetch.socket.create_connection
    datakit.fetch.socket.create_connection = machine.connect  # type: ignore[assignment]
    try:
        yield machine
    finally:
        datakit.fetch.socket.create_connection = before
        machine_of.shutdown()
        thread.join()


def _refused(url: str, machine: _Machine) -> str:
    """What did not hold of one URL; empty if it was refused without a connection to what is blocked."""
    before = len(machine.blocked)
    try:
        fetch(url, limit_bytes=1000, timeout=5, resolver=machine.resolve)
        said = f"{url}: fetched"
    except FetchError as problem:
        said = "" if problem.reason.isidentifier() else f"{url}: {problem}"
    except Exception as problem:  # anything but a reason is what is looked for
        said = f"{url}: {type(problem).__name__} {problem}"
    return f"{url}: connected to {machine.blocked[before:]}" if machine.blocked[before:] else said


def run(cases: int, seed: int, work: Path, tell: Tell) -> Outcome:
    failures: list[str] = []
    with _Server() as server, _standing(server) as machine:
        urls = [f"http://{host}/latest/meta-data" for host in HOSTS]
        urls += [f"http://public.example/chain/{number}/{number % 4}" for number in range(len(CHAINS))]
        for url in urls[: max(cases - 1, 0)]:
            if said := _refused(url, machine):
                failures.append(said)
                tell(said)
        # The one that must be fetched: from the address that was checked, whatever its name says next.
        fetch("http://rebind.example/", limit_bytes=1000, timeout=5, resolver=machine.resolve)
        if machine.answers != 1 or machine.blocked or "/inside" in server.asked:
            failures.append(f"rebinding: {machine.answers} look-ups, {machine.blocked}, {server.asked[-3:]}")
    figures = {"connections to blocked addresses": str(len(machine.blocked)), "forms": str(len(HOSTS))}
    return Outcome(cases=min(cases, CASES), failures=failures, figures=figures)
