"""The JSON routes: their document, clip-retrieval's clients, the counts."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import numpy as np
import pytest

from datakit.index.catalogue import Catalogue
from datakit.serve.api import ROUTES
from datakit.serve.openapi import openapi


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
        {"text": "a", "indice_name": "nope"}, {"text": "a", "modality": "text"},
    ],
)  # fmt: skip
def test_what_clip_retrievals_service_cannot_do_is_told(client: Any, body: Any) -> None:
    answer = client.post("/knn-service", json=body)
    assert answer.status_code == 400 and answer.json()["problem"]


def test_models_that_are_not_here_are_passed_over_by_name(client: Any) -> None:
    answer = client.post("/knn-service", json={"text": "a", "use_safety_model": True, "use_mclip": False})
    assert answer.status_code == 200 and answer.headers["datakit-passed-over"] == "use_safety_model"


def test_near_duplicates_are_folded_for_clip_retrievals_clients(client: Any) -> None:
    asked = {"text": "a square", "num_images": 100, "indice_name": "joint"}
    every = client.post("/knn-service", json=asked).json()
    once = client.post("/knn-service", json={**asked, "deduplicate": True}).json()
    assert len(once) < len(every) and {hit["id"] for hit in once} <= {hit["id"] for hit in every}


def test_the_document_describes_every_route_and_the_server_has_them(client: Any) -> None:
    found = client.get("/api/openapi.json").json()
    assert found == json.loads(json.dumps(openapi(ROUTES))) and found["openapi"] == "3.1.0"
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
