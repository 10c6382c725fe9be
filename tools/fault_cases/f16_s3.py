"""A store published to S3 and read back through a proxy that breaks one operation in ten."""

from __future__ import annotations

import http.client
import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import patch

from datakit.errors import DatakitError
from datakit.store.cache import Cache
from datakit.store.client import Client, Patience
from datakit.store.contents import contents_of
from datakit.store.layout import MANIFEST
from datakit.store.reader import Store, open_store
from datakit.store.remote import RemoteFiles
from datakit.store.upload import upload
from datakit.store.urls import parse_url
from fault_cases import Outcome, Tell
from fault_cases.f06_resume import make_store

TITLE = "S3, one operation in ten: 500, 503, no answer, cut short, done twice; publish, read by ranges and by cache"
WANTED = "the same bytes; at most 1.3 times the requests"
CASES = 1000  # operations
SUITE = 60
SAMPLES = 60  # one shard; a round of publish and two readings is about 100 operations
SHARE = 0.1  # of operations that go wrong
MOST = 1.3  # requests, in those of a run in peace
KINDS = ("500", "503", "hang", "cut", "twice")
HANG = 0.6  # seconds; the client waits READ for a byte
PATIENCE = Patience(tries=7, first_wait=0.01, longest_wait=0.1, total=60, connect=2, read=0.4, request=10)


@dataclass
class Proxy:
    """Counts what is asked; breaks a share of it, as `draw` says."""

    upstream: tuple[str, int]
    draw: random.Random
    share: float = 0.0
    requests: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self) -> str:
        with self.lock:
            self.requests += 1
            if self.draw.random() >= self.share:
                return ""
            kind = self.draw.choice(KINDS)
            self.faults[kind] += 1
            return kind

    def forward(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection(*self.upstream, timeout=30)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())
        finally:
            connection.close()


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: object) -> None: ...

        def do_GET(self) -> None:
            if self.headers.get("Expect"):
                self.send_response_only(100)
                self.end_headers()
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = proxy.fault()
            if fault == "hang":
                time.sleep(HANG)
                self.close_connection = True
                return
            if fault in ("500", "503"):
                code = {"500": "InternalError", "503": "SlowDown"}[fault]
                said = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
                self._answer(int(fault), said, {"Content-Type": "application/xml"})
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            for _ in range(2 if fault == "twice" else 1):
                status, data, answer = proxy.forward(self.command, self.path, body, headers)
            self._answer(status, data, answer, cut=fault == "cut")

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

        def _answer(self, status: int, data: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
            if cut and (self.command == "HEAD" or len(data) < 2):
                self.close_connection = True  # no body to cut: the answer is lost
                return
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                    self.send_header(name, value)
            length = next(
                (value for name, value in headers.items() if name.lower() == "content-length"), str(len(data))
            )
            self.send_header("Content-Length", length if self.command == "HEAD" else str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if cut else data)
            self.close_connection = self.close_connection or cut

    return Handler


@contextmanager
def behind_proxy(seed: int) -> Iterator[Proxy]:
    """An S3 of this machine behind the proxy, which the environment names."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    proxy = Proxy(moto.get_host_and_port(), random.Random(seed))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(proxy))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    place = f"http://127.0.0.1:{server.server_address[1]}"
    access = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "testing")
    try:
        with patch.dict(os.environ, AWS_ENDPOINT_URL=place, AWS_DEFAULT_REGION="us-east-1", **access):
            client = boto3.client("s3")
            client.create_bucket(Bucket=f"faults-{seed}")
            client.close()
            yield proxy
    finally:
        server.shutdown()
        server.server_close()
        moto.stop()


def run(cases: int, seed: int, work: Path, tell: Tell) -> Outcome:
    """Rounds of publish and two readings, until so many operations were asked; each beside one in peace."""
    root = work / "store"
    make_store(root, SAMPLES)
    failures: list[str] = []
    with behind_proxy(seed) as proxy:
        place = f"s3://faults-{seed}"
        proxy.requests = 0
        failures += [f"in peace: {line}" for line in one_round(root, f"{place}/peace", work / "peace")]
        calm = proxy.requests
        proxy.share, proxy.requests, rounds = SHARE, 0, 0
        while proxy.requests < cases:
            found = one_round(root, f"{place}/{rounds}", work / f"cache-{rounds}")
            failures += [f"round {rounds}: {line}" for line in found]
            rounds += 1
            tell(f"{proxy.requests} of {cases} operations")
    times = proxy.requests / (calm * rounds)
    if times > MOST:
        failures.append(f"{times:.2f} times the requests")
    figures = {
        "requests": f"{times:.2f} × fault-free",
        "faults": f"{proxy.faults.total()} of {proxy.requests}",
    }
    return Outcome(cases=proxy.requests, failures=failures, figures=figures)


def one_round(root: Path, url: str, cache: Path) -> list[str]:
    """Publish and read back; what was not as it should be."""
    try:
        upload(root, url, patience=PATIENCE)
        failures = []
        for way, kept in (("ranges", None), ("cache", Cache(cache))):
            files = RemoteFiles(parse_url(url), kept, PATIENCE)
            contents = contents_of(files)
            files.expect(contents.files)
            store = Store(files, contents)
            if read(store) != read(open_store(root)):
                failures.append(f"other samples by {way}")
        client = Client(parse_url(url), PATIENCE)
        there = set(client.listing())
        if there != {*contents.files, MANIFEST}:
            failures.append(f"other files there: {sorted(there ^ {*contents.files, MANIFEST})}")
        return failures
    except (DatakitError, FileNotFoundError) as problem:
        return [f"{type(problem).__name__}: {problem}"]


def read(store: Store) -> list[tuple[str, bytes]]:
    return [
        (sample["__key__"], sample["image"].encoded) for sample in store["train"].samples(shuffle="window")
    ]
