"""A token folder: rows at random are rows in order, ids are ranked, damage is found, SeiT's files come back."""

from __future__ import annotations

import gzip
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datakit.errors import ConfigError, StoreError
from datakit.store.token_stream import stream_tokens
from datakit.tokens.codec import CODECS
from datakit.tokens.opened import TokenSet, open_tokens
from datakit.tokens.pack import pack, ranked, sealed, synonyms_of
from datakit.tokens.seit import names, read_seit, seit_bytes, write_seit

pytest.importorskip("pcodec")
pytest.importorskip("safetensors")
COUNT, CODES = 50, 300


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.minimum(rng.zipf(1.4, (COUNT, 6, 5)) + 7, CODES - 1).astype(np.uint16)


@pytest.fixture
def folder(tokens: np.ndarray, tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "tokens", **how: Any) -> Path:
        how = {"codes": CODES, "per_block": 8, "labels": np.arange(COUNT) % 4} | how
        files = pack(tokens, [f"k{at:03d}" for at in range(COUNT)], **how)
        place = tmp_path / name
        place.mkdir()
        for file, data in files.items():
            (place / file).write_bytes(data)
        return place

    return make


@pytest.mark.parametrize("codec", CODECS)
def test_rows_at_random_are_rows_in_order(
    codec: str, folder: Callable[..., Path], tokens: np.ndarray
) -> None:
    found = open_tokens(folder(codec=codec))
    numbers = np.random.default_rng(1).integers(0, COUNT, 200)
    assert np.array_equal(found.originals(found.read(numbers)), tokens[numbers])
    alone = np.stack([open_tokens(found.folder).read([number])[0] for number in range(0, COUNT, 7)])
    assert np.array_equal(alone, found.read(np.arange(0, COUNT, 7)))
    assert found.verify() == [] and found.read([]).shape == (0, 6, 5)


def test_ids_are_ranked_by_how_often_they_come_and_unused_ones_dropped(tokens: np.ndarray) -> None:
    packed, rank = ranked(tokens, CODES, keep_unused=False)
    counts = np.bincount(packed.reshape(-1))
    assert (np.diff(counts) <= 0).all() and counts.min() > 0
    assert np.array_equal(rank[packed], tokens) and len(rank) == len(np.unique(tokens))
    assert len(ranked(tokens, CODES, keep_unused=True)[1]) == CODES


def test_many_grids_are_counted_in_parts(tokens: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ranked(tokens, CODES, keep_unused=False)
    for module in ("stats", "pack"):
        monkeypatch.setattr(f"datakit.tokens.{module}.CHUNK", 7)
    parts = ranked(tokens, CODES, keep_unused=False)
    assert np.array_equal(whole[0], parts[0]) and np.array_equal(whole[1], parts[1])


def test_the_codebook_is_in_the_order_of_packed_ids(folder: Callable[..., Path]) -> None:
    codebook = np.random.default_rng(0).standard_normal((CODES, 4)).astype(np.float32)
    found = open_tokens(folder(codebook_KD=codebook))
    assert found.codebook is not None and np.allclose(found.codebook, codebook[found.rank], atol=1e-2)
    assert found.synonyms is not None and found.synonyms.shape == (found.codes, 5)


def test_synonyms_are_the_nearest_by_cosine() -> None:
    angles = np.deg2rad([0.0, 10.0, 25.0, 90.0, 180.0])
    found = synonyms_of(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32), 2)
    assert found.tolist() == [[1, 2], [0, 2], [1, 0], [2, 1], [3, 2]]


def test_every_flipped_bit_is_found(folder: Callable[..., Path]) -> None:
    place = folder(codebook_KD=np.ones((CODES, 2), np.float32), codec="ans", extra={"more.json": b"{}"})
    rng = np.random.default_rng(0)
    for path in sorted(place.iterdir()):
        good = path.read_bytes()
        for bit in rng.integers(0, len(good) * 8, 25).tolist():
            broken = bytearray(good)
            broken[bit // 8] ^= 1 << (bit % 8)
            path.write_bytes(bytes(broken))
            try:
                problems = open_tokens(place).verify()
            except StoreError as problem:
                problems = [str(problem)]
            assert problems, f"{path.name}, bit {bit}"
        path.write_bytes(good)
    assert open_tokens(place).verify() == []


def test_a_folder_without_a_file_or_of_other_files_is_refused(
    folder: Callable[..., Path], tmp_path: Path
) -> None:
    place = folder()
    with pytest.raises(StoreError, match="is no token folder"):
        open_tokens(tmp_path / "nothing")
    (place / "blocks.bin").rename(place / "gone")
    with pytest.raises(StoreError, match=r"blocks\.bin"):
        open_tokens(place).read([0])
    other = folder("other", codec="bits")
    (place / "blocks.bin").write_bytes((other / "blocks.bin").read_bytes())
    with pytest.raises(StoreError):
        open_tokens(place).read([0])


def test_a_description_that_leads_out_of_the_folder_is_refused(folder: Callable[..., Path]) -> None:
    import json

    place = folder()
    about = json.loads((place / "tokens.json").read_bytes())
    about.pop("sha256")
    about["files"]["../secret"] = {"bytes": 1, "sha256": "0"}
    (place / "tokens.json").write_bytes(sealed(about))
    with pytest.raises(StoreError, match=r"it lists '\.\./secret'"):
        open_tokens(place)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"labels": np.arange(3)}, "3 labels for 50"),
        ({"codebook_KD": np.ones((3, 2), np.float32)}, "one vector each"),
        ({"extra": {"rows.arrow": b""}}, "folder's own"),
        ({"per_block": 0}, "per_block=0"),
        ({"codes": 9}, "there are 9"),
        ({"codec": "zip"}, "no codec zip"),
    ],
)
def test_what_does_not_fit_is_refused(how: dict[str, Any], said: str, folder: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=said):
        folder(**how)


def _sum(found: TokenSet) -> int:
    return int(found.read(np.arange(COUNT)).sum())


def test_threads_and_processes_read_alike(folder: Callable[..., Path]) -> None:
    found = open_tokens(folder())
    wanted = _sum(found)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: _sum(found), range(40))) == {wanted}
    assert _sum(pickle.loads(pickle.dumps(found))) == wanted
    child = os.fork()
    if not child:  # a fork has the parent's descriptor, lock and blocks, and must not depend on them
        os._exit(int(_sum(found) != wanted))
    assert os.waitpid(child, 0)[1] == 0


def test_a_stream_gives_every_image_once_whatever_the_ranks(
    folder: Callable[..., Path], tokens: np.ndarray
) -> None:
    place = folder()
    for shuffle in ("none", "window", "full"):
        seen: list[str] = []
        for rank in range(3):
            for batch in stream_tokens(place, 4, rank=rank, world=3, shuffle=shuffle, seed=5, uneven="keep"):
                numbers = [int(key[1:]) for key in batch["__key__"]]
                rank_of = open_tokens(place)
                assert np.array_equal(rank_of.originals(batch["tokens"]), tokens[numbers])
                assert (batch["label"] == np.array(numbers) % 4).all()
                seen += batch["__key__"]
        assert sorted(seen) == [f"k{at:03d}" for at in range(COUNT)]


def test_a_stream_goes_on_where_it_stood(folder: Callable[..., Path]) -> None:
    place = folder()
    how = {"shuffle": "window", "seed": 3, "window": 2}
    whole = [key for batch in stream_tokens(place, 6, rank=0, world=1, **how) for key in batch["__key__"]]
    begun = stream_tokens(place, 6, rank=0, world=1, **how)
    some = iter(begun)
    first = [*next(some)["__key__"], *next(some)["__key__"]]
    again = stream_tokens(place, 9, rank=0, world=1)
    again.load_state_dict(begun.state_dict())
    assert first + [key for batch in again for key in batch["__key__"]] == whole
    assert again.epoch == 1 and [key for batch in again for key in batch["__key__"]] != whole
    other = stream_tokens(folder("other", codec="bits"), 6, rank=0, world=1)
    with pytest.raises(StoreError, match="the state is of other tokens"):
        other.load_state_dict(begun.state_dict())
    for state in (
        {},
        {"version": 1},
        {**begun.state_dict(), "position": 99},
        {**begun.state_dict(), "epoch": -1},
    ):
        with pytest.raises(ConfigError, match="no state of a token stream"):
            again.load_state_dict(state)


def test_views_are_the_first_another_each_epoch_or_all(tmp_path: Path) -> None:
    tokens = np.arange(60, dtype=np.uint16).reshape(60, 1, 1)
    files = pack(tokens, [f"k{at // 3}" for at in range(60)], codes=60, per_block=7, keep_unused=True,
                 views=np.tile(np.arange(3, dtype=np.uint8), 20))  # fmt: skip
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    own = open_tokens(tmp_path)

    def values(**how: Any) -> list[int]:
        stream = stream_tokens(own, 8, rank=0, world=1, **how)
        return [int(one) for batch in stream for one in own.originals(batch["tokens"]).reshape(-1)]

    assert values() == list(range(0, 60, 3)) and values(views="all") == list(range(60))
    drawn, later = values(views="random"), values(views="random", epoch=1)
    assert (
        [value // 3 for value in drawn] == list(range(20))
        and drawn != later
        and len(set(v % 3 for v in drawn)) == 3
    )
    assert values(images=[2, 5], views="all") == [6, 7, 8, 15, 16, 17]


def test_tensors_are_int64(folder: Callable[..., Path]) -> None:
    torch = pytest.importorskip("torch")
    batch = next(iter(stream_tokens(folder(), 4, rank=0, world=1, tensors=True)))
    assert batch["tokens"].dtype == torch.int64 and batch["tokens"].shape == (4, 6, 5)


SQUARE = np.random.default_rng(2).integers(0, 391, (7, 8, 8)).astype(np.uint16)


def test_seits_files_come_back(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    codebook = np.random.default_rng(0).standard_normal((391, 32)).astype(np.float32)
    files = write_seit(SQUARE, labels=np.arange(7), codebook_KD=codebook, split="val")
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    found = read_seit(tmp_path, split="val")
    assert np.array_equal(found.tokens_NHW, SQUARE) and found.codes == 391
    assert found.labels is not None and found.labels.tolist() == list(range(7))
    assert found.codebook_KD is not None and np.array_equal(found.codebook_KD, codebook)


def test_seits_bytes_are_those_of_its_format() -> None:
    data, index = seit_bytes(np.array([[3, 254, 255, 300], [0, 508, 1, 2]], np.uint16))
    assert list(data) == [3, 254, 255, 0, 255, 45, 0, 255, 253, 1, 2] and index.tolist() == [0, 6, 11]
    with pytest.raises(ConfigError, match="codes up to 508"):
        seit_bytes(np.array([[509]], np.uint16))


def test_a_broken_set_of_seit_is_told_by_file(tmp_path: Path) -> None:
    files = write_seit(SQUARE, labels=np.arange(7))
    called = names("train")

    def broken(**changed: bytes) -> None:
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        for what, data in changed.items():
            (tmp_path / called[what]).write_bytes(data)
        read_seit(tmp_path)

    broken()
    with pytest.raises(StoreError, match="is damaged"):
        broken(data=files[called["data"]][:-20])
    with pytest.raises(StoreError, match="offsets must rise"):
        broken(index=gzip.compress(gzip.decompress(files[called["index"]])[:-8] + b"\0" * 8))
    with pytest.raises(StoreError, match="6 labels for 7"):
        broken(label=b"1\n" * 6)
    with pytest.raises(StoreError, match="no list of whole numbers"):
        broken(label=b"one\n" * 7)
    (tmp_path / called["data"]).unlink()
    with pytest.raises(StoreError, match="is not there"):
        read_seit(tmp_path)
