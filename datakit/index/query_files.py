"""What a query brings with it in files: pictures, boxes in a picture, vectors; bounded, and nothing in them is run."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datakit.errors import ConfigError, SampleError
from datakit.image import Image
from datakit.index.arrays import Floats
from datakit.index.folder import UNREADABLE

MAX_IMAGE = 64 << 20  # bytes of a picture to ask with
MAX_VECTORS = 64 << 20  # bytes of a file of vectors


def picture(path: str) -> bytes:
    """The bytes of a file, bounded. Raises ConfigError naming it."""
    return _bounded(path, MAX_IMAGE)


def cut_out(path: str, boxes: Sequence[str]) -> tuple[bytes, ...]:
    """The parts of a picture, as PNG. boxes: JSON lists x0, y0, x1, y1 in px, of the upright picture; x1 and y1 are
    the first px outside. Raises ConfigError naming the picture or the box.
    """
    try:
        pixels = Image(picture(path)).array
    except SampleError as problem:
        raise ConfigError(f"image={path} does not decode: {problem}") from problem
    height, width = pixels.shape[:2]
    parts = []
    for box in boxes:
        x0, y0, x1, y1 = _box(box)
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise ConfigError(f"crops: {box} is no part of {path}, which is {width} x {height} px")
        parts.append(Image.from_array(np.ascontiguousarray(pixels[y0:y1, x0:x1])).encoded)
    return tuple(parts)


def vectors(path: str) -> tuple[Floats, ...]:
    """Each vector, float32 (dim,), of a .npy (N, dim) or (dim,), or of a JSON list. Raises ConfigError naming it."""
    if not path:
        return ()
    data = _bounded(path, MAX_VECTORS)
    try:
        given = _array(data) if path.lower().endswith(".npy") else np.asarray(json.loads(data))
        if given.dtype.kind not in "fiu":
            raise ValueError(f"it is of {given.dtype}, not of numbers")
        with np.errstate(over="ignore"):
            found = np.atleast_2d(given.astype(np.float32))
    except (*UNREADABLE, ArithmeticError, RecursionError) as problem:
        raise ConfigError(f"vector={path}: no vectors in it: {problem}") from problem
    if found.ndim != 2 or not found.size:
        raise ConfigError(f"vector={path}: it holds an array of {given.shape}; give (N, dim)")
    if not np.isfinite(found).all():
        raise ConfigError(f"vector={path}: it holds a number that is not finite")
    return tuple(found)


def _array(data: bytes) -> Any:
    """Of .npy; its header is believed only as far as there are bytes: a short one could ask for all memory."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read(file)
    if kind.hasobject or math.prod(shape) * kind.itemsize != len(data) - file.tell():
        raise ValueError(f"its header says {shape} of {kind}, and {len(data) - file.tell()} bytes follow")
    return np.load(io.BytesIO(data), allow_pickle=False)


def _box(text: str) -> tuple[int, int, int, int]:
    try:
        x0, y0, x1, y1 = (round(float(number)) for number in json.loads(text))
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise ConfigError(f"crops: {text} is no box [x0, y0, x1, y1] in px") from None
    return x0, y0, x1, y1


def _bounded(path: str, most: int) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as problem:  # a zero byte in the name is a ValueError
        said = problem.strerror if isinstance(problem, OSError) else problem
        raise ConfigError(f"{path} cannot be read: {said}") from problem
    if len(data) > most:
        raise ConfigError(f"{path} is larger than the {most >> 20} MiB that a query takes")
    return data
