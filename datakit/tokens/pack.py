"""Token grids as the files of a token folder: unused codes dropped, ids ranked by how often they come, in blocks.

tokens.json           what it is, and bytes and sha256 of every other file
blocks.bin            blocks (`codec.py`), one after the other; blocks.arrow: offset, bytes, rows of each
rows.arrow            key, label, view, where the view lies in its image, block and row in it
codebook.safetensors  codebook float16 (K, d) in the order of packed ids; rank uint16 (K,): packed id → own code
synonyms.npy          uint16 (K, 5): the nearest codes of each, by cosine
stats.json            entropies and sizes; model.bin: what the codec learned over all, if anything
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datakit.errors import ConfigError, MissingExtra
from datakit.tokens.codec import codec_of, encode_block, fit_model
from datakit.tokens.stats import CHUNK, counts_of, token_stats

Tokens = NDArray[np.uint16]

ABOUT, BLOCKS, INDEX, ROWS, CODEBOOK = (
    "tokens.json",
    "blocks.bin",
    "blocks.arrow",
    "rows.arrow",
    "codebook.safetensors",
)
MODEL, SYNONYMS, STATS = "model.bin", "synonyms.npy", "stats.json"
OWN = (ABOUT, BLOCKS, INDEX, ROWS, CODEBOOK, MODEL, SYNONYMS, STATS)
FORMAT, VERSION = "datakit tokens", 1
CROP = ("crop_y", "crop_x", "crop_h", "crop_w")  # shares of the image
NEAREST = 5  # synonyms of a code, as SeiT keeps


def pack(
    tokens_NHW: Tokens,
    keys: Sequence[str],
    *,
    codes: int,
    codec: str = "pco",
    per_block: int = 256,
    views: NDArray[np.uint8] | None = None,
    crops: NDArray[np.float32] | None = None,
    flips: NDArray[np.bool_] | None = None,
    labels: NDArray[np.int64] | None = None,
    codebook_KD: NDArray[np.float32] | None = None,
    keep_unused: bool = False,
    rank: NDArray[np.uint16] | None = None,
    class_names: Sequence[str] = (),
    extra: Mapping[str, bytes] | None = None,
    about: Mapping[str, Any] | None = None,
) -> dict[str, bytes]:
    """The files by name, of uint16 (N, h, w) with a key each; several views of an image have its key in turn.

    views (N,): numbers from 0. crops (N, 4): top, left, height, width as shares of the image; flips (N,): mirrored.
    labels (N,), -1 without. codebook_KD: of the tokenizer's own codes. rank: the tokens are packed ids already, and
    codebook_KD is in their order. extra: further files, as the tokenizer's. about: what else is worth knowing, plain.
    Raises ConfigError for shapes that do not fit and names that are taken.
    """
    count = len(tokens_NHW)
    named = {"keys": keys, "views": views, "crops": crops, "flips": flips, "labels": labels}
    for name, column in named.items():
        if column is not None and len(column) != count:
            raise ConfigError(f"{len(column)} {name} for {count} token grids: give one each")
    if not count:
        raise ConfigError("no tokens: there is nothing to pack")
    if taken := sorted(set(extra or {}) & set(OWN)):
        raise ConfigError(f"{taken[0]} is a token folder's own; give the file another name")
    if codebook_KD is not None and (codebook_KD.ndim != 2 or len(codebook_KD) != codes):
        raise ConfigError(f"a codebook {codebook_KD.shape} for {codes} codes: one vector each")
    if per_block < 1:
        raise ConfigError(f"per_block={per_block}: at least 1")
    made = codes if rank is None else int((about or {}).get("made_codes", codes))
    if rank is None:
        tokens_NHW, rank = ranked(tokens_NHW, codes, keep_unused=keep_unused)
        codebook_KD = None if codebook_KD is None else codebook_KD[rank]
    kept = len(rank)
    model = fit_model(tokens_NHW, codec=codec, codes=kept)
    blocks = [
        encode_block(tokens_NHW[at : at + per_block], codec=codec, codes=kept, model=model)
        for at in range(0, count, per_block)
    ]
    files = {
        BLOCKS: b"".join(blocks),
        INDEX: _index(blocks, count, per_block),
        ROWS: _rows(keys, views, crops, flips, labels, per_block),
        STATS: _json(token_stats(tokens_NHW, kept)),
        CODEBOOK: _codebook(codebook_KD, rank),
        **({MODEL: model} if model else {}),
        **({} if codebook_KD is None else {SYNONYMS: _npy(synonyms_of(codebook_KD))}),
        **(extra or {}),
    }
    told = {**(about or {}), "made_codes": made}
    files[ABOUT] = sealed(
        {
            "format": FORMAT,
            "version": VERSION,
            "codec": codec,
            "codes": kept,
            "count": count,
            "per_block": per_block,
            "grid": list(tokens_NHW.shape[1:]),
            "class_names": list(class_names),
            "about": told,
            "files": {name: _described(data) for name, data in sorted(files.items())},
        }
    )
    return files


def ranked(tokens_NHW: Tokens, codes: int, *, keep_unused: bool) -> tuple[Tokens, NDArray[np.uint16]]:
    """(packed ids, the own code of each): the most frequent first, equals by code; codes that no grid has left out."""
    codec_of("bits")
    if not 1 <= codes <= 65_536 or int(tokens_NHW.max()) >= codes:
        raise ConfigError(f"the code {int(tokens_NHW.max())} is among the tokens, and there are {codes}")
    counts = counts_of(tokens_NHW, codes)
    order = np.argsort(-counts, kind="stable")
    rank = order if keep_unused else order[: int((counts > 0).sum())]
    place = np.zeros(codes, np.uint16)
    place[rank] = np.arange(len(rank))
    found = np.empty_like(tokens_NHW)
    for at in range(0, len(found), CHUNK):
        found[at : at + CHUNK] = place[tokens_NHW[at : at + CHUNK]]
    return found, rank.astype(np.uint16)


def synonyms_of(codebook_KD: NDArray[np.float32], nearest: int = NEAREST) -> NDArray[np.uint16]:
    """uint16 (K, nearest): the codes of highest cosine to each, itself left out; filled up with itself where there are
    fewer. Cosines are rounded to 1e-6, and equals go by number, so that machines agree.
    """
    length = np.linalg.norm(codebook_KD.astype(np.float64), axis=1, keepdims=True)
    unit = codebook_KD / np.where(length > 0, length, 1)
    count = len(unit)
    found = np.repeat(np.arange(count)[:, None], nearest, axis=1)
    for at in range(0, count, 1024):
        cosine = np.round(unit[at : at + 1024] @ unit.T, 6)
        own = np.arange(len(cosine))
        cosine[own, own + at] = -np.inf
        order = np.argsort(-cosine, axis=1, kind="stable")[:, : min(nearest, count - 1)]
        found[at : at + 1024, : order.shape[1]] = order
    return found.astype(np.uint16)


def _rows(
    keys: Sequence[str],
    views: NDArray[np.uint8] | None,
    crops: NDArray[np.float32] | None,
    flips: NDArray[np.bool_] | None,
    labels: NDArray[np.int64] | None,
    per_block: int,
) -> bytes:
    numbers = np.arange(len(keys))
    columns: dict[str, Any] = {"key": pa.array(keys, pa.string())}
    if labels is not None:
        columns["label"] = pa.array(labels, pa.int64())
    columns["view"] = pa.array(np.zeros(len(keys), np.uint8) if views is None else views, pa.uint8())
    if crops is not None:
        columns |= {name: pa.array(crops[:, at].astype(np.float32)) for at, name in enumerate(CROP)}
    if flips is not None:
        columns["flip"] = pa.array(flips.astype(bool))
    columns["block"] = pa.array((numbers // per_block).astype(np.uint32))
    columns["row"] = pa.array((numbers % per_block).astype(np.uint16 if per_block <= 65_536 else np.uint32))
    return _arrow(pa.table(columns))


def _index(blocks: Sequence[bytes], count: int, per_block: int) -> bytes:
    sizes = np.array([len(block) for block in blocks], np.int64)
    rows = [min(per_block, count - at) for at in range(0, count, per_block)]
    return _arrow(
        pa.table({"offset": np.cumsum(sizes) - sizes, "bytes": sizes, "rows": pa.array(rows, pa.int64())})
    )


def _codebook(codebook_KD: NDArray[np.float32] | None, rank: NDArray[np.uint16]) -> bytes:
    try:
        import safetensors.numpy
    except ImportError as problem:
        raise MissingExtra("packed tokens", "tokens") from problem
    tensors = {"rank": np.ascontiguousarray(rank)}
    if codebook_KD is not None:
        tensors["codebook"] = np.ascontiguousarray(codebook_KD.astype(np.float16))
    data: bytes = safetensors.numpy.save(tensors)
    return data


def _arrow(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _npy(array: NDArray[Any]) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array, allow_pickle=False)
    return sink.getvalue()


def sealed(value: Mapping[str, Any]) -> bytes:
    """tokens.json: the description with the sha256 of itself without it, in the one form that it is read in."""
    return _json({**value, "sha256": hashlib.sha256(_json(value)).hexdigest()})


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def _described(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
