"""F9: small files that ask for much: pixels, frames, chunks, scans, nesting, entities, aliases, rows, pages."""

from __future__ import annotations

import io
import itertools
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image as pil

from . import Outcome, Tell
from .reader_child import Child

TITLE = "bombs: images, drawings, tars, tables, settings, MATLAB and Parquet files"
WANTED = "each refused (or of no effect) within 5 s, memory growing by 256 MiB at most"
SECONDS, MEMORY = 5.0, 256  # MiB
SIGNATURE = b"\x89PNG\r\n\x1a\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">'


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, packed: bytes = b"", extra: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return SIGNATURE + header + extra + chunk(b"IDAT", packed or zeros(1)) + chunk(b"IEND", b"")


def zeros(mebibytes: int) -> bytes:
    """A zlib stream of so many MiB of zeros, a thousandth of that."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(mebibytes)) + packer.flush()


def gif(width: int, height: int, frames: int) -> bytes:
    frame = b"\x2c" + struct.pack("<HHHH", 0, 0, width, height) + b"\0\x02\x02\x4c\x01\0"
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0" + bytes(6) + frame * frames + b";"


def jpeg(**options: object) -> bytes:
    target = io.BytesIO()
    pil.new("RGB", (4000, 4000)).save(target, "JPEG", **options)
    return target.getvalue()


def scans() -> bytes:
    data = jpeg(progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * 20_000 + data[-2:]


def claimed(width: int, height: int) -> bytes:
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data[:5000])


def webp() -> bytes:
    target = io.BytesIO()
    pil.new("RGB", (9999, 9999)).save(target, "WEBP", lossless=True, method=0)
    return target.getvalue()


def laughs() -> bytes:
    names = "abcdefghij"
    lines = [f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in itertools.pairwise(names)]
    return f'<!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa">{"".join(lines)}]><svg><text>&j;</text></svg>'.encode()


def uses() -> bytes:
    groups = "".join(f"<g id='a{n + 1}'>" + f"<use href='#a{n}'/>" * 10 + "</g>" for n in range(9))
    return SVG + f'<rect id="a0" width="1" height="1"/>{groups}</svg>'.encode()


def masks() -> bytes:
    rules = "".join(f".c{n}{{mask:url(#m{n})}}" for n in range(10))
    inner = "".join(f"<mask id='m{n + 1}'>" + f"<rect class='c{n}'/>" * 10 + "</mask>" for n in range(9))
    return SVG + f'<style>{rules}</style>{inner}<rect class="c9"/></svg>'.encode()


def tar(name: str, body: bytes, **header: object) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as file:
        info = tarfile.TarInfo(name)
        info.size = len(body)
        for field, value in header.items():
            setattr(info, field, value)
        file.addfile(info, io.BytesIO(body))
    return target.getvalue()


def huge_tar() -> bytes:
    header = bytearray(tar("a.jpg", b"x")[:512])
    header[124:136] = b"\x80" + (1 << 62).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(10_240)


def nested_zip() -> bytes:
    data = bytes(1 << 24)
    for _ in range(3):
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
            for index in range(8):
                file.writestr(f"{index}.zip", data)
        data = target.getvalue()
    return data


def parquet(table: pa.Table, **options: object) -> bytes:
    target = io.BytesIO()
    pq.write_table(table, target, compression="zstd", **options)
    return target.getvalue()


def rows(count: int) -> pa.Table:
    return pa.table(
        {"path": pa.DictionaryArray.from_arrays(pa.array([0]).take(pa.array([0] * count)), ["a.jpg"])}
    )


def numbers(count: int) -> pa.Table:
    values = pa.array([0]).take(pa.array([0] * count))
    return pa.table(
        {"path": ["a.jpg"], "x": pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), values)}
    )


def blanks(mebibytes: int, count: int) -> pa.Table:
    return pa.table({"path": [bytes(mebibytes << 20)] * count})


def mat() -> bytes:
    packed = zeros(100)
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + struct.pack("<II", 15, len(packed)) + packed


def aliases() -> str:
    lines = ["a: &a [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    return "\n".join(lines)


NPY = (
    b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999,), }".ljust(127)
    + b"\n"
)
# name, kind of reader, file name, its bytes
BOMBS: list[tuple[str, str, str, Callable[[], bytes | str]]] = [
    ("PNG 50,000 x 50,000", "image", "a.png", lambda: png(50_000, 50_000)),
    ("PNG 9,999 x 9,999 of zeros", "image", "a.png", lambda: png(9999, 9999, zeros(286))),
    ("PNG chunks", "image", "a.png", lambda: png(8, 8, extra=chunk(b"tEXt", b"a\0b") * 1_000_000)),
    ("PNG empty IDATs", "image", "a.png", lambda: png(8, 8, extra=chunk(b"IDAT", b"") * 1_000_000)),
    ("PNG text", "image", "a.png", lambda: png(8, 8, extra=chunk(b"tEXt", b"a\0" + bytes(100_000_000)))),
    ("PNG zTXt", "image", "a.png", lambda: png(8, 8, extra=chunk(b"zTXt", b"a\0\0" + zeros(100)))),
    ("PNG iTXt", "image", "a.png", lambda: png(8, 8, extra=chunk(b"iTXt", b"a\0\1\0\0\0" + zeros(100)))),
    ("PNG iCCP", "image", "a.png", lambda: png(8, 8, extra=chunk(b"iCCP", b"a\0\0" + zeros(100)))),
    ("GIF 2,000,000 frames", "image", "a.gif", lambda: gif(4, 4, 2_000_000)),
    ("GIF large frames", "image", "a.gif", lambda: gif(9999, 9999, 3000)),
    ("JPEG size", "image", "a.jpg", lambda: claimed(9999, 9999)),
    ("JPEG scans", "image", "a.jpg", scans),
    ("JPEG comments", "image", "a.jpg", lambda: jpeg()[:2] + b"\xff\xfe\0\2" * 3_000_000 + jpeg()[2:]),
    ("JPEG padding", "image", "a.jpg", lambda: jpeg()[:2] + b"\xff" * 50_000_000 + jpeg()[2:]),
    ("WebP 9,999 x 9,999", "image", "a.webp", webp),
    ("SVG entities", "image", "a.svg", laughs),
    ("SVG depth", "image", "a.svg", lambda: SVG + b"<g>" * 200_000 + b"</g>" * 200_000 + b"</svg>"),
    ("SVG uses", "image", "a.svg", uses),
    ("SVG masks by style", "image", "a.svg", masks),
    (
        "SVG noise",
        "image",
        "a.svg",
        lambda: SVG + b'<filter><feTurbulence numOctaves="2000000000"/></filter></svg>',
    ),
    ("SVG layers", "image", "a.svg", lambda: SVG + b'<g opacity="0.9"><rect/></g>' * 90_000 + b"</svg>"),
    ("tar size", "webdataset", "a.tar", huge_tar),
    (
        "tar sparse",
        "webdataset",
        "a.tar",
        lambda: tar("a.jpg", b"x", pax_headers={"GNU.sparse.size": "9" * 15}),
    ),
    ("tar gzipped", "webdataset", "a.tar", lambda: b"\x1f\x8b\x08" + bytes(7) + zeros(100)),
    ("zip within zips", "webdataset", "a.tar", nested_zip),
    ("npy shape (never read)", "webdataset", "a.tar", lambda: tar("a.npy", NPY)),
    ("JSON depth in a tar", "webdataset", "a.tar", lambda: tar("a.json", b"[" * 500_000)),
    ("JSON depth", "table", "a.jsonl", lambda: b"[" * 3_000_000),
    ("JSON nesting", "table", "a.jsonl", lambda: b'{"path":"a.jpg","x":' + b"[" * 500 + b"]" * 500 + b"}\n"),
    ("JSON lists", "table", "a.jsonl", lambda: b"[" + b"[]," * 1_000_000 + b"[]]"),
    ("JSON line", "table", "a.jsonl", lambda: b'{"path":"' + b"a" * 300_000_000),
    ("CSV line", "table", "a.csv", lambda: b"path,x\n" + b"," * 100_000_000),
    ("CSV row of lines", "table", "a.csv", lambda: b'path,x\n"' + b'\n","' * 30_000_000),
    ("YAML aliases", "config", "a.yaml", aliases),
    ("YAML depth", "config", "a.yaml", lambda: "[" * 100_000),
    ("YAML size", "config", "a.yaml", lambda: "a: b\n" * 1_000_000),
    ("TOML depth", "catalog", "a.toml", lambda: "a = " + "[" * 100_000),
    ("TOML dots", "catalog", "a.toml", lambda: ".".join("a" * 100_000) + " = 1"),
    ("manifest depth", "manifest", "manifest.json", lambda: b"[" * 1_000_000),
    (
        "Parquet page",
        "table",
        "a.parquet",
        lambda: parquet(blanks(300, 1), use_dictionary=False),
    ),
    ("Parquet dictionary", "table", "a.parquet", lambda: parquet(blanks(100, 9))),
    ("Parquet rows", "table", "a.parquet", lambda: parquet(rows(5_000_000))),
    ("Parquet lists", "table", "a.parquet", lambda: parquet(numbers(20_000_000))),
    ("Parquet in a store", "metadata", "a.parquet", lambda: parquet(numbers(20_000_000))),
    ("MATLAB", "mat", "a.mat", mat),
]
NO_EFFECT = {"GIF 2,000,000 frames"}  # the first frame is a sound picture
CASES = len(BOMBS)
SLOW = (
    "Parquet",
    "MATLAB",
    "PNG zTXt",
    "PNG iTXt",
    "PNG iCCP",
    "PNG text",
    "PNG 9,999",
    "CSV",
    "JSON line",
    "WebP",
)
SLOW += ("JPEG", "zip", "tar gzipped", "SVG masks", "SVG layers")  # to make, not to refuse
SUITE = 20


def run(cases: int, seed: int, work: Path, tell: Tell) -> Outcome:
    known = BOMBS if cases > SUITE else [bomb for bomb in BOMBS if not bomb[0].startswith(SLOW)]
    chosen = [known[(seed + index) % len(known)] for index in range(min(cases, len(known)))]
    failures: list[str] = []
    slowest, most = 0.0, 0
    with Child(SECONDS + 5) as child:
        for number, (name, kind, file, make) in enumerate(chosen):
            folder = work / f"{number:03d}"
            folder.mkdir()
            made = make()
            (folder / file).write_bytes(made if isinstance(made, bytes) else made.encode())
            answer = child.ask(kind, folder if kind == "manifest" else folder / file)
            slowest, most = max(slowest, answer["seconds"]), max(most, answer["grown_mib"])
            refused = answer["said"] == "refused" or (answer["said"] == "ok" and name in NO_EFFECT)
            if not refused or answer["seconds"] > SECONDS or answer["grown_mib"] > MEMORY:
                failures.append(f"{name}: {answer}")
            figures = f"{answer['seconds']} s, +{answer['grown_mib']} MiB"
            tell(f"{name}: {answer['reason']}, {figures} {answer['detail'][-90:]}")
            (folder / file).unlink()
    return Outcome(
        cases=len(chosen),
        failures=failures,
        figures={"slowest": f"{slowest:.2f} s", "most memory": f"{most} MiB"},
    )
