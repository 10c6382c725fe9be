"""A process that reads foreign files, told one a line: `{"kind": …, "path": …}`; answers one line of JSON each.

{"said": "ok"|"refused", "reason": …, "detail": …, "seconds": …, "grown_mib": …}, or "said": "escaped" for an
exception that is none of datakit's own. Peak memory is the kernel's, above what the process had before.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datakit.config import expand
from datakit.errors import DatakitError, SampleError

ADDRESS_SPACE = 6 << 30  # bytes: a bomb that escapes ends the child, not the machine


def _image(path: Path) -> str:
    from datakit.image import Image

    image = Image(path.read_bytes())
    header, pixels = image.header, image.array
    assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == "uint8"
    if header.format != "SVG":
        upright = (header.height, header.width) if header.orientation < 5 else (header.width, header.height)
        assert pixels.shape[:2] == upright, (pixels.shape, header)
    return header.format


def _scan(reader: str, path: Path) -> str:
    """Reads a source to its end; the reason of its problems, if there is any."""
    import importlib

    from datakit.sources.entry import Problem

    reasons: list[str] = []
    count = 0
    for item in importlib.import_module(f"datakit.sources.{reader}").scan(path):
        count += 1
        if isinstance(item, Problem):
            reasons.append(item.reason)
    if reasons:
        raise SampleError(reasons[0], f"{len(reasons)} of {count}")
    return f"{count} entries"


def _catalog(path: Path) -> str:
    from datakit import catalog

    return catalog.load(str(path)).name


def _manifest(path: Path) -> str:
    from datakit.store.contents import read_contents

    return read_contents(path).name


def _arrow(path: Path) -> str:
    from datakit.store.arrow_guard import sound_batches

    return str(sum(len(batch.to_pylist()) for batch in sound_batches(path)))


def _metadata(path: Path) -> str:
    from datakit.store.metadata import read_metadata

    return str(len(read_metadata(path).to_pylist()))


def _mat(path: Path) -> str:
    from datakit.sources.lists import read_mat

    return ", ".join(read_mat(path))


def _listed(path: Path) -> str:
    """A catalog scanned as a build does it."""
    from datakit.recipe import CatalogUse
    from datakit.sources.scan import scan

    return str(scan(CatalogUse(name=str(path), source=str(path.parent)), path.parent / "listing").samples)


def _weights(path: Path) -> str:
    from datakit.models.tensors import read_tensors

    return ", ".join(read_tensors(path))


def _index(path: Path) -> str:
    """An index opened and asked: a digest of its answers."""
    import numpy as np
    import xxhash

    from datakit.index.opened import open_index

    index = open_index(path)
    queries = np.random.default_rng(9).standard_normal((20, index.dim)).astype(np.float32)
    hits = [index.search(queries, k=5), index.search(queries, k=5, where="draw < 0.3")]
    keys = [index.keys.take(found.rows[found.rows >= 0]).to_pylist() for found in hits]
    return xxhash.xxh3_128_hexdigest(repr(keys).encode())


READERS: dict[str, Callable[[Path], str]] = {
    "image": _image,
    "config": lambda path: " ".join(expand([f"@{path}"])),
    "catalog": _catalog,
    "manifest": _manifest,
    "arrow": _arrow,
    "metadata": _metadata,
    "mat": _mat,
    "listing": _listed,
    "weights": _weights,
    "index": _index,
    **{
        name: (lambda path, name=name: _scan(name, path))
        for name in ("webdataset", "table", "imagefolder", "hf")
    },
}


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) >> 10


def answer(kind: str, path: Path) -> dict[str, Any]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, started = _status("VmRSS"), time.monotonic()
    said: dict[str, Any] = {"said": "ok", "reason": "", "detail": ""}
    try:
        said["detail"] = READERS[kind](path)[:200]
    except SampleError as problem:
        said |= {"said": "refused", "reason": problem.reason, "detail": str(problem)[:300]}
    except DatakitError as problem:
        said |= {"said": "refused", "reason": type(problem).__name__, "detail": str(problem)[:300]}
    except Exception as problem:  # this is what the campaign looks for
        said |= {"said": "escaped", "reason": type(problem).__name__, "detail": str(problem)[:300]}
    seconds = round(time.monotonic() - started, 3)
    return said | {"seconds": seconds, "grown_mib": _status("VmHWM") - before, "peak_mib": _status("VmHWM")}


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What is imported once is no growth of a bomb.
    import numpy  # noqa: F401
    import PIL.BmpImagePlugin
    import PIL.GifImagePlugin
    import PIL.JpegImagePlugin
    import PIL.PngImagePlugin
    import PIL.WebPImagePlugin  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import yaml  # noqa: F401

    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(answer(asked["kind"], Path(asked["path"]))), flush=True)


if __name__ == "__main__":
    main()
