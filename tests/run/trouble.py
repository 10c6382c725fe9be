"""The toy recipe with two more stages, which do something on purpose to the workers that run them."""

from __future__ import annotations

from pathlib import Path

TOY = Path(__file__).parent.parent / "toy_recipe.py"
STAGES = """
import ctypes, os, pathlib, signal, time
from datakit.stage import batch_stage, reduce, stage


def _at(key: str, stage: str) -> None:
    exec(TROUBLE.get((stage, key), "pass"))


@stage(version=1)
def one(sample: Sample) -> Sample:
    _at(sample["__key__"], "one")
    return sample


@batch_stage(version=1, size=4)
def many(samples: list[Sample]) -> list[Sample]:
    for sample in samples:
        _at(sample["__key__"], "many")
    return [sample | {"batch": len(samples)} for sample in samples]


@reduce(version=1)
def rest(rows: Rows) -> str:
    _at("", "rest")
    return "PNG"


"""
MAP, FORMAT = "not_dark(darkest=config.darkest))", "raw.reduce(png())"
HANG = "time.sleep(3600)"
HANG_IN_C = "ctypes.PyDLL(None).sleep(3600)"  # holds the interpreter, as a codec may
CRASH = "os.kill(os.getpid(), signal.SIGSEGV)"
GROW = "hoard = bytearray(b'x') * 900_000_000; time.sleep(3600)"


def stop_once(mark: Path) -> str:
    """A SIGSTOP from outside, the first time only."""
    path = f"pathlib.Path({str(mark)!r})"
    return f"{path}.exists() or ({path}.touch(), os.kill(os.getpid(), signal.SIGSTOP))"


def write_recipe(path: Path, trouble: dict[tuple[str, str], str]) -> Path:
    """A recipe where this happens: (stage `one`, `many` or `rest`, key) → what to run there."""
    text = TOY.read_text()
    assert text.count(MAP) == text.count(FORMAT) == 1
    text = text.replace(MAP, f"{MAP[:-1]}, one(), many())").replace(FORMAT, "raw.reduce(rest())")
    path.write_text(text.replace("def recipe(", f"{STAGES}TROUBLE = {trouble!r}\n\n\ndef recipe("))
    return path
