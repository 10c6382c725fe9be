"""The claims of a token build: the packed tokens are the tokens, near their entropy, read alike in any order; every
view is there; the picture that is left; what is learned from them, at no more bytes than was allowed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datakit.check.finding import Finding, first_keys
from datakit.models.quality import EQUAL, psnr, ssim
from datakit.rng import rng_for
from datakit.stage import Files, Ref, Rows, reduce
from datakit.stages.tokens import Fit, model_of, token_column, view_count
from datakit.tokens.codec import CODECS, decode_block, encode_block, fit_model
from datakit.tokens.opened import TokenSet
from datakit.train.token_stages import frame, opened

READ = 4096  # token grids compared at once
DRAWN = 512  # rows read at random
SEEN = 64  # images whose reconstruction is measured
CODED = 2048  # grids that every codec is tried on, at most
# Of the order-0 entropy: pco's bins and ans' frequencies are rounded, and blocks have heads. A stored folder that is
# larger was packed without its ids ranked, or in blocks too small.
SIZE = {"pco": (1.03, 4.0), "ans": (1.005, 6.0), "zstd": (1.25, 8.0), "context": (1.0, 4.0)}
MARGIN = 1.0  # dB by which an image's own tokens must be nearer to it than another's
ADAPTED = 256  # grids that TokenAdapt is tried on
UNTOUCHED = 0.95  # share of their tokens that it may not change
COLLAPSED = 0.1  # share of the codes in use below which a codebook is said to be collapsed


@reduce(version=1)
def check_tokens(
    rows: Rows,
    *,
    packed: Ref[Files],
    tokenizer: Ref[Files] | None = None,
    name: str = "",
    size: int,
    fit: Fit,
    views: str,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Findings over the packed folder, against the codes that the step before it gave."""
    tokens = opened(packed.value)
    model = model_of(tokenizer, name)
    found = [
        tokens_exact(rows, tokens),
        tokens_random(tokens, seed),
        tokens_views(rows, tokens, view_count(views)),
        tokens_size(tokens),
        tokens_picture(rows, tokens, model, size=size, fit=fit, seed=seed),
        tokens_codebook(tokens),
    ]
    return [finding.to_json() for finding in found]


def tokens_exact(rows: Rows, tokens: TokenSet) -> Finding:
    """Every grid read back, in the tokenizer's own codes, against what the tokenizer gave."""
    given = token_column(rows, tokens.grid)
    flat = given.reshape(-1, *tokens.grid)
    keys = rows.table(["__key__"])["__key__"].to_pylist()
    wrong: list[str] = []
    same_length = len(flat) == len(tokens)
    for begin, read in in_order(tokens) if same_length else ():
        differs = (tokens.originals(read) != flat[begin : begin + len(read)]).any(axis=(1, 2))
        wrong += [keys[(begin + int(at)) // given.shape[1]] for at in np.flatnonzero(differs)]
    summary = (
        f"{len(tokens):,} grids of {tokens.grid[0]} x {tokens.grid[1]} tokens come back bit for bit."
        if same_length and not wrong
        else f"{len(wrong):,} of {len(flat):,} grids come back otherwise; {len(tokens):,} are there."
    )
    count = len(wrong) + abs(len(flat) - len(tokens))
    return Finding(
        id="tokens_exact",
        severity="fail",
        passed=not count,
        count=count,
        keys=first_keys(wrong),
        summary=summary,
    )


def in_order(tokens: TokenSet) -> Iterator[tuple[int, NDArray[np.uint16]]]:
    """(number of the first, grids) of all rows, some thousand at a time."""
    for begin in range(0, len(tokens), READ):
        yield begin, tokens.read(np.arange(begin, min(begin + READ, len(tokens))))


def tokens_random(tokens: TokenSet, seed: int) -> Finding:
    """Rows asked for one by one, in a drawn order, against the same rows read in order."""
    drawn = rng_for(seed, "check", "tokens").permutation(len(tokens))[:DRAWN]
    together = tokens.read(np.sort(drawn))
    alone = np.stack([tokens.read(np.array([row]))[0] for row in drawn])
    differs = (alone != together[np.argsort(np.argsort(drawn))]).any(axis=(1, 2))
    return Finding(
        id="tokens_random",
        severity="fail",
        passed=not differs.any(),
        count=int(differs.sum()),
        summary=f"{len(drawn):,} rows read one by one are those read in order.",
    )


def tokens_views(rows: Rows, tokens: TokenSet, views: int) -> Finding:
    """Every key of the build, in its order, with each of its views once."""
    keys = rows.table(["__key__"])["__key__"].to_pylist()
    wanted = [(key, view) for key in keys for view in range(views)]
    there = list(zip(tokens.rows["key"].to_pylist(), tokens.rows["view"].to_pylist(), strict=True))
    wrong = {key for (key, _) in set(wanted) ^ set(there)}
    good = wanted == there
    return Finding(
        id="tokens_views",
        severity="fail",
        passed=good,
        count=0 if good else max(1, len(wrong)),
        keys=first_keys(wrong),
        summary=f"{len(keys):,} images with {views} view{'s' * (views > 1)} each are there, in the store's order."
        if good
        else f"{len(there):,} rows are there for {len(wanted):,} wanted, or in another order.",
    )


def tokens_size(tokens: TokenSet) -> Finding:
    """Coded bytes a grid beside the order-0 entropy of all tokens; codecs of fixed width have no limit."""
    stats, count = tokens.stats, max(1, len(tokens))
    each = tokens.files["blocks.bin"] / count
    entropy = stats["h0"] * tokens.grid[0] * tokens.grid[1] / 8
    factor, more = SIZE.get(tokens.codec, (float("inf"), 0.0))
    limit = None if np.isinf(factor) else factor * entropy + more
    return Finding(
        id="tokens_size",
        severity="warn",
        passed=limit is None or each <= limit,
        value=each,
        limit=limit,
        summary=f"{each:.1f} bytes a grid by {tokens.codec}; its order-0 entropy is {entropy:.1f}.",
        detail={"bytes": each, "entropy_bytes": entropy, "codec": tokens.codec},
    )


def tokens_picture(rows: Rows, tokens: TokenSet, model: Any, *, size: int, fit: Fit, seed: int) -> Finding:
    """PSNR in dB and SSIM of what the stored tokens decode to, on images drawn at random."""
    views = len(tokens) // max(1, len(rows))
    drawn = np.sort(rng_for(seed, "check", "pictures").permutation(len(rows))[:SEEN])
    given = np.stack([frame(image.array, size, fit) for image in rows.images(drawn.tolist())])
    back = model.decode(tokens.originals(tokens.read(drawn * views)))
    noise, alike = float(np.mean(np.minimum(psnr(given, back), EQUAL))), float(np.mean(ssim(given, back)))
    # A flat picture, or that of another image, is at 10 dB and less.
    control = float(np.mean(psnr(given, np.roll(back, 1, axis=0)))) if len(drawn) > 1 else 0.0
    return Finding(
        id="tokens_picture",
        severity="warn",
        passed=noise > control + MARGIN,
        value=noise,
        limit=control + MARGIN,
        summary=f"PSNR {noise:.1f} dB, SSIM {alike:.3f} over {len(drawn)} images; another image's tokens give "
        f"{control:.1f} dB.",
        detail={"psnr": noise, "ssim": alike, "control": control, "images": len(drawn)},
    )


def tokens_codebook(tokens: TokenSet) -> Finding:
    """How much of the codebook is used. Bits against PSNR say more; a collapse is still worth a word."""
    stats = tokens.stats
    made = tokens.about["made_codes"]
    share = stats["used"] / max(1, made)
    context = "unknown" if stats["h_context"] is None else f"{stats['h_context']:.2f}"
    return Finding(
        id="tokens_codebook",
        severity="warn",
        passed=share >= COLLAPSED,
        value=share,
        limit=COLLAPSED,
        summary=f"{stats['used']} of {made} codes are used, perplexity {stats['perplexity']:.0f}; "
        f"{stats['h0']:.2f} bits a token by frequency, {context} given its neighbours.",
        detail={name: stats[name] for name in ("used", "codes", "perplexity", "h0", "h_context")},
    )


@reduce(version=1)
def check_adapt(rows: Rows, *, packed: Ref[Files], adapt: Ref[Files], seed: int = 0) -> list[dict[str, Any]]:
    """That TokenAdapt without an affine gives back the tokens it is given, on grids drawn at random."""
    from datakit.train.token_adapt import untouched
    from datakit.train.token_adapt_files import read_adapt

    tokens = opened(packed.value)
    drawn = rng_for(seed, "check", "adapt").permutation(len(tokens))[:ADAPTED]
    share = untouched(read_adapt(adapt.value, tokens.vectors), tokens.read(drawn))
    finding = Finding(
        id="tokens_adapt",
        severity="warn",
        passed=share >= UNTOUCHED,
        value=share,
        limit=UNTOUCHED,
        summary=f"TokenAdapt's f⁻¹ f gives back {100 * share:.2f} % of the tokens of {len(drawn)} grids as they were.",
    )
    return [finding.to_json()]


@reduce(version=1)
def code_sizes(rows: Rows, *, packed: Ref[Files]) -> list[dict[str, Any]]:
    """codec, bytes a grid with what it learned shared out, over at most 2,048 of the stored grids in blocks of 256."""
    tokens = opened(packed.value)
    grids = tokens.read(np.arange(min(CODED, len(tokens))))
    found = []
    for codec in CODECS:
        model = fit_model(grids, codec=codec, codes=tokens.codes)
        blocks = [
            encode_block(grids[at : at + 256], codec=codec, codes=tokens.codes, model=model)
            for at in range(0, len(grids), 256)
        ]
        same = all(
            np.array_equal(decode_block(block, model=model), grids[at * 256 : at * 256 + 256])
            for at, block in enumerate(blocks)
        )
        total = sum(map(len, blocks)) + len(model)
        found.append({"codec": codec, "bytes": total / len(grids), "exact": same, "grids": len(grids)})
    return found


@reduce(version=1)
def check_arms(rows: Rows, *, arms: Sequence[Ref[dict[str, Any]]]) -> list[dict[str, Any]]:
    """No arm spent more than allowed; and tokens teach more than the most common class."""
    return [finding.to_json() for finding in arm_findings([arm.value for arm in arms])]


def arm_findings(arms: Sequence[Mapping[str, Any]]) -> list[Finding]:
    over = [arm for arm in arms if arm["allowed"] is not None and arm["spent"] > arm["allowed"]]
    found = [
        Finding(
            id="equal_bytes",
            severity="fail",
            passed=not over,
            count=len(over),
            summary=f"{len(arms)} arms and budgets were trained within their coded bytes."
            if not over
            else f"{over[0]['arm']} spent {over[0]['spent']:,} bytes of {over[0]['allowed']:,}.",
        )
    ]
    for arm in arms:
        if arm["arm"] == "tokens" and arm["budget"] == 1.0:
            mean = float(np.mean(arm["top1"]))
            found.append(
                Finding(
                    id="tokens_learn",
                    severity="warn",
                    passed=mean > 1.5 * arm["chance"],
                    value=mean,
                    limit=1.5 * arm["chance"],
                    summary=f"A classifier on tokens alone has top-1 {mean:.3f} over {len(arm['top1'])} seeds; the "
                    f"most common class is {arm['chance']:.3f} of the test.",
                )
            )
    for arm in arms:
        if arm.get("mtm"):
            found.append(_mtm(arm))
            break
    return found


def _mtm(arm: Mapping[str, Any]) -> Finding:
    """Masked token modelling must know more than how often each code comes."""
    losses = [one["masked_ce"] for one in arm["mtm"]]
    unigram = float(np.mean([one["unigram"] for one in arm["mtm"]]))
    return Finding(
        id="tokens_mtm",
        severity="warn",
        passed=float(np.mean(losses)) < unigram,
        value=float(np.mean(losses)),
        limit=unigram,
        summary=f"Masked tokens cost {np.mean(losses):.2f} nats after pre-training; by frequency alone {unigram:.2f}.",
    )
