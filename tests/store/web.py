"""A web server of this machine that serves a folder, with ranges and with faults on demand; stores read from it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from datakit.store.cache import Cache
from datakit.store.client import Patience
from datakit.store.contents import contents_of
from datakit.store.reader import Store
from datakit.store.remote import RemoteFiles
from datakit.store.urls import parse_url

# Quick to try again, and patient with a machine that is busy for seconds.
QUICK = Patience(tries=4, first_wait=0.01, longest_wait=0.02, total=60, connect=10, read=10, request=30)


@dataclass
class Web:
    """What is served and what was asked. `faults`: taken first to last, one a request that `wants` one."""

    root: Path
    url: str = ""
    ranges: bool = True
    authorization: str = ""  # asked for, where it is set
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, range
    faults: list[str] = field(default_factory=list)  # "503", "403", "cut", "drop", "other", "endless"
    sent: int = 0  # bytes of endless answers


@contextmanager
def serve(root: Path) -> Iterator[Web]:
    web = Web(root)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet, which nobody waits 40 ms to acknowledge
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: object) -> None: ...

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            path, wanted = unquote(urlsplit(self.path).path), self.headers.get("Range", "")
            web.asked.append((self.command, path, wanted))
            fault = web.faults.pop(0) if web.faults else ""
            if web.authorization and self.headers.get("Authorization") != web.authorization:
                fault = "401"
            file = web.root / path.lstrip("/")
            if fault == "drop":
                self.close_connection = True
                return
            if fault.isdecimal() or not file.is_file():
                self.send_response(int(fault or 404))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if fault == "endless":
                first = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted and web.ranges else 0
                self.send_response(206 if wanted and web.ranges else 200)
                self.end_headers()
                self.close_connection = True
                self.wfile.flush()
                with suppress(OSError):
                    while web.sent < 64 << 20:
                        web.sent += self.connection.send(file.read_bytes()[first:])
                return
            data = file.read_bytes()
            token = f'"{hash(data)}"'
            if fault == "other":
                data = bytes(255 - byte for byte in data)
            status = 200
            if wanted and web.ranges:
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                if int(first) >= len(data):
                    self.send_response(416)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                data, status = data[int(first) : int(last) + 1], 206
            self.send_response(status)
            self.send_header("ETag", token)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if fault == "cut":
                data, self.close_connection = data[: len(data) // 2], True
            if body:
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    web.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def opened(url: str, cache: Cache | None = None) -> Store:
    files = RemoteFiles(parse_url(url), cache, QUICK)
    contents = contents_of(files)
    files.expect(contents.files)
    return Store(files, contents)


def samples(store: Store) -> list[tuple[object, ...]]:
    return [
        (sample["__key__"], sample["image"].encoded, sample["label"], sample["class_name"])
        for split in store.splits
        for sample in store[split].samples()
    ]
