"""`vq_tokens` end to end on toy pictures: what was packed is what was tokenized, and is learned from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import datakit
from datakit.check.tokens import arm_findings, check_tokens, tokens_codebook, tokens_random, tokens_size
from datakit.config import parse
from datakit.errors import ConfigError, MissingExtra, StoreError
from datakit.recipes.vq_tokens import Config, recipe
from datakit.run.build import Build
from datakit.stage import Files, Ref
from datakit.store.steps import read_value, write_value
from datakit.store.verify import verify
from datakit.tokens.opened import TokenSet, open_tokens
from datakit.tokens.pack import pack
from datakit.train.token_words import token_words

pytest.importorskip("pcodec")
pytest.importorskip("safetensors")
PLAIN = {
    "catalog": "imagefolder",
    "tokenizer": "train:patches",
    "size": 64,
    "fit": {"codes": 32, "patch": 8},
    "validate": "check",
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def build(cache: str, tmp_path: Path) -> Callable[..., Build]:
    def run(out: str = "out", **words: Any) -> Build:
        run = {"inline": True, "cache": cache} | words.pop("run", {})
        return datakit.build("vq_tokens", out=tmp_path / out, progress="quiet", run=run, **PLAIN | words)

    return run


def files_of(root: Path) -> dict[str, bytes]:
    paths = [path for path in sorted(root.rglob("*")) if path.is_file() and ".datakit" not in path.parts]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def test_tokens_lie_beside_their_pixels_and_decode_to_them(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    made = build(source=str(toy_folder("toys", images=6)))
    store, tokens = datakit.open_store(made.out), open_tokens(made.out / "tokens")
    view = store["train"].zip(made.out / "tokens")
    assert len(tokens) == len(view) == 54 and tokens.grid == (8, 8)
    sample = view[7]
    number = tokens.rows["key"].to_pylist().index(sample["__key__"])
    assert (sample["tokens"] == tokens.read([number])[0]).all()
    assert tokens.class_names[tokens.rows["label"][number].as_py()] == sample["class_name"]
    assert verify(made.out, deep=True).ok
    assert {one["id"]: one["passed"] for one in made.findings if one["severity"] == "fail"} == {
        "tokens_exact": True, "tokens_random": True, "tokens_views": True,
    }  # fmt: skip


def test_the_same_bytes_with_one_worker_and_with_two(toy_folder: Callable[..., Path], tmp_path: Path) -> None:
    source = str(toy_folder("toys", images=4))
    trees = []
    for workers in (1, 2):
        made = datakit.build(
            "vq_tokens", out=tmp_path / f"out{workers}", progress="quiet", source=source,
            run={"workers": workers}, per_shard=7, views="crops:2", pack={"codec": "ans"}, **PLAIN,
        )  # fmt: skip
        trees.append(files_of(made.out))
    assert trees[0] == trees[1]
    assert "tokens/blocks.bin" in trees[0]


def test_every_flipped_byte_of_the_tokens_is_found(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    made = build(source=str(toy_folder("toys", images=3)))
    for name in sorted(path.name for path in (made.out / "tokens").iterdir()):
        path = made.out / "tokens" / name
        good = path.read_bytes()
        path.write_bytes(
            good[: len(good) // 2] + bytes([good[len(good) // 2] ^ 4]) + good[len(good) // 2 + 1 :]
        )
        assert not verify(made.out).ok, f"{name}, in the tree"
        assert not verify(made.out / "tokens").ok, f"{name}, of the folder alone"
        path.write_bytes(good)
    assert verify(made.out).ok and verify(made.out / "tokens").ok


def test_a_classifier_learns_from_the_folder_alone(
    build: Callable[..., Build], toy_folder: Callable[..., Path], tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    made = build(source=str(toy_folder("toys", images=12)))
    alone = tmp_path / "alone"
    token_words("repack", [str(made.out / "tokens"), f"out={alone}", "codec=context"])
    assert (alone / "tokenizer.safetensors").exists() and verify(alone).ok
    value, text = token_words("train", [str(alone), "epochs=15", "augment=none", "batch_size=16"])
    assert value["top1"][0] > 2 * value["chance"] and "top-1" in text


def test_the_loop_compares_at_equal_bytes_and_the_same_way_twice(
    build: Callable[..., Build], toy_folder: Callable[..., Path], tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    loop = {"arms": ["full", "subset", "webp_low", "jpeg_low", "tokens"], "budgets": [1.0, 4.0], "seeds": [0],
            "steps": 8, "side": 64, "least": 4}  # fmt: skip
    source = str(toy_folder("toys", images=8))
    made = build(source=source, validate="train", loop=loop)
    anew = build("anew", source=source, validate="train", loop=loop, run={"cache": str(tmp_path / "cache")})
    assert files_of(made.out) == files_of(anew.out)
    equal = next(one for one in made.findings if one["id"] == "equal_bytes")
    assert equal["passed"]
    page = (made.out / "report" / "index.html").read_text()
    assert "coded bytes of the training images" in page and "What is left of a picture" in page


def test_token_adapt_is_trained_kept_and_trained_through(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    pytest.importorskip("torch")
    loop = {"arms": ["tokens_adapt"], "budgets": [1.0], "seeds": [0], "steps": 4, "side": 64, "least": 4}
    made = build(
        source=str(toy_folder("toys", images=8)),
        validate="train",
        loop=loop,
        adapt={"train": True, "steps": 300},
    )
    (kept,) = [one for one in made.findings if one["id"] == "tokens_adapt"]
    assert kept["passed"] and kept["value"] > 0.95, kept["value"]["value"]
    words = [str(made.out / "tokens"), f"adapt={made.out / 'adapt'}", "augment=tokenadapt", "epochs=1"]
    assert token_words("train", words)[0]["train"] > 0 and verify(made.out).ok
    with pytest.raises(ConfigError, match="go together"):
        token_words("train", words[:2])
    (made.out / "adapt" / "token_adapt.json").write_bytes(b"{}")
    assert not verify(made.out).ok


def test_a_token_adapt_that_changes_tokens_is_found(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    pytest.importorskip("torch")
    made = build(source=str(toy_folder("toys", images=8)), adapt={"train": True, "steps": 1})
    (found,) = [one for one in made.findings if one["id"] == "tokens_adapt"]
    assert not found["passed"] and found["severity"] == "warn"


def arm(**given: Any) -> dict[str, Any]:
    return {"arm": "tokens", "budget": 1.0, "allowed": 100, "spent": 90, "top1": [0.5], "chance": 0.2} | given


def test_an_arm_over_its_budget_fails() -> None:
    (equal, _) = arm_findings([arm()])
    assert equal.passed
    (equal, _) = arm_findings([arm(spent=101)])
    assert not equal.passed and equal.severity == "fail"


def test_tokens_that_teach_nothing_are_said_to() -> None:
    _, learned = arm_findings([arm(top1=[0.2, 0.21])])
    assert not learned.passed


def test_masked_modelling_that_knows_no_more_than_frequency_is_said_to() -> None:
    def found(masked: float) -> bool:
        given = arm(
            arm="tokens_mtm", mtm=[{"masked_ce": masked, "unigram": 6.0}, {"masked_ce": 5.0, "unigram": 6.0}]
        )
        (mtm,) = [one for one in arm_findings([given]) if one.id == "tokens_mtm"]
        return mtm.passed

    assert found(5.0) and not found(7.5)


def kept(tokens: np.ndarray, place: Path, **how: Any) -> TokenSet:
    for name, data in pack(tokens, [f"k{at}" for at in range(len(tokens))], **how).items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(data)
    return open_tokens(place)


def test_tokens_far_above_their_entropy_are_said_to_be(tmp_path: Path) -> None:
    """Blocks of one grid: a head each, and a codec that learns from 64 tokens."""
    tokens = np.random.default_rng(0).integers(0, 30, (64, 8, 8)).astype(np.uint16)
    assert tokens_size(kept(tokens, tmp_path / "good", codes=30)).passed
    assert not tokens_size(kept(tokens, tmp_path / "bad", codes=30, per_block=1)).passed


def test_a_collapsed_codebook_is_said_to_be(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole, few = (rng.integers(0, most, (20, 8, 8)).astype(np.uint16) for most in (200, 9))
    assert tokens_codebook(kept(whole, tmp_path / "whole", codes=200)).passed
    collapsed = tokens_codebook(kept(few, tmp_path / "few", codes=200))
    assert not collapsed.passed and "9 of 200 codes" in collapsed.summary


def test_rows_that_read_otherwise_alone_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = kept(np.arange(40, dtype=np.uint16).reshape(40, 1, 1), tmp_path, codes=40)
    assert tokens_random(tokens, 0).passed
    read = TokenSet.read
    monkeypatch.setattr(TokenSet, "read", lambda self, rows: read(self, (rows + (len(rows) == 1)) % 40))
    wrong = tokens_random(tokens, 0)
    assert not wrong.passed and wrong.count == 40 and wrong.severity == "fail"


@pytest.fixture
def toy_tokens(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> Callable[..., list[dict[str, Any]]]:
    """The findings over rows of tokens and a folder packed of `broken(tokens)`, in place of the tokens."""
    from datakit.image import Image
    from datakit.models.patches import fit_patches
    from datakit.models.tokenizer import of_files
    from datakit.stages.columns import TableRows

    rng = np.random.default_rng(0)
    # Four flat colours each: pictures that differ from one another, and that 16 codes can tell.
    images = np.kron(
        rng.choice([0, 90, 170, 255], (40, 2, 2, 3)).astype(np.uint8), np.ones((1, 16, 16, 1), np.uint8)
    )
    made = fit_patches(images, codes=16, patch=8, seed=0)
    model = of_files(made)
    tokens = model.encode(images)

    class Pictures(TableRows):
        def images(self, indices: Any = None) -> Any:
            return (Image.from_array(images[at], format="PNG") for at in indices)

    def findings(
        broken: Callable[[Any, list[str]], tuple[Any, list[str]]], folder: Path
    ) -> list[dict[str, Any]]:
        keys = [f"k{at:02d}" for at in range(40)]
        rows = Pictures(pa.table({"__key__": keys, "tokens": pa.array(list(tokens.reshape(40, -1)))
                                  .cast(pa.list_(pa.uint16(), 16))}))  # fmt: skip
        stored, named = broken(tokens.copy(), keys)
        write_value(folder, Files(pack(stored, named, codes=16, codebook_KD=model.codebook,
                                       about={"images": 40, "source_bytes": 1})))  # fmt: skip
        stage = check_tokens(packed=Ref.of(read_value(folder)), tokenizer=Ref.of(Files(made)), size=32, fit="crop",
                             views="full")  # fmt: skip
        found: list[dict[str, Any]] = stage(rows)
        return found

    return findings


def passed(findings: list[dict[str, Any]]) -> dict[str, bool]:
    return {one["id"]: one["passed"] for one in findings}


def test_tokens_as_they_were_pass(toy_tokens: Any, tmp_path: Path) -> None:
    found = passed(toy_tokens(lambda tokens, keys: (tokens, keys), tmp_path))
    assert all(found[name] for name in ("tokens_exact", "tokens_random", "tokens_views", "tokens_picture")), (
        found
    )


def test_one_wrong_token_is_found_and_its_key_named(toy_tokens: Any, tmp_path: Path) -> None:
    def broken(tokens: Any, keys: list[str]) -> tuple[Any, list[str]]:
        tokens[7, 1, 2] ^= 1
        return tokens, keys

    (exact, *_) = toy_tokens(broken, tmp_path)
    assert (
        exact["id"] == "tokens_exact"
        and not exact["passed"]
        and exact["keys"] == ["k07"]
        and exact["count"] == 1
    )


def test_rows_that_are_missing_or_under_others_keys_are_found(toy_tokens: Any, tmp_path: Path) -> None:
    lost = passed(toy_tokens(lambda tokens, keys: (tokens[:-1], keys[:-1]), tmp_path / "lost"))
    assert not lost["tokens_exact"] and not lost["tokens_views"]
    mixed = passed(toy_tokens(lambda tokens, keys: (tokens, keys[::-1]), tmp_path / "mixed"))
    assert mixed["tokens_exact"] and not mixed["tokens_views"]


def test_tokens_of_other_pictures_are_found(toy_tokens: Any, tmp_path: Path) -> None:
    found = passed(toy_tokens(lambda tokens, keys: (np.roll(tokens, 3, axis=0), keys), tmp_path))
    assert not found["tokens_exact"] and not found["tokens_picture"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"store": "a", "source": "b"}, "store= is the source itself"),
        ({"tokenizer": "train:cosine"}, "train: one of"),
        ({"tokenizer": "vitvq:a"}, "no tokenizer vitvq:a"),
        ({"pack.codec": "pcodec"}, "did you mean"),
        ({"views": "five"}, "choose full, tencrop"),
        ({"size": "100"}, "no multiple of fit.patch"),
        ({"loop.arms": "tokens,webp"}, "no arm webp"),
        ({"loop.seeds": "1,1"}, "each once"),
        ({"loop.arms": "tokens,tokens_adapt"}, "wants adapt.train=true"),
        ({"tokenizer": "train:rvq", "adapt.train": "true"}, "takes square grids"),
        ({"adapt.train": "true", "adapt.width": "98"}, "a multiple of 4"),
    ],
)
def test_wrong_words_are_told_before_any_work(words: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        recipe(parse(Config, [f"{name}={value}" for name, value in words.items()]))


def test_without_its_packages_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "pcodec" else find(name, *more)
    )
    with pytest.raises(MissingExtra, match=r"datakit\[tokens\]"):
        recipe(Config(validate="none"))


def test_what_is_packed_says_how_it_was_made(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    made = build(source=str(toy_folder("toys", images=3)), views="tencrop")
    about = json.loads((made.out / "tokens" / "tokens.json").read_text())
    tokens = open_tokens(made.out / "tokens")
    assert len(tokens) == 270 and tokens.about["views"] == "tencrop" and tokens.about["images"] == 27
    assert about["files"].keys() >= {"blocks.bin", "rows.arrow", "tokenizer.safetensors"}
    assert np.asarray(tokens.rows["view"]).reshape(-1, 10).tolist() == [list(range(10))] * 27


def test_a_tokenizer_out_of_a_build_tokenizes_another_the_same_way(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    source = str(toy_folder("toys", images=3))
    first = build("first", source=source)
    again = build("again", source=source, tokenizer=f"file:{first.out / 'tokens'}")
    ours, theirs = (open_tokens(made.out / "tokens") for made in (first, again))
    assert np.array_equal(ours.originals(ours.read(range(27))), theirs.originals(theirs.read(range(27))))
    assert ours.about["tokenizer"]["weights"] == theirs.about["tokenizer"]["weights"]


def test_a_store_already_built_is_a_source(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    first = build("first", source=str(toy_folder("toys", images=3)))
    again = build("again", catalog="emoji", store=str(first.out))
    ours, theirs = (open_tokens(made.out / "tokens") for made in (first, again))
    assert len(ours) == len(theirs) and ours.class_names == theirs.class_names


def test_tokens_of_another_store_are_refused_beside_this_one(
    build: Callable[..., Build], toy_folder: Callable[..., Path], tmp_path: Path
) -> None:
    first = build("first", source=str(toy_folder("toys", images=3)))
    other = build("other", source=str(toy_folder("more", images=4)))
    with pytest.raises(StoreError, match="lacks"):
        datakit.open_store(other.out)["train"].zip(first.out / "tokens")
    for path in (other.out / "tokens").iterdir():
        path.unlink()
    for path in (first.out / "tokens").iterdir():
        (other.out / "tokens" / path.name).write_bytes(path.read_bytes())
    assert not verify(other.out, deep=True).ok


def test_a_trained_tokenizer_is_the_same_twice(
    build: Callable[..., Build], toy_folder: Callable[..., Path]
) -> None:
    pytest.importorskip("vector_quantize_pytorch")
    source = str(toy_folder("toys", images=2))
    words = {"source": source, "tokenizer": "train:cosine_vq", "fit": {"codes": 16, "steps": 3, "patch": 8}}
    trees = [files_of(build(f"out{at}", run={"cache": ""}, **words).out) for at in (0, 1)]
    assert trees[0] == trees[1] and "tokens/tokenizer.safetensors" in trees[0]
