"""Pages: what is asked, what is shown, what can be taken away."""

from __future__ import annotations

import io
import json
import re
import tarfile
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from datakit.errors import ConfigError
from datakit.image import Image, encode
from datakit.index.catalogue import Catalogue
from datakit.serve.asked import MOST, Asked, asked_of
from datakit.serve.facets import condition
from tests.serve.conftest import keys

CARD = re.compile(r'<figure class="card[^"]*">\s*<a class="picture" href="/sample/([^"]+)"')


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
        shown = CARD.findall(page)
        assert shown == [hit["key"] for hit in found["hits"]] and len(shown) == 12
    assert all(hit["price"] < 9 for hit in found["hits"])
    assert found["plan"]["kind"] == "subset"


def test_scrolling_goes_through_all_answers_once(client: Any, catalogue: Catalogue) -> None:
    words: dict[str, Any] = {"key": keys(catalogue)[0], "k": 30}
    seen: list[str] = []
    url, params = "/more", words
    while url:
        text = client.get(url, params=params).text
        seen += CARD.findall(text)
        found = re.search(r'hx-get="([^"]+)"', text)
        url, params = (found[1].replace("&amp;", "&") if found else ""), None
    assert sorted(seen) == sorted(set(keys(catalogue)) - {words["key"]})


def test_a_picture_is_asked_with_and_finds_itself(client: Any, catalogue: Catalogue) -> None:
    key = keys(catalogue)[7]
    sent = client.post("/", files={"image": ("x.png", catalogue.image(key), "image/png")}, data={"where": ""})
    assert sent.status_code == 200 and "upload=" in str(sent.url)
    assert CARD.findall(sent.text)[0] == key


def test_pictures_of_a_page_are_small_and_drawn_anew(client: Any, catalogue: Catalogue) -> None:
    key = keys(catalogue)[2]
    small = client.get(f"/thumb/{key}")
    assert small.headers["content-type"] == "image/jpeg" and small.content[:2] == b"\xff\xd8"
    big = np.random.default_rng(0).integers(0, 255, (900, 1200, 3), np.uint8)
    sent = client.post("/", files={"image": ("x.png", encode(big, format="PNG"), "image/png")})
    shown = re.search(r'src="(/picture/[^"]+)"', sent.text)
    assert shown and Image(client.get(shown[1]).content).array.shape == (320, 427, 3)
    assert client.get("/thumb/nope").status_code == 404 and client.get("/picture/nope").status_code == 400


def test_a_picture_that_is_not_wanted_is_taken_off(client: Any, catalogue: Catalogue) -> None:
    key, other = keys(catalogue)[7], keys(catalogue)[9]
    sent = client.post(
        "/",
        files={"minus_image": ("x.png", catalogue.image(other), "image/png")},
        data={"key": key, "own": "1"},
    )
    assert sent.status_code == 200 and "minus_upload=" in str(sent.url)
    plain = CARD.findall(client.get("/", params={"key": key, "own": "1", "k": 200}).text)
    less = CARD.findall(client.get(str(sent.url) + "&k=200").text)
    assert sorted(plain) == sorted(less) and less.index(other) > plain.index(other)


def test_what_is_no_picture_is_refused(client: Any) -> None:
    sent = client.post("/", files={"image": ("x.png", b"<html>", "image/png")})
    assert sent.status_code == 400 and "not_an_image" in sent.text


def test_facets_count_the_result_and_all_and_narrow_it(client: Any) -> None:
    page = client.get("/", params={"where": "price < 10"}).text
    found = re.search(r'<a href="([^"]+)"[^>]*><bdi>even</bdi> <span>(\d+)<small> of (\d+)', page)
    assert found and (found[2], found[3]) == ("10", "100")
    narrowed = client.get(found[1].replace("&amp;", "&").replace("&#39;", "'")).text
    assert len(CARD.findall(narrowed)) == 10


def test_conditions_are_read_back_whatever_is_in_them(catalogue: Catalogue) -> None:
    from datakit.index.where import matches

    index = catalogue.indices["image"]
    for value in set(index.meta["class_name"].to_pylist()):
        mask = matches(index.meta, condition("class_name", value))
        assert mask.sum() == index.meta["class_name"].to_pylist().count(value)


def test_a_basket_stands_in_the_address() -> None:
    asked = Asked(text=("a b",), k=10).plus("x").minus("y").also("c = 'd'")
    back = asked_of([("text", "a b"), ("k", "10"), ("key", "x"), ("minus_key", "y"), ("only", "c = 'd'")])
    assert asked == back
    assert asked.minus("x").key == () and asked.minus("x").minus_key == ("y", "x")
    assert asked.off("minus_key", "y").minus_key == ()


def test_words_of_an_address_are_checked() -> None:
    with pytest.raises(ConfigError, match="unknown word zzz"):
        asked_of([("zzz", "1")])
    with pytest.raises(ConfigError, match=f"from 1 to {MOST}"):
        asked_of([("k", "0")])


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
