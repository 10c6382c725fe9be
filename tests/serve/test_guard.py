"""Who may ask, how much, and how long: the server holds its tongue otherwise, and goes on for everybody else."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from datakit.errors import ConfigError
from datakit.index.catalogue import Catalogue
from datakit.serve import bounds, guard
from datakit.serve.kept import Uploads
from datakit.serve.pool import Busy, Pool
from datakit.serve.server import serve_words
from tests.serve.conftest import TOKEN, keys


def test_without_the_token_nothing_is_told(catalogue: Catalogue) -> None:
    from starlette.testclient import TestClient

    from datakit.serve.app import make_app

    with TestClient(
        make_app(catalogue, token=TOKEN, hosts=("testserver",)), follow_redirects=False
    ) as client:
        for route in ("/", "/api/indices", "/image/x", "/static/style.css", "/metrics", "/nope"):
            for given in ("", "?token=", f"?token={TOKEN[:-1]}", "?token=%F0%9F%98%80"):
                assert client.get(route + given).status_code == 401
        opened = client.get(f"/?token={TOKEN}&text=a")
        assert opened.status_code == 303 and opened.headers["location"] == "/?text=a"
        cookie = opened.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie
        assert client.get("/?text=a").status_code == 200, "by the cookie"
        assert client.get(f"/api/indices?token={TOKEN}").status_code == 200


def test_other_names_and_other_sites_may_not_ask(client: Any) -> None:
    assert client.get("/", headers={"host": "evil.example"}).status_code == 421, "a rebound name"
    assert client.post("/", headers={"origin": "http://evil.example"}).status_code == 403
    assert client.get("/", headers={"origin": "http://testserver"}).status_code == 200


def test_a_page_of_another_site_gets_nothing_by_the_cookie(catalogue: Catalogue) -> None:
    from starlette.testclient import TestClient

    from datakit.serve.app import make_app

    with TestClient(make_app(catalogue, token=TOKEN)) as client:
        client.get(f"/?token={TOKEN}")
        elsewhere = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
        assert client.get("/image/x", headers=elsewhere).status_code == 403
        assert client.get("/", headers={**elsewhere, "sec-fetch-mode": "navigate"}).status_code == 200, (
            "a link"
        )
        assert client.post("/", headers={"sec-fetch-site": "same-site"}).status_code == 403


def test_a_guard_without_its_token_check_would_be_found(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    from starlette.testclient import TestClient

    from datakit.serve.app import make_app

    monkeypatch.setattr(guard.Guard, "_is_token", lambda self, given: True)
    with TestClient(make_app(catalogue, token=TOKEN)) as client:
        assert client.get("/").status_code == 200


def test_every_answer_carries_the_policy(client: Any, catalogue: Catalogue) -> None:
    for route in (
        "/",
        "/drops",
        "/nope",
        "/api/indices",
        f"/image/{keys(catalogue)[0]}",
        "/static/htmx.min.js",
    ):
        headers = client.get(route).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers


def test_sizes_are_bounded(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.get("/", params={"where": "x" * 20_000}).status_code == 414
    monkeypatch.setattr(bounds, "MAX_BODY", 1000)
    assert client.post("/api/search", content=b"x" * 2000).status_code == 413

    def chunks() -> Any:
        yield from [b"x" * 600] * 3

    assert client.post("/api/search", content=chunks()).status_code == 413, "and without a length"


def test_uploads_are_forgotten_in_their_order() -> None:
    kept = Uploads(most=2)
    names = [kept.keep(bytes([at])) for at in range(3)]
    assert kept.get(names[2]) == b"\2"
    with pytest.raises(ConfigError, match="choose it again"):
        kept.get(names[0])


def test_too_many_that_wait_are_sent_away_and_what_takes_too_long_is_let_go() -> None:
    gate = threading.Event()

    def patient() -> bool:
        return gate.wait(20)

    async def crowd(pool: Pool) -> list[Any]:
        asked = [asyncio.ensure_future(pool.run(patient)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="ask again"):
            await pool.run(patient)
        begun = asyncio.ensure_future(pool.run(patient, refused=False))
        await asyncio.sleep(0)
        assert pool.jobs == 3, "what has begun is not refused"
        gate.set()
        return await asyncio.gather(*asked, begun)

    async def slow(pool: Pool) -> None:
        gate.clear()
        with pytest.raises(Busy, match="takes longer"):
            await pool.run(patient)
        assert pool.jobs == 1, "its thread is not free before it ends"
        gate.set()

    pools = Pool(threads=1, waiting=1), Pool(threads=1, seconds=0.05)
    assert asyncio.run(crowd(pools[0])) == [True] * 3
    asyncio.run(slow(pools[1]))
    for pool in pools:
        pool.close()


def test_a_full_server_says_so(catalogue: Catalogue) -> None:
    from starlette.testclient import TestClient

    from datakit.serve.app import make_app
    from datakit.serve.site import Site

    app = make_app(catalogue, token=TOKEN, site=Site(catalogue, Pool(threads=1, waiting=-1)))
    with TestClient(app, headers={"authorization": f"Bearer {TOKEN}"}) as client:
        answer = client.get("/api/search", params={"text": "a"})
        assert answer.status_code == 503 and "ask again" in answer.json()["problem"]
        assert client.get("/metrics").status_code == 200, "whoever watches is never sent away"


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless() -> Any:
        await asyncio.sleep(60)

    monkeypatch.setattr(bounds, "SECONDS", 0.05)
    with pytest.raises(bounds.TooSlow):
        asyncio.run(bounds.bounded(endless)())  # type: ignore[arg-type]


def test_a_head_that_comes_byte_by_byte_loses_its_connection(tree: Path) -> None:
    program = "import datakit.serve.patience as p; p.SECONDS = 1.0; from datakit.cli import main; main()"
    words = [sys.executable, "-c", program, "serve", str(tree), f"token={TOKEN}"]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        port = int(server.stdout.readline().partition("/?")[0].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=20) as slow:
            slow.settimeout(0.2)
            ended = False
            for _ in range(60):
                try:
                    slow.sendall(b"G")
                    ended = slow.recv(100) == b""
                except TimeoutError:
                    continue
                except OSError:
                    ended = True
                if ended:
                    break
            assert ended
        with urlopen(f"http://127.0.0.1:{port}/api/indices?token={TOKEN}", timeout=20) as answer:
            assert json.load(answer)["indices"]
    finally:
        server.terminate()
        server.stdout.close()
        assert server.wait(20) in (0, 143)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give the folder to serve"),
        (["port=70000"], "port=70000"),
        (["prt=1", "index=x"], "did you mean port"),
        (["token=short", "index=x"], "too short"),
        (["/nowhere"], "is no folder"),
    ],
)
def test_wrong_words_are_told_before_a_port_is_taken(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        serve_words(words, lambda value, text: None, lambda text: None)
