"""Patches by k-means: exact, independent of the batch, and files that are refused when they do not fit."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datakit.errors import ConfigError, MissingExtra
from datakit.models.patches import Patches, _nearest, fit_patches
from datakit.models.quality import psnr
from datakit.models.tokenizer import Tokenizer, load, of_files, weights_of
from datakit.models.tokenizer_files import ABOUT, TENSORS, write_parts
from datakit.rng import rng_for

pytest.importorskip("safetensors")


def pictures(count: int = 6, side: int = 32, seed: int = 0) -> Any:
    """Flat cells of 8 px in many shades, with a little noise."""
    rng = rng_for(seed, "patch pictures")
    cells = rng.integers(0, 256, (count, side // 8, side // 8, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return np.clip(cells + rng.normal(0, 3, cells.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return fit_patches(pictures(), codes=24, patch=8, seed=5)


def test_a_fit_is_repeatable_and_comes_back_from_its_files(files: dict[str, bytes], tmp_path: Path) -> None:
    assert files == fit_patches(pictures(), codes=24, patch=8, seed=5)
    assert files != fit_patches(pictures(), codes=24, patch=8, seed=6)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    loaded, held = load(f"file:{tmp_path}"), of_files(files)
    pointed = of_files({name: tmp_path / name for name in files})
    assert isinstance(loaded, Tokenizer)
    assert loaded.weights == held.weights == pointed.weights == weights_of(f"file:{tmp_path}")
    assert (loaded.codes, loaded.patch, loaded.size, loaded.codebook.shape) == (24, 8, 0, (24, 192))
    assert (loaded.encode(pictures()) == held.encode(pictures())).all()
    assert json.loads(files[ABOUT])["fitted"]["patches"] == 96
    for name, data in fit_patches(pictures(), codes=12, patch=8, seed=5).items():
        (tmp_path / name).write_bytes(data)
    assert load(f"file:{tmp_path}").codes == 12  # a file written anew is read anew


def test_more_codes_come_nearer_and_codes_decode_to_themselves(files: dict[str, bytes]) -> None:
    few, many = of_files(fit_patches(pictures(), codes=4, patch=8, seed=5)), of_files(files)
    images = pictures(seed=1)
    near = [psnr(images, model.decode(model.encode(images))).mean() for model in (few, many)]
    assert near[0] + 2 < near[1]
    every = np.arange(24, dtype=np.uint16).reshape(1, 4, 6)
    assert (many.encode(many.decode(every)) == every).all()


def test_tokens_do_not_depend_on_the_batch_and_any_multiple_of_the_patch_is_taken(
    files: dict[str, bytes],
) -> None:
    model, images = of_files(files), pictures(4)
    together = model.encode(images)
    assert together.dtype == np.uint16 and together.shape == (4, 4, 4)
    assert (np.concatenate([model.encode(image[None]) for image in images]) == together).all()
    assert (model.encode(images[:, :8, 8:24]) == together[:, :1, 1:3]).all()
    assert model.encode(images[:0]).shape == (0, 4, 4)
    assert model.decode(together[:0]).shape == (0, 32, 32, 3)


@pytest.mark.parametrize("patch", [8, 16])
def test_distances_are_exact_where_float32_alone_would_round(patch: int) -> None:
    rng = rng_for(0, "exact")
    codes = rng.integers(0, 256, (40, patch * patch * 3)).astype(np.uint8)
    codes[1] = codes[0]
    codes[1, -1] ^= 1  # one grey level apart in one of hundreds of numbers
    found = _nearest(codes, codes)
    assert found.tolist() == list(range(40))
    apart = np.square(codes[:, None].astype(np.int64) - codes[None].astype(np.int64)).sum(axis=2)
    assert (apart.argmin(axis=1) == found).all()


def test_images_and_tokens_that_do_not_fit_are_refused(files: dict[str, bytes]) -> None:
    model = of_files(files)
    with pytest.raises(ConfigError, match=r"multiples of 8 px, not 30 x 32"):
        model.encode(pictures()[:, :, :30])
    with pytest.raises(ConfigError, match="must be uint8"):
        model.encode(pictures().astype(np.float32))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="codes 0 to 23; the tokens have 3 to 24"):
        model.decode(np.array([[[3, 24]]], np.uint16))
    with pytest.raises(ConfigError, match="must be whole numbers"):
        model.decode(np.zeros((2, 2), np.uint16))
    with pytest.raises(ConfigError, match="there are 1 different patches"):
        fit_patches(np.zeros((2, 16, 16, 3), np.uint8), codes=2, patch=8, seed=0)
    with pytest.raises(ConfigError, match="codes=65537: tokens are uint16"):
        fit_patches(pictures(), codes=65537, patch=8, seed=0)


def test_files_that_do_not_fit_each_other_are_refused(files: dict[str, bytes]) -> None:
    other = fit_patches(pictures(), codes=12, patch=8, seed=5)
    with pytest.raises(ConfigError, match=r"is not the file that tokenizer\.json was written for"):
        of_files(files | {TENSORS: other[TENSORS]})
    with pytest.raises(ConfigError, match=r"tokenizer\.json is not among those given"):
        of_files({TENSORS: files[TENSORS]})
    words = json.loads(files[ABOUT])
    for change, message in (
        ({"codes": 25}, "says codes=25, tokenizer.safetensors 24"),
        ({"version": 9}, "is of version 9"),
        ({"format": "x"}, "is not the description"),
    ):
        with pytest.raises(ConfigError, match=message):
            of_files(files | {ABOUT: json.dumps(words | change).encode()})
    with pytest.raises(ConfigError, match=r"tokenizer\.json is no JSON"):
        of_files(files | {ABOUT: b"{"})


def test_any_damage_of_the_tensors_is_found_even_with_a_digest_that_fits(files: dict[str, bytes]) -> None:
    from datakit.models.encoder import sha256_of

    def described(data: bytes) -> dict[str, bytes]:
        words = json.loads(files[ABOUT]) | {TENSORS: {"sha256": sha256_of([data])}}
        return {ABOUT: json.dumps(words).encode(), TENSORS: data}

    for data in (b"", b"\xff" * 40, files[TENSORS][:-1], files[TENSORS][:60]):
        with pytest.raises(ConfigError, match=r"tokenizer\.safetensors is"):
            of_files(described(data))
    settings = {"kind": "patches", "codes": 24, "dim": 192, "patch": 8}
    for tensors, message in (
        ({"codes": np.zeros((24, 191), np.uint8)}, r"not \(24, 192\)"),
        ({"codes": np.zeros((24, 192), np.float32)}, "must be uint8 of 2 axes, and is float32"),
        ({"kodes": np.zeros((24, 192), np.uint8)}, "and is not there"),
    ):
        with pytest.raises(ConfigError, match=message):
            of_files(write_parts(settings, tensors, {}))
    with pytest.raises(ConfigError, match="no tokenizer of kind riddle"):
        of_files(write_parts(settings | {"kind": "riddle"}, {}, {}))


def test_names_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("flie:x", "vqgan:", "patches"):
        with pytest.raises(ConfigError, match=f"no tokenizer {name}"):
            load(name)
    with pytest.raises(ConfigError, match="did you mean file"):
        weights_of("flie:x")
    with pytest.raises(ConfigError, match=r"cannot read .*tokenizer\.json"):
        load(f"file:{tmp_path}")
    with pytest.raises(ConfigError, match="name two files"):
        weights_of("cosmos:one")
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(MissingExtra, match=r'"datakit\[tokens\]"'):
        fit_patches(pictures(), codes=4, patch=8, seed=0)


def test_patches_are_a_value() -> None:
    model = Patches(codes_KP=np.array([[0, 0, 0], [255, 255, 255]], np.uint8), patch=1, weights="")
    assert model.codebook.tolist() == [[-1, -1, -1], [1, 1, 1]]
    assert model.encode(np.array([[[[9, 9, 9], [200, 200, 200]]]], np.uint8)).tolist() == [[[0, 1]]]
