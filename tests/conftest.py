"""Toy catalogs made in the test, real images in them; the shared photographs where they are."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from datakit.rng import rng_for

ROOT = Path(__file__).parent.parent
SHAPES = {
    "round": ("disc", "ring", "egg"),
    "square": ("box", "frame", "bar"),
    "spiky": ("star", "cross", "arrow"),
}


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The shared photographs; a test that asks for them is skipped, saying so, where they are not."""
    path = Path(os.environ.get("DATAKIT_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"the shared data is not at {path}; DATAKIT_TEST_DATA may name it")
    return path


def pytest_configure(config: pytest.Config) -> None:
    """Readers' caches in a folder of this run, and no network; before any test file imports one of them."""
    caches = Path(tempfile.mkdtemp(prefix="datakit-test-caches-"))
    config.add_cleanup(lambda: shutil.rmtree(caches, ignore_errors=True))
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in ("HF_HOME", "CROISSANT_CACHE", "WIDS_CACHE"):
        os.environ[name] = str(caches / name.lower())


def pytest_collection_finish() -> None:
    """What the imports left stays for good: no later collection of garbage looks through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test reads or writes the user's own settings."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in [name for name in os.environ if name.startswith("DATAKIT_") and name != "DATAKIT_TEST_DATA"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DATAKIT_CACHE_DIR", str(tmp_path / "cache"))
    yield


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 of this machine, empty at first."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """`s3://NAME` of an empty bucket; the environment says where it is, and how to get in."""
    import hashlib

    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    name = f"b-{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:20]}"
    client = boto3.client("s3")
    client.create_bucket(Bucket=name)
    client.close()
    return f"s3://{name}"


def draw(kind: str, seed: int, side: int = 48) -> Image.Image:
    """A picture of a shape: kind sets the form, the seed its place, size, colour and noise."""
    rng = rng_for(seed, "draw", kind)
    colour = tuple(int(value) for value in rng.integers(30, 225, 3))
    ground = rng.integers(200, 256, (side, side, 3)).astype(np.uint8)
    picture = Image.fromarray(ground)
    pen = ImageDraw.Draw(picture)
    r = int(rng.integers(side // 5, side // 3))
    x, y = (int(value) for value in rng.integers(r, side - r, 2))
    box = (x - r, y - r, x + r, y + r)
    if kind in ("disc", "ring"):
        pen.ellipse(box, fill=colour if kind == "disc" else None, outline=colour, width=4)
    elif kind == "egg":
        pen.ellipse((x - r, y - r // 2, x + r, y + r // 2), fill=colour)
    elif kind in ("box", "frame"):
        pen.rectangle(box, fill=colour if kind == "box" else None, outline=colour, width=4)
    elif kind == "bar":
        pen.rectangle((x - r, y - r // 3, x + r, y + r // 3), fill=colour)
    else:
        turns = {"star": 5, "cross": 4, "arrow": 3}[kind]
        pen.regular_polygon((x, y, r), turns, rotation=int(rng.integers(0, 90)), fill=colour)
    return picture


@pytest.fixture
def toy_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes `<family>/<class>/NN.jpg`: three families of three shapes."""

    def make(name: str = "toy", images: int = 12, format: str = "jpg") -> Path:
        root = tmp_path / name
        for family, kinds in SHAPES.items():
            for kind in kinds:
                folder = root / family / kind
                folder.mkdir(parents=True)
                for index in range(images):
                    draw(kind, index).save(folder / f"{index:02d}.{format}", quality=90)
        return root

    return make
