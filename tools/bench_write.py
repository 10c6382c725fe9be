"""What it costs to turn a folder of JPEGs into shards: datakit beside its peers, in one run.

    python tools/bench_write.py [--files 4000] [--rounds 3] [--source DIR | --corpus DIR]
                                [--out DIR] [--img2dataset-python PATH] [--core-python PATH]

Every writer copies the same files into shards of 1,000 with an integer label as `cls` member, by
its defaults. "datakit, sha256 + xxh3" is a whole published store (`write_shard`, `finish_tree`): sha256
a shard, xxh3 a sample, metadata, wids index, card and manifest, every file synced and renamed; the
other rows of datakit leave the tars' sha256 out, or both. ShardWriter does none of it (and gives other
bytes each time, unless told an mtime). img2dataset copies file:// addresses and adds JSON members and
a parquet, its own hash and EXIF reading off. GNU tar, without labels and into one archive, stands for
the limit.

Each run is a process of its own, in rounds A B C A B C, page cache warm, imports and listing off
the clock. CPU is user + system, children included; peak is the largest process's resident set, and
of it, what interpreter and libraries have before the first file. Medians over the rounds; CPU against
ShardWriter is taken within a round, with its range. "same bytes": of every file that a run leaves.

--source   a folder of real JPEGs, one folder a class. Without it photographs of scikit-image and
           scikit-learn are cropped and saved at quality 90, about 110 kB each ...
--corpus   ... into this folder, and found there again; else into a temporary one
--out      where shards go, one run's at a time: default /dev/shm if there is one. That is memory, so
           that the disk does not decide: an fsync is nearly free there

img2dataset pins versions that do not install beside webdataset 1.x; give it its own environment. So too
datakit's core, for its peak: where pandas is installed, the first array makes pyarrow import it, 40 MB.

    python -m venv X && X/bin/pip install img2dataset
    python -m venv Y && Y/bin/pip install .
    python tools/bench_write.py --img2dataset-python X/bin/python --core-python Y/bin/python
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

    from datakit.store.tar import Digest

PER_SHARD = 1000  # samples
MADE_CLASSES = 1000
MAKE = "corpus"  # the child that makes it
WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
BASE = "webdataset ShardWriter"
PEER = "img2dataset, raw copy"
OURS = "datakit, sha256 + xxh3"
CORE = "the same, core install"


@dataclass(frozen=True, kw_only=True)
class File:
    """One JPEG of the corpus; `key` is its number."""

    key: str
    path: str
    label: int


Run = dict[str, Any]  # cpu and wall in seconds; peak, and libraries' part of it, in MB; digest of the files
Runs = dict[str, list[Run]]  # by writer, one a round
Work = Callable[[], object]
Prepare = Callable[[list[File], Path], Work]  # what is off the clock


def ours(digest: Digest) -> Prepare:
    """A whole store, as a build publishes it, its tars with the digests named."""

    def prepare(files: list[File], out: Path) -> Work:
        import pyarrow as pa

        from datakit.blob import Blob
        from datakit.store import shard
        from datakit.store.tar import TarWriter
        from datakit.store.tree import Layout, Licence, ShardPlan, StoreInfo, finish_tree, write_shard

        pa.array([0])  # the first array imports pandas, where there is one
        # write_shard leaves no digest out: this is for the table alone.
        shard.TarWriter = functools.partial(TarWriter, digest=digest)  # type: ignore[attr-defined, assignment]
        layout = Layout(label="label", arrow=False)
        names = ("name", "title", "description", "homepage", "creator")
        words: dict[str, Any] = dict.fromkeys(names, "bench")
        info = StoreInfo(**words, licences=(Licence(name="none"),), date_published="2026-01-01")

        def work() -> None:
            entries = []
            for index, batch in enumerate(batches := shards(files)):
                plan = ShardPlan(split="train", index=index, of=len(batches))
                rows = {"key": [file.key for file in batch], "label": [file.label for file in batch]}
                images = (Blob(file.path, 0, size_of(Path(file.path))) for file in batch)
                entries.append(write_shard(out, plan, pa.table(rows), images, layout=layout))
            finish_tree(out, entries=entries, layout=layout, info=info)

        return work

    return prepare


def shard_writer(files: list[File], out: Path) -> Work:
    """webdataset's writer."""
    import webdataset

    def work() -> None:
        pattern = str(out / "%05d.tar")
        with webdataset.ShardWriter(pattern, maxcount=PER_SHARD, verbose=0) as writer:
            for file in files:
                image = Path(file.path).read_bytes()
                writer.write({"__key__": file.key, "jpg": image, "cls": file.label})

    return work


def img2dataset(files: list[File], out: Path) -> Work:
    """img2dataset at its leanest: one process, bytes copied from file:// addresses."""
    download = importlib.import_module("img2dataset").download
    table = out / "list.csv"
    lines = [f"{Path(file.path).as_uri()},{file.label}\n" for file in files]
    table.write_text("url,caption\n" + "".join(lines))
    options: dict[str, Any] = {
        "url_list": str(table),
        "input_format": "csv",
        "caption_col": "caption",
        "output_folder": str(out / "shards"),
        "output_format": "webdataset",
        "disable_all_reencoding": True,
        "number_sample_per_shard": PER_SHARD,
        "processes_count": 1,
        "thread_count": 16,
        "compute_hash": None,
        "extract_exif": False,
    }
    return lambda: download(**options)


def gnu_tar(files: list[File], out: Path) -> Work:
    """The images alone, in one archive."""
    names = "\n".join(file.path for file in files).encode()
    command = ["tar", "-P", "--format=ustar", "-cf", str(out / "all.tar"), "--files-from=-"]
    return lambda: subprocess.run(command, input=names, check=True)


WRITERS: dict[str, Prepare] = {
    OURS: ours("sha256"),
    CORE: ours("sha256"),
    "datakit, xxh3": ours("xxh3"),
    "datakit, no digest": ours("none"),
    BASE: shard_writer,
    PEER: img2dataset,
    "GNU tar, no labels": gnu_tar,
}
GOALS = [  # row, against, CPU ratio at most
    (OURS, BASE, 0.9),
    ("datakit, xxh3", BASE, 0.5),
    (OURS, PEER, 0.15),
]
PEAK_GOAL = 100  # MiB, of OURS and CORE
MEMORY = {"tmpfs", "ramfs"}  # file systems where nothing waits for a disk


def shards(files: list[File]) -> list[list[File]]:
    """The files of each shard."""
    return [files[start : start + PER_SHARD] for start in range(0, len(files), PER_SHARD)]


def listing(corpus: Path, count: int) -> list[File]:
    """The first `count` JPEGs below a folder by path; a label for each folder."""
    found = (path for path in corpus.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg"})
    paths = sorted(found)[:count]
    labels = {folder: n for n, folder in enumerate(sorted({path.parent for path in paths}))}
    return [
        File(key=f"{n:08d}", path=str(path.resolve()), label=labels[path.parent])
        for n, path in enumerate(paths)
    ]


def make_corpus(folder: Path, count: int) -> None:
    """`count` distinct crops of photographs, JPEG quality 90, about 110 kB each, by class."""
    import numpy as np

    rng = np.random.default_rng(0)
    for number, (photo, width) in zip(range(count), itertools.cycle(photographs()), strict=False):
        path = folder / f"class_{number % MADE_CLASSES:04d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        # A 4:3 window, at a random place, of 70 to 95 % of the photograph.
        unit = min(photo.width / 4, photo.height / 3) * rng.uniform(0.7, 0.95)
        left = rng.uniform(0, photo.width - 4 * unit)
        top = rng.uniform(0, photo.height - 3 * unit)
        window = (left, top, left + 4 * unit, top + 3 * unit)
        photo.resize((width, width * 3 // 4), box=window).save(path, quality=90)


def photographs() -> list[tuple[Image, int]]:
    """With the width in pixels at which windows of it have about 110 kB, found by trial."""
    from PIL import Image
    from skimage import data
    from sklearn.datasets import load_sample_image

    skimage = {"astronaut": 894, "chelsea": 958, "coffee": 884, "rocket": 1243}
    sklearn = {"china.jpg": 683, "flower.jpg": 1001}
    pixels = [(getattr(data, name)(), width) for name, width in skimage.items()]
    pixels += [(load_sample_image(name), width) for name, width in sklearn.items()]
    return [(Image.fromarray(photo), width) for photo, width in pixels]


def cpu_s() -> float:
    """User and system seconds of this process and the children it waited for."""
    own, children = map(resource.getrusage, WHO)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def peak_mb() -> float:
    """The largest resident set so far, of this process or a child."""
    kibibytes: int = max(resource.getrusage(who).ru_maxrss for who in WHO)  # as Linux counts them
    return kibibytes * 1024 / 1e6


def measure(writer: str, files: list[File], out: Path) -> Run:
    """One run, in this process."""
    work = WRITERS[writer](files, out)
    libraries, cpu, wall = peak_mb(), cpu_s(), time.perf_counter()
    work()
    cpu, wall, peak = cpu_s() - cpu, time.perf_counter() - wall, peak_mb()
    made = sorted(path for path in out.rglob("*") if path.is_file())
    tars = [path for path in made if path.suffix == ".tar"]
    if sum(map(size_of, tars)) < sum(size_of(Path(file.path)) for file in files):
        raise SystemExit(f"{writer} left files out")
    digest = hashlib.sha256()
    for path in made:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return {"cpu": cpu, "wall": wall, "peak": peak, "libraries": libraries, "digest": digest.hexdigest()}


def size_of(path: Path) -> int:
    """In bytes."""
    return path.stat().st_size


def in_child(python: str, *arguments: str) -> Run:
    """This file run by `python`; the JSON of its last line."""
    command = [python, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    result: Run = json.loads(done.stdout.splitlines()[-1])
    return result


def rounds(args: argparse.Namespace, corpus: Path) -> Runs:
    """Every writer once a round, each into an empty folder; its runs by name."""
    pythons = dict.fromkeys(WRITERS, sys.executable)
    pythons |= {PEER: args.img2dataset_python, CORE: args.core_python}
    runs: Runs = {name: [] for name in WRITERS if pythons[name]}
    for _, name in itertools.product(range(args.rounds), runs):
        with tempfile.TemporaryDirectory(prefix="bench_write_", dir=args.out) as out:
            words = ["--corpus", str(corpus), "--out", out, "--files", str(args.files)]
            runs[name].append(in_child(pythons[name], "--child", name, *words))
            print(f"{name}: {runs[name][-1]['cpu']:.2f} s CPU", file=sys.stderr)
    return runs


def ratio(runs: Runs, name: str, base: str) -> list[float]:
    """CPU against the base's of the same round: lowest, median, highest."""
    pairs = zip(runs[name], runs[base], strict=True)
    ratios = sorted(a["cpu"] / b["cpu"] for a, b in pairs)
    return [ratios[0], statistics.median(ratios), ratios[-1]]


def middle_of(runs: list[Run], figure: str) -> float:
    """The median of a figure over a writer's runs."""
    return float(statistics.median(run[figure] for run in runs))


def place_of(out: str | None) -> str:
    """Where shards went, and what an fsync means there."""
    folder = out or tempfile.gettempdir()
    kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True).stdout.strip()
    cheap = ": memory, where an fsync costs next to nothing; --out a disk shows it in wall s"
    return f"written to {folder} ({kind}{cheap if kind in MEMORY else ''})"


def table(runs: Runs) -> Iterator[str]:
    """The report, line by line."""
    yield f"{'':26}{'CPU s':>8}{'wall s':>8}{'peak MB':>9}{'libraries':>11}  {'CPU / ShardWriter':20}same bytes"
    for name in WRITERS:
        if name not in runs:
            option = {PEER: "--img2dataset-python", CORE: "--core-python"}[name]
            yield f"{name:26}not run: give {option} (see the top of this file)"
            continue
        cpu, wall, peak, own = (middle_of(runs[name], what) for what in ("cpu", "wall", "peak", "libraries"))
        low, middle, high = ratio(runs, name, BASE)
        spread = f"{middle:.2f} ({low:.2f}-{high:.2f})"
        digests = [run["digest"] for run in runs[name]]
        same = "one run" if len(digests) < 2 else "no" if len(set(digests)) > 1 else "yes"
        yield f"{name:26}{cpu:8.2f}{wall:8.2f}{peak:9.0f}{own:11.0f}  {spread:20}{same}"
    for name, base, limit in GOALS:
        if base in runs:
            middle = ratio(runs, name, base)[1]
            verdict = "reached" if middle <= limit else "NOT REACHED"
            yield f"{name} / {base}: {middle:.2f}, goal {limit}: {verdict}"
    for name in (name for name in (OURS, CORE) if name in runs):
        peak, own = (middle_of(runs[name], what) * 1e6 / 2**20 for what in ("peak", "libraries"))
        verdict = "reached" if peak < PEAK_GOAL else "NOT REACHED"
        yield f"{name}, peak: {peak:.1f} MiB, {own:.1f} of it libraries, goal {PEAK_GOAL}: {verdict}"


def corpus_of(args: argparse.Namespace, scratch: str) -> Path:
    """The folder to copy: given, found again, or made (in a child: its memory is not ours)."""
    if args.source:
        return Path(args.source)
    corpus = Path(args.corpus or scratch)
    if len(listing(corpus, args.files)) < args.files:
        words = ["--corpus", str(corpus), "--files", str(args.files)]
        in_child(sys.executable, "--child", MAKE, *words)
    return corpus


def child(args: argparse.Namespace) -> Run:
    """What `in_child` asked for."""
    corpus = Path(args.corpus)
    if args.child == MAKE:
        make_corpus(corpus, args.files)
        return {}
    return measure(args.child, listing(corpus, args.files), Path(args.out))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--source")
    parser.add_argument("--corpus")
    parser.add_argument("--out", default="/dev/shm" if Path("/dev/shm").is_dir() else None)
    parser.add_argument("--img2dataset-python")
    parser.add_argument("--core-python")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args)))
        return
    with tempfile.TemporaryDirectory(prefix="bench_corpus_") as scratch:
        corpus = corpus_of(args, scratch)
        files = listing(corpus, args.files)
        size = sum(len(Path(file.path).read_bytes()) for file in files)  # warms the page cache
        print(f"{len(files)} files, {size / 1e6:.0f} MB, {args.rounds} rounds", flush=True)
        print(place_of(args.out), flush=True)
        print("\n".join(table(rounds(args, corpus))))


if __name__ == "__main__":
    main()
