"""F11: files that run code in readers of other kinds: pickles, tags, targets, pipes, shell words, script loaders."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from . import Outcome, Tell
from .reader_child import Child

TITLE = "code in data: pickles, YAML tags, targets, resolvers, pipes, shell words in names and URLs"
WANTED = "0 canaries fire; nothing but a refusal or plain text comes of it"
LIMIT = 20.0  # seconds

Case = tuple[str, str, Path]  # what it is, kind of reader, path to read


class _Fires:
    """Pickled, it runs a command where it is loaded."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, (self._command,)


def _npy(payload: bytes) -> bytes:
    head = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + payload


def _tar(folder: Path, name: str, members: dict[str, bytes]) -> Path:
    path = folder / name
    with tarfile.open(path, "w") as file:
        for member, data in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def _pickled(folder: Path, command: str) -> Iterator[Case]:
    payload = pickle.dumps(_Fires(command))
    for extension in ("pkl", "pickle", "pt", "pth", "pyd", "npy", "npz", "cls", "txt", "json", "jpg"):
        data = _npy(payload) if extension == "npy" else payload
        members = {"a.jpg": b"x", f"a.{extension}": data} if extension != "jpg" else {"a.jpg": data}
        yield f"pickle as .{extension}", "webdataset", _tar(folder, f"{extension}.tar", members)
    for name in ("a.pt", "b.npy"):
        (folder / name).write_bytes(payload if name == "a.pt" else _npy(payload))
        yield f"weights {name}", "weights", folder / name
    (folder / "c.jpg").write_bytes(payload)
    yield "pickle as an image", "image", folder / "c.jpg"
    field = pa.field(
        "path",
        pa.string(),
        metadata={"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": payload},
    )
    table = pa.Table.from_arrays([pa.array(["a.jpg"])], schema=pa.schema([field]))
    pq.write_table(table, folder / "type.parquet")
    yield "pickled type in Parquet", "table", folder / "type.parquet"
    with pa.OSFile(str(folder / "type.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    yield "pickled type in Arrow", "arrow", folder / "type.arrow"


def _yaml(folder: Path, command: str) -> Iterator[Case]:
    texts = [
        f"a: !!python/object/apply:os.system ['{command}']",
        f"a: !!python/object/apply:subprocess.check_output [['sh', '-c', '{command}']]",
        f"a: !!python/object/new:os.system ['{command}']",
        f"a: !<tag:yaml.org,2002:python/object/apply:os.system> ['{command}']",
        f"%TAG ! tag:yaml.org,2002:python/\n---\na: !object/apply:os.system ['{command}']",
        "a: !!python/name:os.system",
        "a: !!python/module:os",
        f"a: !!python/object/apply:eval [\"__import__('os').system('{command}')\"]",
        f"_target_: os.system\n_args_: ['{command}']",
        f"a:\n  _target_: os.system\n  command: '{command}'",
        f"a: ${{oc.eval:__import__('os').system('{command}')}}",
        f"a: $({command})",
        f"a: `{command}`",
    ]
    for number, text in enumerate(texts):
        path = folder / f"{number}.yaml"
        path.write_text(text)
        yield f"YAML {text[:40]!r}", "config", path


def _catalogs(folder: Path, command: str) -> Iterator[Case]:
    readers = (
        "os",
        "..config",
        "emoji; import os",
        f"__import__('os').system('{command}')",
        "entry",
        "hf_files",
    )
    for number, reader in enumerate(readers):
        path = folder / f"{number}.toml"
        path.write_text(f'title = "t"\ndescription = "d"\nreader = "{reader}"\nneeds_source = true\n')
        yield f"reader {reader[:20]}", "listing", path


def _words(folder: Path, command: str) -> Iterator[Case]:
    for number, word in enumerate(
        (f"pipe:{command}", f"pipe:{command}|cat", f"| {command}", f"$({command}).tar")
    ):
        yield f"source {word[:20]}", "webdataset", folder / word if number == 3 else Path(word)
    names = [
        f"pipe:{command}",
        f"$({command}).jpg",
        f"`{command}`.jpg",
        f"; {command} ;.jpg",
        f"http://x/$({command})",
    ]
    for number, name in enumerate(names):
        path = folder / f"{number}.csv"
        path.write_text(f'path\n"{name}"\n')
        yield f"path {name[:20]}", "table", path


MAKERS: tuple[Callable[[Path, str], Iterator[Case]], ...] = (_pickled, _yaml, _catalogs, _words)
CASES = 44
SUITE = CASES
PLAIN = ("ok", "refused")


def run(cases: int, seed: int, work: Path, tell: Tell) -> Outcome:
    flag, failures, done = work / "fired", list[str](), 0
    with Child(LIMIT) as child:
        for maker in MAKERS:
            folder = work / maker.__name__
            folder.mkdir()
            for what, kind, path in maker(folder, f"touch {flag}"):
                if done == cases:
                    break
                done += 1
                answer = child.ask(kind, path)
                tell(f"{what}: {answer['said']} {answer['reason']} {answer['detail'][:80]}")
                if flag.exists() or answer["said"] not in PLAIN:
                    failures.append(f"{what}: {'FIRED, ' if flag.exists() else ''}{answer}")
                    flag.unlink(missing_ok=True)
    return Outcome(
        cases=done, failures=failures, figures={"fired": str(sum("FIRED" in line for line in failures))}
    )
