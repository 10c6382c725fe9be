"""Shards damaged in every way that a disk, a copy or a hand can; webdataset reads the same ones for comparison."""

from __future__ import annotations

import gc
import itertools
import random
import warnings
from collections import Counter
from pathlib import Path

from datakit.errors import StoreError
from datakit.store.reader import open_store
from datakit.store.verify import verify
from fault_cases import Outcome, Tell
from fault_cases.f06_resume import make_store

TITLE = "shards truncated, zeroed, flipped, swapped, concatenated, emptied"
WANTED = "found by verify and by the loader; no short read"
CASES = 1000
SUITE = 30
SAMPLES = 500  # four shards
KINDS = (
    "bit",
    "bits",
    "zeroed block",
    "cut anywhere",
    "cut at a member",
    "cut at a sample",
    "empty",
    "swapped",
)
KINDS += ("concatenated", "members swapped")


def run(cases: int, seed: int, work: Path, tell: Tell) -> Outcome:
    """One damaged shard a case."""
    root, draw = work / "store", random.Random(seed)
    make_store(root, SAMPLES)
    tars = sorted((root / "data").glob("*.tar"))
    originals = [path.read_bytes() for path in tars]
    failures: list[str] = []
    found: Counter[str] = Counter()
    for number in range(cases):
        kind, victim = KINDS[number % len(KINDS)], draw.randrange(len(tars))
        tars[victim].write_bytes(damaged(kind, originals, victim, draw))
        ours, deep, theirs = by_loader(root), not verify(root).ok, by_webdataset(tars)
        found.update(loader=ours, verify=deep, webdataset=theirs)
        if not (ours and deep):
            failures.append(f"{kind} of shard {victim}: verify {deep}, loader {ours}")
        tars[victim].write_bytes(originals[victim])
        if number % 100 == 99:
            tell(f"{number + 1} of {cases}")
    if not verify(root, deep=True).ok or by_loader(root):
        failures.append("the store, whole again, is refused")
    figures = {f"found by {name}": f"{found[name]}" for name in ("verify", "loader", "webdataset")}
    return Outcome(cases=cases, failures=failures, figures=figures)


def damaged(kind: str, originals: list[bytes], victim: int, draw: random.Random) -> bytes:
    """The bytes of a shard with damage of a kind, never those it had."""
    data = originals[victim]
    headers = [at for at in range(0, len(data) - 1024, 512) if data[at + 257 : at + 262] == b"ustar"]
    samples = [at for at in headers if data[at : at + 100].split(b"\0")[0].endswith(b".jpg")]
    at = draw.randrange(len(data))
    if kind == "bit":
        return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
    if kind == "bits":
        end = min(len(data), at + 64)
        return data[:at] + bytes(255 - byte for byte in data[at:end]) + data[end:]
    if kind == "zeroed block":
        start = draw.choice(headers)
        return data[:start] + bytes(512) + data[start + 512 :]
    if kind == "members swapped":
        one, other = sorted(draw.sample(samples[:-1], 2))
        after = dict(itertools.pairwise(samples))
        first, second = data[one : after[one]], data[other : after[other]]
        return data[:one] + second + data[after[one] : other] + first + data[after[other] :]
    cuts = {
        "cut anywhere": at,
        "cut at a member": draw.choice(headers),
        "cut at a sample": draw.choice(samples),
    }
    if kind in cuts:
        return data[: cuts[kind]]
    other = originals[(victim + 1 + draw.randrange(len(originals) - 1)) % len(originals)]
    return {"empty": b"", "swapped": other, "concatenated": data + other}[kind]


def by_loader(root: Path) -> bool:
    """Whether an epoch ends in an error."""
    try:
        for _ in open_store(root)["train"].samples(shuffle=True):
            pass
    except StoreError:
        return True
    return False


def by_webdataset(tars: list[Path]) -> bool:
    """Whether webdataset raises: it has no way to know how many samples there should be."""
    import webdataset

    with warnings.catch_warnings():
        # It leaves the shards open that it stopped in.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            for _ in webdataset.WebDataset([str(path) for path in tars], shardshuffle=False):
                pass
        except Exception:  # whatever it raises is its way to say so
            return True
        finally:
            gc.collect()
    return False
