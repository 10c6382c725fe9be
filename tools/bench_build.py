"""What it costs to make a folder of JPEGs small (shorter side 256, quality 90): datakit beside its peers, in one run.

    python tools/bench_build.py [--files 4000] [--times 4] [--large 60] [--rounds 3] [--source DIR]
                                [--source-large DIR] [--corpus DIR] [--out DIR] [--img2dataset-python PATH]

"codec" rows decode, resize and encode in one loop: `datakit.codec.resized` with each codec (first with what `auto`
takes, with all extras simplejpeg and torch's filter), Pillow's whole decode + bicubic, and img2dataset's own resizer
(keep_ratio, area). "build" rows are whole commands: a datakit build that publishes a checked store
(tools/bench_build_recipe.py), with one worker and with two, and img2dataset from file:// addresses, which adds a
parquet and JSON. Both quality 90; both start their worker processes on the clock.

Each run is a process of its own, in rounds A B C A B C, page cache warm, own imports off the clock. CPU is user +
system, children included; ratios are taken within a round, then their median. PSNR, mean / lowest, is of the first 60
files against Pillow's whole decode + Lanczos. Two workers against one is wall time: believe it on an idle machine only.

--times    how often a build is given each of the small files: enough for what a build costs whatever its size (ours
           starts in 4.5 s of CPU, half of it torch's; img2dataset in 4) to weigh little, as in a real one
--source, --source-large   folders of real JPEGs. Without them photographs of scikit-image and scikit-learn are cropped
           to 500x375 at the quality that gives about 110 kB, and laid into mosaics of 2000x1500 at quality 85 ...
--corpus   ... in this folder, and found there again; else in a temporary one
--out      where results go: default /dev/shm if there is one

    python -m venv X && X/bin/pip install img2dataset
    python tools/bench_build.py --img2dataset-python X/bin/python
"""

from __future__ import annotations

import argparse
import importlib
import io
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench_write import cpu_s, photographs

SIDE, QUALITY = 256, 90
SEEN = 60  # files whose PSNR is taken
MAKE = "corpus"
RECIPE = Path(__file__).with_name("bench_build_recipe.py")
OURS, OURS_SIMPLE, OURS_PILLOW, PILLOW, AREA = (
    "codec: datakit",
    "codec: datakit, simplejpeg",
    "codec: datakit, Pillow",
    "codec: Pillow",
    "codec: img2dataset",
)
BUILD, BUILD2, PEER = "build: datakit", "build: datakit, 2 workers", "build: img2dataset"
Run = dict[str, Any]  # cpu and wall in seconds; codec rows: psnr of each file in dB; bytes of a file
Runs = dict[tuple[str, str], list[Run]]  # by corpus and row, one a round
Work = Callable[[], list[bytes]]  # what is on the clock; the JPEGs, if it has them


def loop(make: Callable[[bytes], bytes], paths: list[Path]) -> Work:
    """Every file through `make`."""
    return lambda: [make(path.read_bytes()) for path in paths]


def datakit_codec(codec: Any) -> Callable[[list[Path], Path], Work]:
    def prepare(paths: list[Path], out: Path) -> Work:
        from datakit.codec import resized

        resized(paths[0].read_bytes(), short_side=SIDE, codec=codec)  # its imports
        return loop(lambda data: resized(data, short_side=SIDE, quality=QUALITY, codec=codec), paths)

    return prepare


def pillow_codec(paths: list[Path], out: Path) -> Work:
    from PIL import Image

    def make(data: bytes) -> bytes:
        target = io.BytesIO()
        small(Image.open(io.BytesIO(data)), Image.Resampling.BICUBIC).save(target, "JPEG", quality=QUALITY)
        return target.getvalue()

    make(paths[0].read_bytes())
    return loop(make, paths)


def img2dataset_codec(paths: list[Path], out: Path) -> Work:
    resizer = importlib.import_module("img2dataset.resizer").Resizer(
        SIDE, "keep_ratio", True, encode_quality=QUALITY
    )

    def make(data: bytes) -> bytes:
        encoded, *_, problem = resizer(io.BytesIO(data))
        if problem:
            raise SystemExit(f"img2dataset: {problem}")
        return bytes(encoded)

    make(paths[0].read_bytes())
    return loop(make, paths)


def datakit_build(workers: int) -> Callable[[list[Path], Path], Work]:
    def prepare(paths: list[Path], out: Path) -> Work:
        import datakit

        folder, per_shard = out / "in", -(-len(paths) // 8)
        link(paths, folder)
        words: dict[str, Any] = {"folder": str(folder), "files": len(paths), "per_shard": per_shard}

        def work() -> list[bytes]:
            run = {"workers": workers}
            made = datakit.build(str(RECIPE), out=out / "store", progress="quiet", run=run, **words)
            if made.splits != {"train": len(paths)}:
                raise SystemExit(f"datakit left files out: {made.splits}")
            return []

        return work

    return prepare


def img2dataset_build(paths: list[Path], out: Path) -> Work:
    download = importlib.import_module("img2dataset").download
    table, shards = out / "list.csv", out / "shards"
    table.write_text("url,caption\n" + "".join(f"{path.as_uri()},0\n" for path in paths))
    options: dict[str, Any] = {
        "url_list": str(table),
        "input_format": "csv",
        "caption_col": "caption",
        "output_folder": str(shards),
        "output_format": "webdataset",
        "resize_mode": "keep_ratio",
        "resize_only_if_bigger": True,
        "image_size": SIDE,
        "encode_quality": QUALITY,
        "number_sample_per_shard": 1000,
        "processes_count": 1,
        "thread_count": 16,
        "compute_hash": None,
        "extract_exif": False,
    }

    def work() -> list[bytes]:
        download(**options)
        done = sum(json.loads(path.read_text())["successes"] for path in shards.glob("*_stats.json"))
        if done != len(paths):
            raise SystemExit(f"img2dataset left files out: {done} of {len(paths)}")
        return []

    return work


ROWS: dict[str, Callable[[list[Path], Path], Work]] = {
    OURS: datakit_codec("auto"),
    OURS_SIMPLE: datakit_codec("simplejpeg"),
    OURS_PILLOW: datakit_codec("pillow"),
    PILLOW: pillow_codec,
    AREA: img2dataset_codec,
    BUILD: datakit_build(1),
    BUILD2: datakit_build(2),
    PEER: img2dataset_build,
}
GOALS = [  # corpus, row, against, figure, how many times better at least
    ("small", BUILD, PEER, "cpu", 1.6),
    ("small", OURS, AREA, "cpu", 1.0),
    ("large", OURS, PILLOW, "cpu", 3.5),
    ("small", BUILD2, BUILD, "wall", 1.7),
]
PSNR_GOALS = {"small": 32.5, "large": 30.0}  # dB, mean


def small(picture: Any, filter: int) -> Any:
    """Pillow's way: all of it decoded, then `filter`."""
    factor = SIDE / min(picture.size)
    size = (round(picture.width * factor), round(picture.height * factor))
    return picture.convert("RGB").resize(size, filter)


def psnr(made: bytes, path: Path) -> float:
    """dB of a JPEG against the whole decode + Lanczos."""
    import numpy as np
    from PIL import Image

    best = np.asarray(small(Image.open(path), Image.Resampling.LANCZOS), np.float64)
    found = np.asarray(Image.open(io.BytesIO(made)).convert("RGB"), np.float64)
    return float(10 * np.log10(255**2 / ((found - best) ** 2).mean()))


def link(paths: list[Path], folder: Path) -> None:
    """The files under one folder, in order."""
    folder.mkdir()
    for number, path in enumerate(paths):
        (folder / f"{number:06d}.jpg").symlink_to(path)


def listing(corpus: Path, count: int) -> list[Path]:
    """The first `count` JPEGs below a folder by path."""
    found = (path for path in corpus.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg"})
    return [path.resolve() for path in sorted(found)[:count]]


def make_corpus(folder: Path, files: int, large: int) -> None:
    """`small`: 500x375 of about 110 kB. `large`: 12 crops side by side, 2000x1500, quality 85."""
    import numpy as np

    rng, photos = np.random.default_rng(0), [photo for photo, _ in photographs()]

    def crop(photo: Any, width: int, height: int) -> Any:
        unit = min(photo.width / width, photo.height / height) * rng.uniform(0.7, 0.95)
        left, top = rng.uniform(0, photo.width - width * unit), rng.uniform(0, photo.height - height * unit)
        return photo.resize((width, height), box=(left, top, left + width * unit, top + height * unit))

    for number, photo in zip(range(files), itertools.cycle(photos), strict=False):
        encoded = (as_jpeg(crop(photo, 500, 375), quality) for quality in range(84, 100, 2))
        write(folder / "small" / f"{number:06d}.jpg", min(encoded, key=lambda data: abs(len(data) - 110_000)))
    for number in range(large):
        mosaic = photos[0].resize((2000, 1500))
        for place in range(12):
            tile = crop(photos[rng.integers(len(photos))], 500, 500)
            mosaic.paste(tile, (500 * (place % 4), 500 * (place // 4)))
        write(folder / "large" / f"{number:06d}.jpg", as_jpeg(mosaic, 85))


def as_jpeg(picture: Any, quality: int) -> bytes:
    target = io.BytesIO()
    picture.save(target, "JPEG", quality=quality)
    return target.getvalue()


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def measure(row: str, paths: list[Path], out: Path) -> Run:
    """One run, in this process; the JPEGs of a codec row are left in `out`."""
    work = ROWS[row](paths, out)
    cpu, wall = cpu_s(), time.perf_counter()
    made = work()
    cpu, wall = cpu_s() - cpu, time.perf_counter() - wall
    for number, data in enumerate(made[:SEEN]):
        (out / f"{number:06d}.made").write_bytes(data)
    return {"cpu": cpu, "wall": wall, "bytes": sum(map(len, made)) / max(len(made), 1)}


def in_child(python: str, *arguments: str) -> Run:
    """This file run by `python`; the JSON of its last line."""
    command = [python, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    result: Run = json.loads(done.stdout.splitlines()[-1])
    return result


def rounds(args: argparse.Namespace, corpora: dict[str, Path]) -> Runs:
    """Every row once a round over each corpus."""
    theirs = (AREA, PEER)
    rows = [row for row in ROWS if row not in theirs or args.img2dataset_python]
    runs: Runs = {}
    for _, (kind, corpus), row in itertools.product(range(args.rounds), corpora.items(), rows):
        count = args.files if kind == "small" else args.large
        with tempfile.TemporaryDirectory(prefix="bench_build_", dir=args.out) as out:
            words = ["--corpus", str(corpus), "--out", out, "--files", str(count)]
            python = args.img2dataset_python if row in theirs else sys.executable
            often = args.times if row.startswith("build") and kind == "small" else 1
            run = in_child(python, "--child", row, *words, "--times", str(often))
            made = sorted(Path(out).glob("*.made"))
            pairs = zip(made, listing(corpus, len(made)), strict=True)
            run["psnr"] = [psnr(path.read_bytes(), source) for path, source in pairs]
        run["count"] = often * len(listing(corpus, count))
        runs.setdefault((kind, row), []).append(run)
        print(f"{kind}, {row}: {run['cpu']:.2f} s CPU", file=sys.stderr)
    return runs


def middle_of(runs: list[Run], figure: str) -> float:
    return float(statistics.median(run[figure] for run in runs))


def times(runs: Runs, kind: str, row: str, base: str, figure: str) -> float:
    """How many times less of `figure` than the base, within a round; the median."""
    pairs = zip(runs[kind, row], runs[kind, base], strict=True)
    return float(statistics.median(b[figure] / a[figure] for a, b in pairs))


def table(runs: Runs) -> Iterator[str]:
    """The report, line by line."""
    yield f"{'':36}{'CPU ms':>8}{'wall ms':>9}{'n/CPU-s':>9}{'kB':>7}  PSNR mean / lowest"
    for (kind, row), of in runs.items():
        count = of[0]["count"]
        cpu, wall = (middle_of(of, figure) / count * 1e3 for figure in ("cpu", "wall"))
        quality = of[0]["psnr"]
        seen = f"{statistics.mean(quality):.1f} / {min(quality):.1f} dB" if quality else ""
        size = f"{of[0]['bytes'] / 1e3:7.1f}" if quality else " " * 7
        yield f"{kind + ', ' + row:36}{cpu:8.2f}{wall:9.2f}{1e3 / cpu:9.0f}{size}  {seen}"
    for kind, row, base, figure, goal in GOALS:
        if (kind, row) in runs and (kind, base) in runs:
            found = times(runs, kind, row, base, figure)
            verdict = "reached" if found >= goal else "NOT REACHED"
            yield f"{kind}, {row} / {base}, {figure}: {found:.2f} times, goal {goal}: {verdict}"
    for kind, least in PSNR_GOALS.items():
        for row in (row for row in (OURS, OURS_SIMPLE, OURS_PILLOW) if (kind, row) in runs):
            mean = statistics.mean(runs[kind, row][0]["psnr"])
            verdict = "reached" if mean >= least else "NOT REACHED"
            yield f"{kind}, {row}, PSNR: {mean:.1f} dB, goal {least}: {verdict}"


def corpora_of(args: argparse.Namespace, scratch: str) -> dict[str, Path]:
    """The folders: given, found again, or made (in a child)."""
    made = Path(args.corpus or scratch)
    wanted = {"small": args.files, "large": args.large}
    found = {"small": args.source, "large": args.source_large}
    short = [kind for kind, count in wanted.items() if len(listing(made / kind, count)) < count]
    if any(not found[kind] for kind in short):
        words = ["--corpus", str(made), "--files", str(args.files), "--large", str(args.large)]
        in_child(sys.executable, "--child", MAKE, *words)
    return {kind: Path(found[kind] or made / kind) for kind in wanted if wanted[kind]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=4000)
    parser.add_argument("--times", type=int, default=4)
    parser.add_argument("--large", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    for option in ("--source", "--source-large", "--corpus", "--img2dataset-python"):
        parser.add_argument(option)
    parser.add_argument("--out", default="/dev/shm" if Path("/dev/shm").is_dir() else None)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child == MAKE:
        make_corpus(Path(args.corpus), args.files, args.large)
        print("{}")
    elif args.child:
        paths = args.times * listing(Path(args.corpus), args.files)
        print(json.dumps(measure(args.child, paths, Path(args.out))))
    else:
        with tempfile.TemporaryDirectory(prefix="bench_corpus_") as scratch:
            corpora = corpora_of(args, scratch)
            for kind, corpus in corpora.items():
                paths = listing(corpus, args.files if kind == "small" else args.large)
                size = sum(len(path.read_bytes()) for path in paths)  # warms the page cache
                print(f"{kind}: {len(paths)} files, {size / len(paths) / 1e3:.0f} kB each", flush=True)
            print("\n".join(table(rounds(args, corpora))))


if __name__ == "__main__":
    main()
