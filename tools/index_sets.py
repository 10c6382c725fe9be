"""The vectors of tools/bench_index.py: a synthetic set of decaying spectrum, and real nested ones with labels."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
WORDNET = Path("/usr/share/wordnet")  # of Debian's package wordnet-base
PEERS = Path(__file__).with_name("index_peers.py")


@dataclass(frozen=True)
class VectorSet:
    """`rows` are indexed, `queries` never are; labels of both where the set has some."""

    name: str
    rows: Floats
    queries: Floats
    row_labels: NDArray[np.int64] | None = None
    query_labels: NDArray[np.int64] | None = None


def synthetic(rows: int, queries: int, *, dim: int = 768, seed: int = 0) -> VectorSet:
    """Set A: clusters of Zipf sizes (a tenth as many as rows), eigenvalues ~ 1/i in and between them, turned at
    random, of length one. PCA keeps 69, 74 and 84 % of it at 64, 96 and 192 of 768 dims.
    """
    rng = np.random.default_rng(seed)
    clusters = max(10, rows // 10)
    scale = (1 / np.sqrt(np.arange(1, dim + 1))).astype(np.float32)
    centres = rng.standard_normal((clusters, dim)).astype(np.float32) * scale
    sizes = 1 / np.arange(1, clusters + 1)
    label = rng.choice(clusters, rows + queries, p=sizes / sizes.sum())
    found = centres[label] + rng.standard_normal((rows + queries, dim)).astype(np.float32) * scale
    turn = np.linalg.qr(rng.standard_normal((dim, dim)))[0].astype(np.float32)
    found = (found @ turn).astype(np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return VectorSet("A", found[:rows], found[rows:])


def real(rows: int, queries: int, *, cache: Path, peers_python: str) -> VectorSet:
    """Set B: 256-d vectors of wordllama (MRL-trained for 64, 128, 256; its wheel holds the weights) of WordNet 3.0's
    definitions, examples and `lemma: definition`, in an order drawn by a seed. Label: the lexicographer's file of the
    synset (45: noun.animal, verb.motion …). Raises SystemExit where the texts or the peers' Python are missing.
    """
    path = cache / f"wordllama-{rows + queries}.npz"
    if not path.exists():
        if not (WORDNET / "data.noun").exists():
            raise SystemExit("set B needs WordNet's files: apt-get install wordnet-base")
        texts, labels = wordnet_texts(rows + queries)
        listed = cache / "texts.json"
        listed.write_text(json.dumps(texts))
        subprocess.run([peers_python, str(PEERS), "embed", str(listed), str(cache / "texts.npy")], check=True)
        np.savez(path, vectors=np.load(cache / "texts.npy"), labels=labels)
    with np.load(path, allow_pickle=False) as found:
        vectors, known = found["vectors"], found["labels"]
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return VectorSet("B", vectors[:rows], vectors[rows:], known[:rows], known[rows:])


def wordnet_texts(wanted: int, folder: Path = WORDNET) -> tuple[list[str], NDArray[np.int64]]:
    """`wanted` different texts and the lexicographer's file of each: definitions and examples first, then lemmas with
    their definition, until there are as many; all in an order drawn by a seed.
    """
    plain: dict[str, int] = {}
    named: dict[str, int] = {}
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text(encoding="latin-1").splitlines():
            if not line or line.startswith(" "):  # the licence stands first
                continue
            head, _, gloss = line.partition(" | ")
            fields = head.split()
            file, lemmas = (
                int(fields[1]),
                [fields[4 + 2 * at].replace("_", " ") for at in range(int(fields[3], 16))],
            )
            parts = [one.strip().strip('"') for one in gloss.split("; ")]
            for text in parts:
                plain.setdefault(text, file)
            for lemma in lemmas:
                named.setdefault(f"{lemma}: {parts[0]}", file)
    pairs: list[Any] = [pair for pair in [*plain.items(), *named.items()] if pair[0]][:wanted]
    if len(pairs) < wanted:
        raise SystemExit(f"WordNet gives {len(pairs)} different texts; ask for fewer rows")
    order = np.random.default_rng(0).permutation(len(pairs))
    return [pairs[at][0] for at in order], np.array([pairs[at][1] for at in order], np.int64)
