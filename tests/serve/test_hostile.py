"""Hostile text stays text; hostile requests break nothing and learn nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datakit.index.catalogue import Catalogue
from datakit.serve import pages
from datakit.serve.api import ROUTES
from tests.serve.conftest import PAYLOADS, TOKEN, keys
from tests.serve.dom import wrong_in


def every_page(client: Any, catalogue: Catalogue) -> list[str]:
    routes = ["/?k=200", "/drops", "/duplicates?threshold=0.5", "/?where=price<30&k=100"]
    found = [client.get(route).text for route in routes]
    found += [
        client.get("/", params={"text": payload, "where": payload, "index": payload}).text
        for payload in PAYLOADS
    ]
    found += [client.get("/", params={"key": payload}).text for payload in PAYLOADS[::5]]
    found += [client.get(f"/sample/{key}").text for key in keys(catalogue)[::4]]
    return found


def test_hostile_text_stays_text_on_every_page(client: Any, catalogue: Catalogue) -> None:
    for text in every_page(client, catalogue):
        assert not wrong_in(text)


def test_a_page_that_escapes_nothing_would_be_found(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    from starlette.testclient import TestClient

    from datakit.serve.app import make_app

    sound = pages.environment

    def unescaped() -> Any:
        found = sound()
        found.autoescape = False
        return found

    monkeypatch.setattr(pages, "environment", unescaped)
    app = make_app(catalogue, token=TOKEN)
    with TestClient(app, headers={"authorization": f"Bearer {TOKEN}"}) as client:
        assert {"<svg>", "<img onerror>"} <= set(wrong_in(client.get("/?k=200").text))


def fuzzed(rng: np.random.Generator, known: list[str]) -> dict[str, Any]:
    """A request that nobody would send."""
    bits = [
        "", "/", "..", "%00", "\u202e", "'", '"', "<x>", "a" * 300, "-1", "1e999", "NaN", "[]", "{}", "null", "💥",
        "../../etc/passwd", "%2e%2e%2f", "\\", "or 1=1", "price <", "(" * 50, "key", *known[:3],
    ]  # fmt: skip
    some = lambda: str(rng.choice(bits))  # noqa: E731
    names = [
        "text",
        "key",
        "where",
        "k",
        "start",
        "index",
        "minus_key",
        "minus_upload",
        "only",
        "own",
        "upload",
        "exact",
        "threshold",
        "zzz",
        some(),
    ]
    route = str(rng.choice([route.path.replace("{key}", some()) for route in ROUTES] + [
        "/", "/more", f"/sample/{some()}", f"/image/{some()}", f"/thumb/{some()}", "/drops",
        f"/picture/{some()}", "/duplicates", f"/export/{some()}",
        f"/static/{some()}", f"/{some()}{some()}",
    ]))  # fmt: skip
    asked: dict[str, Any] = {
        "method": str(
            rng.choice(
                ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"], p=[0.55, 0.35, 0.03, 0.03, 0.02, 0.02]
            )
        ),
        "url": "/" + route.lstrip("/"),
        "params": [(str(rng.choice(names)), some()) for _ in range(int(rng.integers(0, 4)))],
    }
    body = int(rng.integers(0, 5))
    if body == 1:
        asked["json"] = {
            str(rng.choice(names)): [some(), 1, None, [some()], {"a": 1}, True, 1e308][
                int(rng.integers(0, 7))
            ]
        }
    if body == 2:
        asked["content"] = rng.bytes(int(rng.integers(0, 200)))
        asked["headers"] = {
            "content-type": str(rng.choice(["application/json", "multipart/form-data; boundary=x", "text/x"]))
        }
    if body == 3:
        asked["files"] = {str(rng.choice(["image", "zzz"])): (some(), rng.bytes(60), "image/png")}
    return asked


def test_no_request_breaks_the_server_or_makes_it_tell_where_it_lives(
    client: Any, catalogue: Catalogue, tree: Path
) -> None:
    rng, statuses = np.random.default_rng(0), set()
    secrets = [str(tree), str(tree.parent), "site-packages", "Traceback"]
    for _ in range(2000):
        asked = fuzzed(rng, keys(catalogue))
        try:
            answer = client.request(**asked)
        except ValueError as problem:  # the client itself refuses to send it
            assert (
                "URL" in type(problem).__name__
                or "url" in str(problem).lower()
                or "header" in str(problem).lower()
            )
            continue
        statuses.add(answer.status_code)
        assert answer.status_code < 500, asked
        told = answer.content.decode("utf-8", "replace") + json.dumps(dict(answer.headers))
        assert not [secret for secret in secrets if secret in told], asked
    assert {200, 400, 404, 405} <= statuses
