"""In a real browser: a search with and without JavaScript, and 200 payloads that do nothing."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.conftest import PAYLOADS, TOKEN
from tests.serve.dom import wrong_in

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def address(tree: Path) -> Iterator[str]:
    words = [sys.executable, "-m", "datakit.cli", "serve", str(tree), f"token={TOKEN}"]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield server.stdout.readline().partition("/?")[0]
    finally:
        server.terminate()
        server.stdout.close()
        assert server.wait(20) in (0, 143)


@pytest.fixture
def canary() -> Iterator[tuple[str, list[str]]]:
    """Another server of this machine, which no page may ask."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def dom(url: str, folder: Path, *flags: str) -> str:
    """The page after its scripts ran."""
    words = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}", "--dump-dom",
        "--virtual-time-budget=3000", *flags, url,
    ]  # fmt: skip
    return subprocess.run(words, capture_output=True, text=True, timeout=90, check=True).stdout


def test_a_search_in_a_browser_scrolls_on_by_itself(address: str, tmp_path: Path) -> None:
    text = dom(f"{address}/?token={TOKEN}&text=a+red+square&k=20", tmp_path, "--window-size=1200,6000")
    assert text.count('<figure class="card') > 20, "more came as the end was seen"
    assert not wrong_in(text)


def test_a_search_works_without_javascript(address: str, tmp_path: Path) -> None:
    (tmp_path / "Default").mkdir()
    blocked = {"profile": {"default_content_setting_values": {"javascript": 2}}}
    (tmp_path / "Default" / "Preferences").write_text(json.dumps(blocked))
    text = dom(f"{address}/?token={TOKEN}&text=a+red+square&k=20", tmp_path, "--window-size=1200,6000")
    assert text.count('<figure class="card') == 20, "none came by itself"
    assert re.search(r'class="more"[^>]*><a href="/\?[^"]*start=20', text)


def test_two_hundred_payloads_do_nothing(address: str, tmp_path: Path, canary: tuple[str, list[str]]) -> None:
    from urllib.parse import quote

    place, asked = canary
    pages = [f"/?token={TOKEN}&k=200", f"/duplicates?token={TOKEN}&threshold=0.3"]
    pages += [
        f"/?token={TOKEN}&where={quote(payload.replace('127.0.0.1:9', place))}" for payload in PAYLOADS[::25]
    ]
    for page in pages:
        text = dom(address + page, tmp_path)
        assert "PWNED" not in (re.search(r"<title>(.*?)</title>", text) or ["", ""])[1]
        assert not wrong_in(text) and text.count("<script") == 2
    assert not asked
