#!/usr/bin/env python
"""Token codecs beside SeiT's own file and what tools usually do: bytes an image, images a CPU second; and loaders.

    python tools/bench_tokens.py [--tokens DIR] [--images DIR] [--count 1024] [--rounds 3]

Three sets in one run, each of 32 x 32 tokens: Zipf ids of 391 codes (as SeiT's codebook has), tokens of real images by
k-means of 8 x 8 px patches (K = 391; `--images`, else the drawings that come with the extra `demo`), and a token folder
of a build (`--tokens`). Every codec's tokens are compared after decoding. Medians of rounds, CPU time beside wall time.
With `--tokens`, at last: batches as a training takes them, of tokens and of the images as WebP and JPEG.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a figure a CPU second is of one thread

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datakit.image import Image, resize
from datakit.models.patches import fit_patches
from datakit.models.tokenizer import of_files
from datakit.tokens.arithmetic import JPEG_BYTES, SEIT_BYTES, bytes_for
from datakit.tokens.codec import CODEC, CODECS, decode_block, encode_block, fit_model
from datakit.tokens.opened import open_tokens
from datakit.tokens.pack import ranked
from datakit.tokens.seit import MAX_CODES, seit_bytes
from datakit.tokens.stats import token_stats

BLOCK = 256  # images
BATCH = 64
ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Way:
    """encode() → parts of bytes; decode(parts) → tokens as packed; access: how a row is read."""

    name: str
    encode: Callable[[], list[bytes]]
    decode: Callable[[list[bytes]], np.ndarray]
    access: str


def zipf(count: int) -> np.ndarray:
    shares = 1 / np.arange(1, 392)
    return np.random.default_rng(0).choice(391, (count, 32, 32), p=shares / shares.sum()).astype(np.uint16)


def of_images(folder: Path | None, count: int) -> np.ndarray:
    """uint8 (n, 256, 256, 3): images of the folder, or drawings."""
    if folder is None:
        from datakit.sources.emoji import scan

        entries = [entry for entry in scan(None, tones=False) if hasattr(entry, "data")]
        drawn = np.random.default_rng(0).permutation(len(entries))[:count]
        pixels = [Image(entries[at].data.read()).render(256) for at in drawn.tolist()]
    else:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
        drawn = np.random.default_rng(0).permutation(len(paths))[:count]
        pixels = [Image(paths[at].read_bytes()).array for at in drawn.tolist()]
    return np.stack([resize(image, side=256) for image in pixels])


def patches(images: np.ndarray) -> np.ndarray:
    """Tokens of k-means patches, learned on a quarter of the images."""
    count = len(images)
    return of_files(fit_patches(images[: max(1, count // 4)], codes=391, patch=8, seed=0)).encode(images)


def ways(tokens: np.ndarray, codes: int) -> list[Way]:
    count = len(tokens)

    def framed(name: str) -> Way:
        def encode() -> list[bytes]:
            model = fit_model(tokens, codec=name, codes=codes)
            blocks = [
                encode_block(tokens[at : at + BLOCK], codec=name, codes=codes, model=model)
                for at in range(0, count, BLOCK)
            ]
            return [model, *blocks]

        def decode(parts: list[bytes]) -> np.ndarray:
            return np.concatenate([decode_block(block, model=parts[0]) for block in parts[1:]])

        return Way(name, encode, decode, "a row" if CODEC[name].alone else "a block")

    found = [Way("uint16", lambda: [tokens.tobytes()],
                 lambda parts: np.frombuffer(parts[0], np.uint16).reshape(tokens.shape), "a row")]  # fmt: skip
    if codes < MAX_CODES:
        found.append(Way("SeiT's file, gzip", lambda: [gzip.compress(seit_bytes(tokens.reshape(count, -1))[0], 6)],
                         lambda parts: unescaped(gzip.decompress(parts[0])).reshape(tokens.shape), "none"))  # fmt: skip
    found.append(
        Way("Parquet list<uint16>, zstd", lambda: [parquet(tokens)], from_parquet(tokens.shape), "a group")
    )
    return [*found, *(framed(name) for name in CODECS)]


def unescaped(data: bytes) -> np.ndarray:
    """Byte and escape in numpy; SeiT itself reads them in a loop of Python."""
    values = np.frombuffer(data, np.uint8).astype(np.uint16)
    escape = np.flatnonzero(values == 255)
    keep = np.ones(len(values), bool)
    keep[escape + 1] = False
    values[escape] += values[escape + 1]
    return values[keep]


def parquet(tokens: np.ndarray) -> bytes:
    flat = pa.array(tokens.reshape(-1))
    offsets = pa.array(np.arange(0, tokens.size + 1, tokens[0].size, dtype=np.int32))
    sink = io.BytesIO()
    lists = pa.ListArray.from_arrays(offsets, flat)
    pq.write_table(pa.table({"tokens": lists}), sink, compression="zstd", use_dictionary=False)
    return sink.getvalue()


def from_parquet(shape: tuple[int, ...]) -> Callable[[list[bytes]], np.ndarray]:
    def read(parts: list[bytes]) -> np.ndarray:
        table = pq.read_table(io.BytesIO(parts[0]), use_threads=False)
        return table["tokens"].combine_chunks().flatten().to_numpy().astype(np.uint16).reshape(shape)

    return read


def timed(work: Callable[[], Any], rounds: int) -> tuple[Any, float, float]:
    """(what it gave, CPU seconds, wall seconds): medians."""
    cpu, wall, found = [], [], None
    for _ in range(rounds):
        started = time.process_time(), time.perf_counter()
        found = work()
        cpu.append(time.process_time() - started[0])
        wall.append(time.perf_counter() - started[1])
    return found, statistics.median(cpu), statistics.median(wall)


def measure(title: str, tokens: np.ndarray, codes: int, rounds: int) -> None:
    tokens, rank = ranked(tokens, codes, keep_unused=False)
    codes, count, each = len(rank), len(tokens), tokens[0].size
    stats = token_stats(tokens, codes)
    entropy = stats["h0"] * each / 8
    print(
        f"\n{title}: {count:,} images of {each} tokens, {codes} codes, H0 {stats['h0']:.3f} bits = {entropy:.1f} B"
    )
    heads = f"{'':28}{'B/image':>9}{'of H0':>8}{'enc img/CPU-s':>15}{'dec img/CPU-s':>15}{'wall':>11}"
    print(f"{heads}{'ImageNet':>10}  reads")
    for way in ways(tokens, codes):
        slow = 1 if way.name == "context" else rounds
        parts, coding, _ = timed(way.encode, slow)
        back, reading, wall = timed(lambda way=way, parts=parts: way.decode(parts), slow)
        if not np.array_equal(back, tokens):
            raise SystemExit(f"{way.name} lost tokens")
        size = sum(map(len, parts)) / count
        gigabytes = bytes_for(8 * size / each) / 1e9
        print(f"{way.name:28}{size:9.1f}{size / entropy:8.3f}{count / max(coding, 1e-9):15,.0f}{count / reading:15,.0f}"
              f"{count / wall:11,.0f}{gigabytes:7.2f} GB  {way.access}")  # fmt: skip


def loaders(tokens: Path, images: np.ndarray, rounds: int) -> None:
    """Batches of 64 augmented maps or images, float32: what a training step is given."""
    import torch

    from datakit.image import decode, encode
    from datakit.store.token_stream import stream_tokens
    from datakit.train.token_data import embed, one_hot, random_resized_crop

    torch.set_num_threads(1)
    count = min(len(images), len(open_tokens(tokens)))
    table = torch.from_numpy(np.array(open_tokens(tokens).codebook))
    drawn = torch.Generator().manual_seed(0)

    def streamed(shown: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], int]:
        def epoch() -> int:
            seen = 0
            for batch in stream_tokens(tokens, BATCH, shuffle=True, images=range(count), tensors=True):
                random_resized_crop(shown(batch["tokens"]), 28, drawn)
                seen += len(batch["tokens"])
            return seen

        return epoch

    def decoded(coded: list[bytes], side: int) -> Callable[[], int]:
        def epoch() -> int:
            for at in range(0, count, BATCH):
                pixels = np.stack([resize(decode(data), side=side) for data in coded[at : at + BATCH]])
                floats = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)
                random_resized_crop(floats, side * 7 // 8, drawn, sampling="bilinear")
            return count

        return epoch

    webp = [encode(resize(image, side=128), format="WEBP", quality=10) for image in images[:count]]
    jpeg = [encode(image, format="JPEG", quality=90) for image in images[:count]]
    sizes = {"tokens": open_tokens(tokens).files["blocks.bin"] / len(open_tokens(tokens))}
    sizes |= {"webp": sum(map(len, webp)) / count, "jpeg": sum(map(len, jpeg)) / count}
    found = (
        ("tokens, embedded first", sizes["tokens"], streamed(lambda ids: embed(ids, table))),
        ("tokens, one-hot first", sizes["tokens"],
         streamed(lambda ids: torch.einsum("nkhw,kd->ndhw", one_hot(ids, len(table)), table))),
        ("WebP q10 of 128 px to 112", sizes["webp"], decoded(webp, 128)),
        ("JPEG q90 of 256 px to 112", sizes["jpeg"], decoded(jpeg, 128)),
        ("JPEG q90 of 256 px to 224", sizes["jpeg"], decoded(jpeg, 256)),
    )  # fmt: skip
    print(
        f"\nLoaders: {count:,} images in batches of {BATCH}\n{'':28}{'B/image':>9}{'img/CPU-s':>11}{'wall':>9}"
    )
    for name, size, epoch in found:
        seen, cpu, wall = timed(epoch, rounds)
        if seen != count:
            raise SystemExit(f"{name} gave {seen} of {count} images")
        print(f"{name:28}{size:9.1f}{count / cpu:11,.0f}{count / wall:9,.0f}")


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--tokens", type=Path, help="a token folder")
    words.add_argument("--images", type=Path, help="a folder of images")
    words.add_argument("--count", type=int, default=1024)
    words.add_argument("--rounds", type=int, default=3)
    asked = words.parse_args()
    measure("Zipf", zipf(asked.count), 391, asked.rounds)
    images = of_images(asked.images, asked.count)
    measure("k-means patches", patches(images), 391, asked.rounds)
    if asked.tokens:
        kept = open_tokens(asked.tokens)
        found = kept.read(np.arange(min(asked.count, len(kept))))
        measure(f"a build's tokens ({kept.about['tokenizer']['name']})", found, kept.codes, asked.rounds)
        loaders(asked.tokens, images, asked.rounds)
    print(f"\nImageNet-1k, 1,281,167 images of 1,024 tokens: log2(391) bits {bytes_for(np.log2(391)) / 1e9:.3f} GB, "
          f"9 bits {bytes_for(9) / 1e9:.3f} GB; SeiT's published {SEIT_BYTES / 1e9:.1f} GB, JPEG about "
          f"{JPEG_BYTES / 1e9:.0f} GB")  # fmt: skip


if __name__ == "__main__":
    main()
