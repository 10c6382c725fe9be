"""SeiT's own file set: token.data.bin.gz, index.npy.gz, label.txt, codebook.ckpt (naver-ai/seit, read in its code).

A token below 255 is one byte, any other the byte 255 and the token less 255, so there are at most 510 codes; all images
follow one another, gzipped as one file, and the index has where each begins, and the end.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datakit.errors import ConfigError, StoreError, need

Tokens = NDArray[np.uint16]

ESCAPE = 255
MAX_CODES = 2 * ESCAPE  # 255 + 254 is the largest: a second byte of 255 is not used
LEVEL = 6  # of gzip
CHUNK = 1 << 24  # bytes inflated at once


@dataclass(frozen=True, kw_only=True)
class Seit:
    """A split of SeiT's files: tokens uint16 (N, h, w), keys, labels (N,), codes, the codebook where there is one."""

    tokens_NHW: Tokens
    keys: Sequence[str]
    labels: NDArray[np.int64] | None
    codes: int
    codebook_KD: NDArray[np.float32] | None


def names(split: str) -> dict[str, str]:
    """data, index, label and codebook as SeiT calls them. Raises ConfigError for a split but train and val."""
    if split not in ("train", "val"):
        raise ConfigError(f"split={split}: SeiT's files are of train and val")
    stem = f"imagenet1k-{split}-"
    return {"data": f"{stem}token.data.bin.gz", "index": f"{stem}index.npy.gz", "label": f"{stem}label.txt",
            "codebook": "codebook.ckpt"}  # fmt: skip


def seit_bytes(tokens_NT: Tokens) -> tuple[bytes, NDArray[np.int64]]:
    """(all tokens by byte and escape, where each row begins, and the end), before gzip. Raises ConfigError."""
    if tokens_NT.size and int(tokens_NT.max()) >= MAX_CODES - 1:
        raise ConfigError(f"the code {int(tokens_NT.max())}: SeiT's files hold codes up to {MAX_CODES - 2}")
    large = tokens_NT >= ESCAPE
    sizes = tokens_NT.shape[1] + large.sum(axis=1)
    out = np.empty(int(sizes.sum()), np.uint8)
    flat, escaped = tokens_NT.reshape(-1), large.reshape(-1)
    place = np.arange(len(flat)) + np.cumsum(escaped) - escaped
    out[place] = np.minimum(flat, ESCAPE)
    out[place[escaped] + 1] = flat[escaped] - ESCAPE
    return out.tobytes(), np.append(0, np.cumsum(sizes)).astype(np.int64)


def write_seit(
    tokens_NHW: Tokens,
    *,
    labels: NDArray[np.int64] | None,
    codebook_KD: NDArray[np.float32] | None = None,
    synonyms_KS: NDArray[np.uint16] | None = None,
    split: str = "train",
) -> dict[str, bytes]:
    """The files by name, tokens and codebook of the same ids. Raises ConfigError for more than 509 codes.

    codebook.ckpt is a torch file of a float32 tensor (K, d), which needs torch.
    """
    import json

    called = names(split)
    data, index = seit_bytes(tokens_NHW.reshape(len(tokens_NHW), -1))
    sink = io.BytesIO()
    np.save(sink, index, allow_pickle=False)
    files = {
        called["data"]: gzip.compress(data, LEVEL, mtime=0),
        called["index"]: gzip.compress(sink.getvalue(), LEVEL, mtime=0),
    }
    if labels is not None:
        files[called["label"]] = "".join(f"{int(label)}\n" for label in labels).encode()
    if codebook_KD is not None:
        files[called["codebook"]] = _saved(codebook_KD)
    if synonyms_KS is not None:
        listed = {str(code): row.tolist() for code, row in enumerate(synonyms_KS)}
        files["synonyms.json"] = json.dumps(listed).encode()
    return files


def read_seit(folder: Path, *, split: str = "train") -> Seit:
    """A split of the files in a folder. Raises StoreError naming the file that is missing or wrong.

    Grids are square, as SeiT's are; a codebook that is not there is None, labels likewise.
    """
    called = names(split)
    data = np.frombuffer(_inflated(folder / called["data"]), np.uint8)
    index = _index(folder / called["index"], len(data))
    tokens = _unescaped(data, index, folder / called["data"])
    side = round(tokens.shape[1] ** 0.5)
    if side * side != tokens.shape[1]:
        raise StoreError(f"{folder / called['data']}: images of {tokens.shape[1]} tokens, which is no square")
    codebook = _loaded(folder / called["codebook"])
    most = int(tokens.max()) if tokens.size else 0
    if codebook is not None and most >= len(codebook):
        raise StoreError(
            f"{folder / called['data']} has the code {most}, and the codebook has {len(codebook)}"
        )
    return Seit(
        tokens_NHW=tokens.reshape(-1, side, side),
        keys=[f"{split}-{number:08d}" for number in range(len(tokens))],
        labels=_labels(folder / called["label"], len(tokens)),
        codes=len(codebook) if codebook is not None else most + 1,
        codebook_KD=codebook,
    )


def _inflated(path: Path) -> bytes:
    try:
        with gzip.open(path, "rb") as file:
            parts = list(iter(lambda: file.read(CHUNK), b""))
    except FileNotFoundError as problem:
        raise StoreError(f"{path} is not there, which is one of SeiT's files") from problem
    except (OSError, EOFError, zlib.error) as problem:
        raise StoreError(f"{path} is damaged: {problem}") from problem
    return b"".join(parts)


def _index(path: Path, size: int) -> NDArray[np.int64]:
    try:
        index = np.load(io.BytesIO(_inflated(path)), allow_pickle=False).astype(np.int64)
    except ValueError as problem:
        raise StoreError(f"{path} is no array of offsets: {problem}") from problem
    if index.ndim != 1 or len(index) < 2 or index[0] or (np.diff(index) <= 0).any() or index[-1] != size:
        raise StoreError(f"{path}: offsets must rise from 0 to the {size} bytes of the data")
    return np.asarray(index, np.int64)


def _unescaped(data: NDArray[np.uint8], index: NDArray[np.int64], path: Path) -> Tokens:
    """uint16 (N, T). The byte after an escape is a part of its token, whatever it is."""
    escape = np.flatnonzero(data == ESCAPE)
    # Of bytes of 255 in a run the first, third … are escapes: the second byte of a token is never 255 as we write it,
    # but files of others may have it.
    runs = np.cumsum(np.append(True, np.diff(escape) > 1)) if len(escape) else np.empty(0, np.int64)
    first = np.append(True, np.diff(runs) > 0) if len(escape) else np.empty(0, bool)
    begins = np.flatnonzero(first)
    within = np.arange(len(escape)) - np.repeat(begins, np.diff(np.append(begins, len(escape))))
    escape = escape[within % 2 == 0]
    if len(escape) and escape[-1] + 1 >= len(data):
        raise StoreError(f"{path} ends in the middle of a token")
    begin = np.ones(len(data), bool)
    begin[escape + 1] = False
    if not begin[index[:-1]].all():
        raise StoreError(f"{path}: the index points into the middle of a token")
    values = data.astype(np.uint16)
    values[escape] += data[escape + 1]
    ends = np.cumsum(begin)
    counts = np.diff(np.append(0, ends[index[1:] - 1]))
    if (counts != counts[0]).any():
        number = int(np.flatnonzero(counts != counts[0])[0])
        raise StoreError(f"{path}: image {number} has {int(counts[number])} tokens, others {int(counts[0])}")
    return values[begin].reshape(len(counts), -1)


def _labels(path: Path, count: int) -> NDArray[np.int64] | None:
    if not path.exists():
        return None
    try:
        found = np.array([int(line) for line in path.read_text().split()], np.int64)
    except (OSError, ValueError) as problem:
        raise StoreError(f"{path} is no list of whole numbers: {problem}") from problem
    if len(found) != count:
        raise StoreError(f"{path} has {len(found)} labels for {count} images")
    return found


def _saved(codebook_KD: NDArray[np.float32]) -> bytes:
    """A torch file of one tensor."""
    need("writing codebook.ckpt", "torch", ["torch"])
    import torch

    sink = io.BytesIO()
    torch.save(torch.from_numpy(np.array(codebook_KD, np.float32)), sink)
    return sink.getvalue()


def _loaded(path: Path) -> NDArray[np.float32] | None:
    """The one tensor of a torch file, by torch's loader of tensors alone: nothing else in it is unpickled."""
    if not path.exists():
        return None
    need("reading codebook.ckpt", "torch", ["torch"])
    import torch

    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:  # zip, pickle and torch raise what they like over broken bytes
        raise StoreError(f"{path} is no file of a tensor: {problem}") from problem
    if not isinstance(found, torch.Tensor) or found.ndim != 2 or not len(found):
        raise StoreError(f"{path} holds no codebook (K, d)")
    return np.asarray(found.float().numpy(), np.float32)
