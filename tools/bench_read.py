#!/usr/bin/env python
"""Time readers over the same JPEGs: raw samples, batches at 224 px, first batch, random access, resume.

    python tools/bench_read.py --rounds 5 --peers-python X/bin/python [--source DIR] [--files 4000] [--work DIR]

Every reader runs once a round, each in a process of its own, imports off the clock, page cache warm. CPU is user and
system of the whole process tree. X, where the peers are (its torch and ours should be of one version):

    python -m venv X && X/bin/pip install torch torchvision webdataset wids datasets litdata pillow
    X/bin/pip install --no-deps mosaicml-streaming && X/bin/pip install transformers Brotli python-snappy zstd \
        zstandard catalogue boto3 google-cloud-storage oci paramiko cramjam

Without --peers-python only ours run. The corpus: JPEGs of ImageNet's shape (500x375, about 100 kB), or --source.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bench_build
import bench_write
from bench_write import cpu_s

BATCH, SIDE, SHARDS = 64, 224, 4
SEEKS = 2000  # random samples read; a twentieth of them from Parquet
STOPS = (0.0, 0.25, 0.5, 0.75, 0.99)  # share of an epoch at which it is resumed
OURS, WDS, LITDATA = "datakit", "webdataset", "litdata"
TASKS = ("raw, in process", "raw, 2 workers", "decode to 224, 2 workers", "random", "resume")
# (task, figure, ours, peer, at least)
GOALS = (
    ("raw, in process", "per_cpu", OURS, WDS, 6.0),
    ("raw, in process", "per_cpu", OURS, LITDATA, 1.4),
    ("raw, 2 workers", "per_wall", OURS, WDS, 2.2),
    ("decode to 224, 2 workers", "per_wall", OURS, WDS, 1.9),
    ("decode to 224, 2 workers", "per_wall", f"{OURS}, Pillow only", WDS, 1.2),
    ("random", "per_wall", OURS, "parquet", 50.0),
)

Run = dict[str, float]
Batches = Iterator[int]  # samples of each batch


def pillow_224(data: bytes) -> Any:
    """As peers' users decode: Pillow at a reduced scale, bilinear with antialias, centre crop; uint8 CHW."""
    import io

    import numpy as np
    import torch
    from PIL import Image

    picture: Any = Image.open(io.BytesIO(data))
    picture.draft("RGB", (SIDE, SIDE))
    picture = picture.convert("RGB")
    width, height = picture.size
    scale = SIDE / min(width, height)
    picture = picture.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    left, top = (picture.width - SIDE) // 2, (picture.height - SIDE) // 2
    picture = picture.crop((left, top, left + SIDE, top + SIDE))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def loaded(dataset: Any, workers: int, decode: bool, field: str, *, stream: bool = True) -> Batches:
    """A torch DataLoader over what gives dicts of which `field` is the JPEG."""
    from torch.utils.data import DataLoader

    collate = Decoded(field) if decode else list
    for batch in DataLoader(dataset, batch_size=BATCH, num_workers=workers, collate_fn=collate):
        yield len(batch)


class Decoded:
    """Collates dicts to one tensor of images; a class, for it goes to workers."""

    def __init__(self, field: str) -> None:
        self.field = field

    def __call__(self, samples: list[Any]) -> Any:
        import torch

        return torch.stack([pillow_224(_bytes(sample[self.field])) for sample in samples])


def _bytes(value: Any) -> bytes:
    if isinstance(value, dict):
        return bytes(value["bytes"])
    return value.read() if hasattr(value, "read") else value


def ours(root: Path, task: str, *, fast: bool = True) -> Batches:
    """datakit: one thread in process, two threads for two workers."""
    from datakit.store.reader import open_store

    decode, workers = "decode" in task, 2 if "2" in task else 0
    view = open_store(root / "datakit")["train"]
    how: dict[str, Any] = {"target_size": SIDE if decode else None, "codec": "auto" if fast else "pillow"}
    loader = view.torch(BATCH, threads=workers, fields=["image", "label"], **how)
    for batch in loader:
        yield len(batch["label"])


def ours_pillow(root: Path, task: str) -> Batches:
    """The same without the codec extra."""
    return ours(root, task, fast=False)


def wds(root: Path, task: str) -> Batches:
    """webdataset on its own shards."""
    import webdataset

    urls = [str(path) for path in sorted((root / WDS).glob("*.tar"))]
    dataset = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)
    return loaded(dataset, 2 if "2" in task else 0, "decode" in task, "jpg")


def wids(root: Path, task: str) -> Batches:
    """wids, by number."""
    return loaded(_wids(root), 2 if "2" in task else 0, "decode" in task, ".jpg")


def _wids(root: Path) -> Any:
    import wids

    with contextlib.redirect_stderr(None):
        index, folder = str(root / "datakit/data/train.index.json"), str(root / "datakit/data")
        return wids.ShardListDataset(index, cache_dir=folder, transformations=[], keep=True)


def hf(root: Path, task: str) -> Batches:
    """Hugging Face datasets, streaming webdataset's tars."""
    import datasets

    files = [str(path) for path in sorted((root / WDS).glob("*.tar"))]
    stream = datasets.load_dataset("webdataset", data_files=files, split="train", streaming=True)
    plain = stream.cast_column("jpg", datasets.Image(decode=False))
    return loaded(plain, 2 if "2" in task else 0, "decode" in task, "jpg")


def hf_parquet(root: Path, task: str) -> Batches:
    """Hugging Face datasets, streaming Parquet."""
    import datasets

    files = [str(path) for path in sorted((root / "parquet").glob("*.parquet"))]
    stream = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    return loaded(stream, 2 if "2" in task else 0, "decode" in task, "jpg")


def mosaic(root: Path, task: str) -> Batches:
    """mosaicml-streaming."""
    import streaming

    dataset = streaming.StreamingDataset(local=str(root / "mds"), shuffle=False, batch_size=BATCH)
    return loaded(dataset, 2 if "2" in task else 0, "decode" in task, "jpg")


def litdata(root: Path, task: str) -> Batches:
    """litdata, with its own DataLoader."""
    import litdata

    dataset = litdata.StreamingDataset(str(root / LITDATA), shuffle=False)
    collate = Decoded("jpg") if "decode" in task else list
    workers = 2 if "2" in task else 0
    for batch in litdata.StreamingDataLoader(
        dataset, batch_size=BATCH, num_workers=workers, collate_fn=collate
    ):
        yield len(batch)


STREAMS: dict[str, Callable[[Path, str], Batches]] = {
    OURS: ours,
    f"{OURS}, Pillow only": ours_pillow,
    WDS: wds,
    "wids": wids,
    "HF streaming, tar": hf,
    "HF streaming, parquet": hf_parquet,
    "mosaicml-streaming": mosaic,
    LITDATA: litdata,
}
RANDOM = (OURS, "wids", "parquet", LITDATA)


def stream(root: Path, reader: str, task: str, files: int) -> Run:
    """One epoch: samples a CPU second and a second, and the seconds to the first batch."""
    _warm(reader)
    _read_all(root / KINDS.get(reader, reader.partition(",")[0]))
    cpu, wall, first, count = cpu_s(), time.perf_counter(), 0.0, 0
    for size in STREAMS[reader](root, task):
        first = first or time.perf_counter() - wall
        count += size
    wall, cpu = time.perf_counter() - wall, cpu_s() - cpu
    if count != files:
        raise SystemExit(f"{reader}, {task}: {count} of {files} samples")
    return {"per_cpu": count / cpu, "per_wall": count / wall, "first": first}


def _warm(reader: str) -> None:
    """Imports, which are off the clock."""
    ours = ("datakit.store.torch", "datakit.store.reader", "simplejpeg")
    named = {
        "mosaicml-streaming": ("streaming",),
        LITDATA: ("litdata",),
        WDS: ("webdataset",),
        "wids": ("wids",),
    }
    own = ours if reader.startswith(OURS) else named.get(reader, ("datasets", "pyarrow.parquet"))
    for name in ("PIL.Image", "torch.utils.data", *own):
        with contextlib.suppress(ImportError):  # simplejpeg is an extra
            importlib.import_module(name)


# Where a reader's files lie, if it is not the folder of its own name.
KINDS = {
    "wids": OURS,
    "HF streaming, tar": WDS,
    "HF streaming, parquet": "parquet",
    "mosaicml-streaming": "mds",
}


def _read_all(folder: Path) -> None:
    """Once, off the clock: a virtual machine's host may have taken pages that were long not asked for."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(1 << 20):
                    pass


def seek(root: Path, reader: str, files: int) -> Run:
    """Random single samples."""
    _warm(reader)
    _read_all(root / KINDS.get(reader, reader.partition(",")[0]))
    get = _getter(root, reader)
    numbers = random.Random(0).choices(range(files), k=SEEKS if reader != "parquet" else SEEKS // 20)
    get(files // 2)
    cpu, wall = cpu_s(), time.perf_counter()
    got = sum(len(get(number)) for number in numbers)
    wall, cpu = time.perf_counter() - wall, cpu_s() - cpu
    assert got > 10_000 * len(numbers)
    return {"per_cpu": len(numbers) / max(cpu, 1e-3), "per_wall": len(numbers) / wall}


def _getter(root: Path, reader: str) -> Callable[[int], bytes]:
    if reader == OURS:
        from datakit.store.reader import open_store

        data = open_store(root / "datakit")["train"].torch_dataset(fields=["image"])
        return lambda number: data[number]["image"].encoded
    if reader == "wids":
        listed = _wids(root)
        return lambda number: listed[number][".jpg"].read()
    if reader == LITDATA:
        import litdata

        stored = litdata.StreamingDataset(str(root / LITDATA), shuffle=False)
        return lambda number: stored[number]["jpg"]
    import pyarrow.parquet as pq

    parts = [pq.ParquetFile(path) for path in sorted((root / "parquet").glob("*.parquet"))]
    groups = [(part, group) for part in parts for group in range(part.num_row_groups)]

    def by_group(number: int) -> bytes:
        part, group = groups[number // GROUP]
        column = part.read_row_group(group, columns=["jpg"])["jpg"]
        return column[number % GROUP].as_py()["bytes"]

    return by_group


GROUP = 250  # rows of a Parquet row group


def resume(root: Path, files: int) -> Run:
    """Seconds from an unopened store to the first batch after a state, by where it stood."""
    _warm(OURS)
    from datakit.store.reader import open_store

    how: dict[str, Any] = {"shuffle": True, "fields": ["image", "label"], "threads": 0}
    base = open_store(root / "datakit")["train"].torch(BATCH, **how).state_dict()
    found = {}
    for share in STOPS:
        started = time.perf_counter()
        loader = open_store(root / "datakit")["train"].torch(BATCH, **how)
        loader.load_state_dict(base | {"position": int(share * files)})
        next(iter(loader))
        found[f"at {share:.0%}"] = time.perf_counter() - started
    return found


def likeness(corpus: Path, files: int) -> Run:
    """Mean PSNR in dB of 224 px images against the whole decode and the same filter: ours, and peers' way."""
    import io

    import numpy as np
    from PIL import Image

    from datakit.codec import cover
    from datakit.store.torch import resized

    found: dict[str, list[float]] = {"ours": [], "ours, Pillow only": [], "peers": []}
    for file in bench_write.listing(corpus, min(files, 100)):
        data = Path(file.path).read_bytes()
        whole: Any = Image.open(io.BytesIO(data)).convert("RGB")
        short = min(whole.size)
        left, top = (whole.width - short) / 2, (whole.height - short) / 2
        place = (left, top, left + short, top + short)
        wanted = np.asarray(whole.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=place), float)
        made = {
            "ours": cover(data, SIDE, resize=resized),
            "ours, Pillow only": cover(data, SIDE, codec="pillow", resize=resized),
            "peers": pillow_224(data).permute(1, 2, 0).numpy(),
        }
        for name, image in made.items():
            found[name].append(float(10 * np.log10(255**2 / ((image - wanted) ** 2).mean())))
    return {name: statistics.mean(values) for name, values in found.items()}


def prepare(root: Path, corpus: Path, files: int, kind: str) -> None:
    """The corpus in one reader's own format, unless it is there."""
    if (root / kind / ".whole").exists():
        return
    (root / kind).mkdir(parents=True, exist_ok=True)
    listed = bench_write.listing(corpus, files)
    MAKERS[kind](listed, root / kind)
    (root / kind / ".whole").touch()


def _make_mds(files: list[bench_write.File], out: Path) -> None:
    import streaming

    columns = {"jpg": "bytes", "label": "int"}
    with streaming.MDSWriter(out=str(out / "."), columns=columns, exist_ok=True) as writer:
        for file in files:
            writer.write({"jpg": Path(file.path).read_bytes(), "label": file.label})


def _sample(path_and_label: tuple[str, int]) -> dict[str, Any]:
    return {"jpg": Path(path_and_label[0]).read_bytes(), "label": path_and_label[1]}


def _make_litdata(files: list[bench_write.File], out: Path) -> None:
    import litdata

    inputs = [(file.path, file.label) for file in files]
    litdata.optimize(_sample, inputs, str(out), chunk_bytes="64MB", num_workers=2, reorder_files=False)


def _make_parquet(files: list[bench_write.File], out: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for number, some in enumerate(_batched(files)):
        rows = [{"bytes": Path(file.path).read_bytes(), "path": None} for file in some]
        table = pa.table({"jpg": pa.array(rows, image), "label": [file.label for file in some]})
        pq.write_table(
            table,
            out / f"{number:05d}.parquet",
            row_group_size=GROUP,
            compression="none",
            use_dictionary=False,
        )


def _batched(files: list[bench_write.File]) -> Iterator[list[bench_write.File]]:
    size = len(files) // SHARDS
    return (files[start : start + size] for start in range(0, len(files), size))


MAKERS: dict[str, Callable[[list[bench_write.File], Path], object]] = {
    "datakit": lambda files, out: bench_write.ours("sha256")(files, out)(),
    WDS: lambda files, out: bench_write.shard_writer(files, out)(),
    "parquet": _make_parquet,
    "mds": _make_mds,
    LITDATA: _make_litdata,
}


def corpus_of(args: argparse.Namespace, scratch: str) -> Path:
    """The folder given, found again, or made."""
    if args.source:
        return Path(args.source)
    corpus = Path(args.corpus or f"{scratch}/corpus") / "small"
    if len(bench_write.listing(corpus, args.files)) < args.files:
        bench_build.make_corpus(corpus.parent, args.files, 0)
    return corpus


def child(args: argparse.Namespace) -> Run:
    """What `in_child` asked for."""
    task, _, reader = args.child.partition(":")
    root = Path(args.work)
    if task == "prepare":
        prepare(root, Path(args.corpus), args.files, reader)
        return {}
    if task == "likeness":
        return likeness(Path(args.corpus), args.files)
    if task == "random":
        return seek(root, reader, args.files)
    if task == "resume":
        return resume(root, args.files)
    return stream(root, reader, task, args.files)


def in_child(python: str, what: str, args: argparse.Namespace, corpus: Path) -> Run:
    import subprocess

    words = [
        python,
        __file__,
        "--child",
        what,
        "--corpus",
        str(corpus),
        "--files",
        str(args.files),
        "--work",
        args.work,
    ]
    env = {**os.environ, "HF_HOME": f"{args.work}/hf", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=env)
    if done.returncode:
        raise SystemExit(f"{what} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


Results = dict[tuple[str, str], list[Run]]  # (task, reader) → one a round


def rounds(args: argparse.Namespace, corpus: Path) -> Results:
    """Every reader once a round."""
    peers = args.peers_python
    for kind in MAKERS:
        if python := sys.executable if kind == "datakit" else peers:
            in_child(python, f"prepare:{kind}", args, corpus)
    chosen = [(task, reader) for task in TASKS[:3] for reader in STREAMS]
    chosen += [("random", reader) for reader in RANDOM] + [("resume", OURS)]
    # Without decoding there is no codec to leave out.
    chosen = [(task, reader) for task, reader in chosen if "Pillow" not in reader or "decode" in task]
    if not peers:
        chosen = [(task, reader) for task, reader in chosen if reader.startswith(OURS)]
    results: Results = {one: [] for one in chosen}
    for number in range(args.rounds):
        for task, reader in chosen:
            python = sys.executable if reader.startswith(OURS) else peers
            results[task, reader].append(in_child(python, f"{task}:{reader}", args, corpus))
            print(
                f"round {number + 1}: {task}, {reader}: {results[task, reader][-1]}",
                file=sys.stderr,
                flush=True,
            )
    return results


def middle(runs: list[Run], figure: str) -> float:
    return statistics.median(run[figure] for run in runs)


def ratio(results: Results, task: str, figure: str, ours: str, peer: str) -> float:
    """The median over rounds of ours by the peer's of the same round."""
    pairs = zip(results[task, ours], results[task, peer], strict=True)
    return statistics.median(one[figure] / other[figure] for one, other in pairs)


def report(results: Results) -> Iterator[str]:
    """The tables, line by line."""
    yield "| task | reader | samples / CPU s | samples / s | first batch ms |"
    yield "|---|---|---|---|---|"
    for (task, reader), runs in results.items():
        if task == "resume":
            continue
        first = f"{middle(runs, 'first') * 1e3:.0f}" if "first" in runs[0] else ""
        yield f"| {task} | {reader} | {middle(runs, 'per_cpu'):,.0f} | {middle(runs, 'per_wall'):,.0f} | {first} |"
    told = [
        f"{where} {middle(results['resume', OURS], where) * 1e3:.0f} ms"
        for where in results["resume", OURS][0]
    ]
    yield f"resume to the first batch: {', '.join(told)}"
    for task, figure, one, other, least in GOALS:
        if (task, other) in results:
            found = ratio(results, task, figure, one, other)
            verdict = "reached" if found >= least else "NOT REACHED"
            yield f"{task}: {one} / {other} {figure.replace('_', ' ')}: {found:.2f}, goal {least}: {verdict}"
    first = middle(results[TASKS[0], OURS], "first")
    yield f"first batch in process: {first * 1e3:.1f} ms, goal 20: {'reached' if first <= 0.02 else 'NOT REACHED'}"
    slowest = max(middle(results["resume", OURS], where) for where in results["resume", OURS][0])
    yield f"resume: {slowest:.3f} s at most, goal 0.2: {'reached' if slowest <= 0.2 else 'NOT REACHED'}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=4000)
    parser.add_argument("--source", help="a folder of JPEGs (default: made)")
    parser.add_argument("--corpus", help="where the made JPEGs are kept")
    parser.add_argument("--work", help="where the formats are kept (default: a temporary folder)")
    parser.add_argument("--peers-python", help="see the top of this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args)))
        return
    with tempfile.TemporaryDirectory(prefix="bench_read_") as scratch:
        args.work = args.work or scratch
        corpus = corpus_of(args, scratch)
        print(*report(rounds(args, corpus)), sep="\n")
        told = in_child(sys.executable, "likeness:", args, corpus)
        said = ", ".join(f"{name} {value:.1f}" for name, value in told.items())
        print(f"PSNR in dB at {SIDE} px against the whole decode and the same filter: {said}")


if __name__ == "__main__":
    main()
