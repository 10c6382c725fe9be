"""The report of `vq_tokens`: pictures and what their tokens decode to, sizes, accuracy against coded bytes."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from datakit.check.fg_ood_page import catalog_rows, licence_rows
from datakit.check.report_data import Picture, ReportData
from datakit.check.search_page import left_out
from datakit.check.tokens_report import Rival, TokenFacts, render_tokens
from datakit.config import to_words
from datakit.image import decode, resize
from datakit.manifest import versions
from datakit.models.quality import EQUAL, psnr
from datakit.rng import rng_for
from datakit.stage import Files, Ref, Rows, reduce
from datakit.stages.tokens import Fit, Pixels, model_of
from datakit.tokens.opened import TokenSet
from datakit.train.token_shrink import Shrunk, jpeg_ladder, webp_ladder
from datakit.train.token_stages import frame, opened

SHOWN = 10  # pictures beside their reconstructions


@reduce(version=2)
def token_page(
    rows: Rows,
    *,
    packed: Ref[Files],
    tokenizer: Ref[Files] | None = None,
    name: str = "",
    size: int,
    fit: Fit,
    sizes: Ref[list[dict[str, Any]]],
    findings: Sequence[Ref[list[dict[str, Any]]]],
    arms: Sequence[Ref[dict[str, Any]]],
    words: Mapping[str, Any],
    title: str,
    seed: int = 0,
) -> str:
    """The page as HTML. sizes: of `code_sizes`. arms: of the loop at equal bytes, or nothing."""
    tokens = opened(packed.value)
    model = model_of(tokenizer, name)
    each = tokens.files["blocks.bin"] / max(1, len(tokens))
    views = len(tokens) // max(1, len(rows))
    pictures, rivals = _side_by_side(rows, tokens, model, size=size, fit=fit, seed=seed, each=each)
    data = ReportData(
        title=title,
        subtitle=f"{len(rows):,} images as {tokens.grid[0]} x {tokens.grid[1]} tokens, {each:,.0f} bytes "
        + ("an image." if views == 1 else f"a view, {views} views an image."),
        command=shlex.join(["datakit", "build", "recipe=vq_tokens", *to_words(words)]),
        recipe="vq_tokens",
        findings=tuple(finding for ref in findings for finding in ref.value),
        outcomes=tuple(left_out(rows)),
        conversions=Counter(
            change for changes in rows.table(["changes"])["changes"].to_pylist() for change in changes
        ),
        catalogs=tuple(catalog_rows(rows)),
        licences=tuple(licence_rows(rows.table())),
        versions=versions(),
        weights={model.name: model.weights},
        config=dict(words),
        pictures=tuple(pictures),
    )
    facts = TokenFacts(
        tokenizer=model.name,
        grid=tokens.grid,
        images=len(rows),
        views=views,
        each=each,
        source=tokens.about["source_bytes"] / max(1, len(rows)),
        stats=tokens.stats,
        codec=tokens.codec,
        sizes=tuple(sizes.value),
        rivals=tuple(rivals),
        arms=tuple(arm.value for arm in arms),
    )
    return render_tokens(data, facts)


def _side_by_side(
    rows: Rows, tokens: TokenSet, model: Any, *, size: int, fit: Fit, seed: int, each: float
) -> tuple[list[Picture], list[Rival]]:
    """Images drawn at random, and what is left of them in as many bytes: by tokens, small WebP and poor JPEG."""
    drawn = np.sort(rng_for(seed, "page", "pictures").permutation(len(rows))[:SHOWN])
    keys = rows.table(["__key__"])["__key__"]
    given = [frame(image.array, size, fit) for image in rows.images(drawn.tolist())]
    views = len(tokens) // max(1, len(rows))
    back = list(model.decode(tokens.originals(tokens.read(drawn * views))))
    shown = [("as framed", given, float("nan")), ("tokens", back, each)]
    for ladder in (webp_ladder(), jpeg_ladder()):
        shown.append(_rival(ladder, given, each))
    pictures: list[Picture] = []
    rivals: list[Rival] = []
    for words, images, spent in shown:
        first = len(pictures)
        pictures += [
            Picture(image=image, key=str(keys[int(row)]), caption=words)
            for image, row in zip(images, drawn, strict=True)
        ]
        noise = (
            float(np.mean(np.minimum(psnr(np.stack(given), np.stack(images)), EQUAL)))
            if words != "as framed"
            else None
        )
        rivals.append(Rival(name=words, pictures=tuple(range(first, len(pictures))), each=spent, psnr=noise))
    return pictures, rivals


def _rival(ladder: Sequence[Shrunk], given: list[Pixels], each: float) -> tuple[str, list[Pixels], float]:
    """The best of the ladder's settings at no more bytes than tokens; the last where none is as small."""
    for shrunk in ladder:
        coded = [shrunk.encoded(image) for image in given]
        mean = float(np.mean([len(data) for data in coded]))
        if mean <= each:
            break
    side = given[0].shape[0]
    return shrunk.words, [resize(decode(data), side=side) for data in coded], mean
