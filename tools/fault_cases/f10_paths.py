"""F10: names that lead elsewhere, in tars, tables and folders: climbing, absolute, links, devices, NUL, look-alikes."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from datakit.blob import Blob
from datakit.errors import CatalogError, StoreError
from datakit.sources import imagefolder, table, webdataset
from datakit.sources.entry import Entry, Problem
from datakit.sources.scan import KEY, key_of
from datakit.store.tar import TarWriter

from . import Outcome, Tell

TITLE = "60 names that lead elsewhere, in tars, tables and folders, to the keys of shards"
WANTED = "0 files outside; each name refused with a reason, or kept under a key of the grammar that is not its path"

NAMES = (
    "../a.jpg",
    "../../../../etc/cron.d/a.jpg",
    "x/../../a.jpg",
    "x/..",
    "..",
    "/etc/a.jpg",
    "//server/share/a.jpg",
    "/",
    "./../a.jpg",
    "x/./../../a.jpg",
    "a\0b.jpg",
    "\0",
    "n" * 300 + ".jpg",
    "/".join("d" * 50 for _ in range(8)) + "/a.jpg",
    "..\\a.jpg",
    "C:\\Windows\\a.jpg",
    "c:a.jpg",
    "\\\\server\\share\\a.jpg",
    "．．/a.jpg",
    "‥/a.jpg",
    "a／b.jpg",
    "а.jpg",  # a Cyrillic letter
    "a\u202egpj.exe.jpg",
    "a\u200b.jpg",
    "CON.jpg",
    "nul.jpg",
    "com1.jpg",
    "aux",
    "a:stream.jpg",
    "~/a.jpg",
    "$HOME/a.jpg",
    "-rf.jpg",
    "a\nb.jpg",
    "a\x1b[31m.jpg",
    " .jpg",
    "a.jpg ",
    "file:///etc/passwd",
)
CLIMBING = 12  # of NAMES, the first: refused as what they are, not kept by another name
REFUSALS = ("path_outside", "bad_name", "not_a_file", "refused")
LINKS = (
    (tarfile.SYMTYPE, "/etc/passwd"),
    (tarfile.SYMTYPE, "../outside/secret.jpg"),
    (tarfile.LNKTYPE, "/etc/passwd"),
    (tarfile.LNKTYPE, "../outside/secret.jpg"),
    (tarfile.CHRTYPE, ""),
    (tarfile.BLKTYPE, ""),
    (tarfile.FIFOTYPE, ""),
)
Case = tuple[str, Path, Iterable[Entry | Problem]]


def _tar(path: Path, name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as file:
        info = tarfile.TarInfo("a.jpg")
        info.pax_headers = {"path": name}
        info.type, info.linkname, info.size = kind, target, 1 if kind == tarfile.REGTYPE else 0
        file.addfile(info, io.BytesIO(b"x") if info.size else None)
    return path


def _cases(inside: Path) -> Iterator[Case]:
    for number, (kind, target) in enumerate(LINKS):
        yield (
            f"tar link {target!r}",
            inside,
            webdataset.scan(_tar(inside / f"l{number}.tar", "a.jpg", kind, target)),
        )
    for number, target in enumerate(("/etc/passwd", "../outside/secret.jpg", "/dev/zero", "../outside")):
        folder = inside / f"folder{number}"
        (folder / "class").mkdir(parents=True)
        (folder / "class" / "a.jpg").symlink_to(target if target[0] == "/" else inside / target)
        yield f"folder link {target}", folder, imagefolder.scan(folder)
    os.mkfifo(inside / "folder0" / "class" / "pipe.jpg")
    for number, name in enumerate(NAMES):
        yield f"table {name[:40]!r}", inside, table.scan(_listed(inside / f"t{number}.jsonl", name))
        yield f"tar {name[:40]!r}", inside, webdataset.scan(_tar(inside / f"n{number}.tar", name))


def _listed(path: Path, name: str) -> Path:
    import json

    path.write_text(json.dumps({"path": name}) + "\n")
    return path


CASES = len(LINKS) + 4 + 2 * len(NAMES)
SUITE = CASES


def _outcome(root: Path, found: Iterable[Entry | Problem], shard: Path) -> str:
    """What became of a name; starts with "!" where it must not."""
    said = []
    try:
        for item in found:
            if isinstance(item, Problem):
                said.append(item.reason)
                continue
            key = key_of(item.name)
            if not KEY.fullmatch(key) or key == item.name:
                return f"!kept as {key!r}"
            if not isinstance(item.data, Blob) or not os.path.realpath(item.data.path).startswith(f"{root}/"):
                return f"!read from {item.data!r}"
            with TarWriter(shard) as writer:
                writer.add(key, {"jpg": item.data})
            said.append(f"kept as {key}")
    except (CatalogError, StoreError) as problem:
        return f"refused: {problem}"
    return ", ".join(said) or "!no word of it"


def run(cases: int, seed: int, work: Path, tell: Tell) -> Outcome:
    inside, outside = work.resolve() / "inside", work.resolve() / "outside"
    for folder in (inside, outside, work / "shards"):
        folder.mkdir()
    (outside / "secret.jpg").write_bytes(b"secret")
    failures: list[str] = []
    count = 0
    for what, root, found in _cases(inside):
        if count == cases:
            break
        count += 1
        said = _outcome(root, found, work / "shards" / "made.tar")
        tell(f"{what}: {said[:120]}")
        if count <= len(LINKS) + 4 + 2 * CLIMBING and not said.startswith(REFUSALS):
            said = f"!{said}"
        if said.startswith("!"):
            failures.append(f"{what}: {said}")
    strange = sorted(path.name for folder in (outside, work / "shards", work) for path in folder.iterdir())
    if strange != ["inside", "made.tar", "outside", "secret.jpg", "shards"]:
        failures.append(f"written elsewhere: {strange}")
    return Outcome(cases=count, failures=failures, figures={"reported": str(count - len(failures))})
