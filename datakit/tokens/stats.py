"""What tokens would take: how often codes come, their entropy, and their entropy given their neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from datakit.tokens.context import SCALE, Counts

Tokens = NDArray[np.uint16]

SEEN = 256  # grids that the entropy in context is estimated on
CHUNK = 4096  # grids counted at once: numpy counts in int64, four times the tokens' own size
MOST = 2048  # codes, for that: its tables are codes x codes


def token_stats(tokens_NHW: Tokens, codes: int) -> dict[str, Any]:
    """codes, used; fixed (bits a token of fixed width); h0 (order-0 entropy, bits a token, over all tokens);
    perplexity = 2^h0; h_context: bits a token by the adaptive model of the codec `context`, over the
    first 256 grids, which never looks ahead; None above 2,048 codes.
    """
    counts = counts_of(tokens_NHW, codes)
    shares = counts[counts > 0] / max(1, counts.sum())
    h0 = max(0.0, float(-(shares * np.log2(shares)).sum()))
    return {
        "codes": codes,
        "used": int((counts > 0).sum()),
        "fixed": int(codes - 1).bit_length(),
        "h0": h0,
        "perplexity": 2.0**h0,
        "h_context": context_entropy(tokens_NHW[:SEEN], codes) if codes <= MOST and len(tokens_NHW) else None,
        "grids": len(tokens_NHW),
    }


def counts_of(tokens_NHW: Tokens, codes: int) -> NDArray[np.int64]:
    """(codes,): how often each comes."""
    found = np.zeros(codes, np.int64)
    for at in range(0, len(tokens_NHW), CHUNK):
        found += np.bincount(tokens_NHW[at : at + CHUNK].reshape(-1), minlength=codes)
    return found


def context_entropy(tokens_NHW: Tokens, codes: int) -> float:
    """Bits a token of what the codec `context` would write, without its few bytes of states."""
    flat = tokens_NHW.reshape(len(tokens_NHW), -1)
    counts, bits = Counts(flat.shape, codes, tokens_NHW.shape[2]), 0.0
    own = np.arange(len(flat))
    for at in range(flat.shape[1]):
        beside = counts.neighbours(flat, at)
        token = flat[:, at].astype(np.int64)
        bits += float((SCALE - np.log2(counts.shares(beside)[own, token])).sum())
        counts.add(token, beside)
    return bits / max(1, flat.size)
