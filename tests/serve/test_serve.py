"""The server answers what is asked, to whoever knows its token, and holds its tongue otherwise."""

from __future__ import annotations

import base64
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from datakit.errors import ConfigError
from datakit.index.catalogue import Catalogue
from datakit.serve import guard, pages
from datakit.serve.api import ROUTES, openapi
from datakit.serve.asked import MOST, Asked, Uploads, asked_of
from datakit.serve.facets import condition
from datakit.serve.server import serve_words
from tests.serve.conftest import PAYLOADS, TOKEN
from tests.serve.dom import wrong_in


def keys(catalogue: Catalogue) -> list[str]:
    found: list[str] = catalogue.indices["image"].keys.to_pylist()
    return found


def test_a_text_a_key_and_a_filter_are_answered_alike_on_the_page_and_by_the_api(
    client: Any, catalogue: Catalogue
) -> None:
    for words in (
        {"text": "a red square"},
        {"key": keys(catalogue)[3]},
        {"key": keys(catalogue)[3], "where": "price < 9"},
    ):
        found = client.get("/api/search", params={**words, "k": 12}).json()
        page = client.get("/", params={**words, "k": 12}).text
        shown = re.findall(r'<figure class="card">\s*<a href="/sample/([^"]+)"', page)
        assert shown == [hit["key"] for hit in found["hits"]] and len(shown) == 12
    assert all(hit["price"] < 9 for hit in found["hits"])
    assert found["plan"]["kind"] == "subset"


def test_scrolling_goes_through_all_answers_once(client: Any, catalogue: Catalogue) -> None:
    words: dict[str, Any] = {"key": keys(catalogue)[0], "k": 30}
    seen: list[str] = []
    url, params = "/more", words
    while url:
        text = client.get(url, params=params).text
        seen += re.findall(r'<figure class="card">\s*<a href="/sample/([^"]+)"', text)
        found = re.search(r'hx-get="([^"]+)"', text)
        url, params = (found[1].replace("&amp;", "&") if found else ""), None
    assert sorted(seen) == sorted(set(keys(catalogue)) - {words["key"]})


def test_a_picture_is_asked_with_and_finds_itself(client: Any, catalogue: Catalogue) -> None:
    key = keys(catalogue)[7]
    sent = client.post("/", files={"image": ("x.png", catalogue.image(key), "image/png")}, data={"where": ""})
    assert sent.status_code == 200 and "upload=" in str(sent.url)
    assert re.findall(r'<figure class="card">\s*<a href="/sample/([^"]+)"', sent.text)[0] == key


def test_what_is_no_picture_is_refused(client: Any) -> None:
    sent = client.post("/", files={"image": ("x.png", b"<html>", "image/png")})
    assert sent.status_code == 400 and "not_an_image" in sent.text


def test_facets_count_the_result_and_all_and_narrow_it(client: Any) -> None:
    page = client.get("/", params={"where": "price < 10"}).text
    found = re.search(r'<a href="([^"]+)"><bdi>even</bdi> <span>(\d+)<small> of (\d+)', page)
    assert found and (found[2], found[3]) == ("10", "100")
    narrowed = client.get(found[1].replace("&amp;", "&").replace("&#39;", "'")).text
    assert narrowed.count('<figure class="card">') == 10


def test_a_basket_stands_in_the_address() -> None:
    asked = Asked(text=("a b",), k=10).plus("x").minus("y").also("c = 'd'")
    back = asked_of([("text", "a b"), ("k", "10"), ("key", "x"), ("minus_key", "y"), ("where", "c = 'd'")])
    assert asked == back
    assert asked.minus("x").key == () and asked.minus("x").minus_key == ("y", "x")
    assert asked.off("y").minus_key == ()


def test_a_sample_shows_every_field_and_where_it_comes_from(client: Any, catalogue: Catalogue) -> None:
    key = keys(catalogue)[4]
    page = client.get(f"/sample/{key}").text
    for name in ("shard", "offset", "xxh3", "caption", "class_name"):
        assert f"<bdi>{name}</bdi>" in page
    assert "Where it comes from" in page and "JSON lines" in page
    image = client.get(f"/image/{key}")
    assert image.content == catalogue.image(key) and image.headers["content-type"] == "image/png"
    assert client.get("/sample/nope").status_code == client.get("/image/nope").status_code == 404


def test_what_was_left_out_is_listed_with_its_reason(client: Any) -> None:
    page = client.get("/drops").text
    assert "not_an_image" in page and "broken.png" in page


def test_near_duplicates_are_shown_in_groups(client: Any) -> None:
    folded = client.get("/api/clusters", params={"threshold": 0.9}).json()["clusters"]
    page = client.get("/duplicates", params={"threshold": 0.9}).text
    assert page.count('class="group"') == len(folded)
    assert client.get("/duplicates", params={"threshold": "x"}).status_code == 400


def test_a_result_is_taken_away_as_a_list_or_as_shards(client: Any, catalogue: Catalogue) -> None:
    words: dict[str, Any] = {"key": keys(catalogue)[0], "k": 60}
    rows = [json.loads(line) for line in client.get("/export/jsonl", params=words).text.splitlines()]
    table = pq.read_table(io.BytesIO(client.get("/export/parquet", params=words).content))
    assert [row["key"] for row in rows] == table["key"].to_pylist() and len(rows) == 60
    with tarfile.open(fileobj=io.BytesIO(client.get("/export/tar", params=words).content)) as tar:
        members = tar.getnames()
        first = tar.extractfile(members[0])
        assert first is not None and first.read() == catalogue.image(rows[0]["key"])
    assert members[:2] == [f"{rows[0]['key']}.png", f"{rows[0]['key']}.json"] and len(members) == 120
    assert client.get("/export/zip", params=words).status_code == 404


def test_clip_retrievals_clients_are_answered(client: Any, catalogue: Catalogue) -> None:
    index = catalogue.indices["image"]
    hits = client.post("/knn-service", json={"text": "a dog", "num_images": 5, "indice_name": "joint"}).json()
    assert len(hits) == 5 and all({"id", "similarity", "key", "caption"} <= set(hit) for hit in hits)
    vector = index.vectors(np.array([3]))[0].tolist()
    first = client.post(
        "/knn-service", json={"embedding_input": vector, "num_images": 1, "indice_name": "image"}
    ).json()
    assert first[0]["id"] == 3 and first[0]["similarity"] == pytest.approx(1, abs=1e-3)
    image = base64.b64encode(catalogue.image(first[0]["key"])).decode()
    asked = {"image": image, "num_images": 2, "num_result_ids": 9, "indice_name": "image"}
    found = client.post("/knn-service", json=asked).json()
    assert found[0]["key"] == first[0]["key"] and len(found) == 9 and "key" not in found[2]
    known = client.post("/metadata", json={"ids": [3], "metadata": ["price"], "indice_name": "image"}).json()
    assert known == [{"id": 3, "metadata": {"price": index.meta["price"][3].as_py()}}]
    assert client.get("/indices-list").json() == ["image", "joint"]


@pytest.mark.parametrize(
    "body",
    [
        {}, [], {"text": "a", "image": "b"}, {"image": "no base64!"}, {"image_url": "http://127.0.0.1/"},
        {"embedding_input": [1, 2]}, {"embedding_input": "x"}, {"text": 3}, {"text": "a", "num_images": -1},
        {"text": "a", "use_safety_model": True},
    ],
)  # fmt: skip
def test_what_clip_retrievals_service_cannot_do_is_told(client: Any, body: Any) -> None:
    answer = client.post("/knn-service", json=body)
    assert answer.status_code == 400 and answer.json()["problem"]


def test_near_duplicates_are_folded_for_clip_retrievals_clients(client: Any) -> None:
    asked = {"text": "a square", "num_images": 100, "indice_name": "joint"}
    every = client.post("/knn-service", json=asked).json()
    once = client.post("/knn-service", json={**asked, "deduplicate": True}).json()
    assert len(once) < len(every) and {hit["id"] for hit in once} <= {hit["id"] for hit in every}


# — who may ask


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
    monkeypatch.setattr(guard, "MAX_BODY", 1000)
    assert client.post("/api/search", content=b"x" * 2000).status_code == 413

    def chunks() -> Any:
        yield from [b"x" * 600] * 3

    assert client.post("/api/search", content=chunks()).status_code == 413, "and without a length"


def test_uploads_are_forgotten_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datakit.serve.asked.UPLOADS", 2)
    kept = Uploads()
    names = [kept.keep(bytes([at])) for at in range(3)]
    assert kept.get(names[2]) == b"\2"
    with pytest.raises(ConfigError, match="choose it again"):
        kept.get(names[0])


def test_too_many_that_wait_are_sent_away(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datakit.serve.site.THREADS", 0)
    monkeypatch.setattr("datakit.serve.site.WAITING", 0)
    assert client.get("/api/search", params={"text": "a"}).status_code == 503


# — hostile text, hostile requests


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
        "upload",
        "exact",
        "threshold",
        "zzz",
        some(),
    ]
    route = str(rng.choice([route.path.replace("{key}", some()) for route in ROUTES] + [
        "/", "/more", f"/sample/{some()}", f"/image/{some()}", "/drops", "/duplicates", f"/export/{some()}",
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


# — the document, the counts, the words


def test_the_document_describes_every_route_and_the_server_has_them(client: Any) -> None:
    found = client.get("/api/openapi.json").json()
    assert found == json.loads(json.dumps(openapi())) and found["openapi"] == "3.1.0"
    described = {(path, method.upper()) for path, methods in found["paths"].items() for method in methods}
    assert described == {(route.path, route.method) for route in ROUTES}
    names = [one["operationId"] for methods in found["paths"].values() for one in methods.values()]
    assert len(set(names)) == len(names)
    for path, methods in found["paths"].items():
        for operation in methods.values():
            there = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
            assert there == set(re.findall(r"{(\w+)}", path)) and "200" in operation["responses"]


def test_counts_are_read_by_prometheus_and_hold_no_text_of_a_request(client: Any) -> None:
    client.get("/api/search", params={"text": 'x"} evil 1'})
    client.get("/never/was")
    text = client.get("/metrics").text
    assert re.search(r'datakit_requests_total\{route="/api/search",status="200"\} \d+', text)
    assert "evil" not in text and "never" not in text
    for line in text.splitlines():
        assert line.startswith("#") or re.fullmatch(r'\w+(\{(\w+="[^"]*",?)+\})? [\d.e+-]+', line)


def test_conditions_are_read_back_whatever_is_in_them(catalogue: Catalogue) -> None:
    from datakit.index.where import matches

    index = catalogue.indices["image"]
    for value in set(index.meta["class_name"].to_pylist()):
        mask = matches(index.meta, condition("class_name", value))
        assert mask.sum() == index.meta["class_name"].to_pylist().count(value)


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
        serve_words(words, lambda text: None)


def test_words_of_an_address_are_checked() -> None:
    with pytest.raises(ConfigError, match="unknown word zzz"):
        asked_of([("zzz", "1")])
    with pytest.raises(ConfigError, match=f"from 1 to {MOST}"):
        asked_of([("k", "0")])
