"""From what a token build found to its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from datakit.check.curves import Axes, Series, amount, curves
from datakit.check.report import environment, policy, resource
from datakit.check.report_checks import checks_view, details, tally, verdict
from datakit.check.report_data import ReportData
from datakit.check.report_pictures import Album
from datakit.check.report_script import SCRIPT
from datakit.check.report_view import KeyNumber, outcomes_view
from datakit.tokens.arithmetic import JPEG_BYTES, SEIT_BYTES, bytes_for
from datakit.train.token_arms import ARMS

SIDE = 128  # px of a picture beside its reconstruction
ROLES = {
    "full": "outlier",
    "subset": "mid",
    "webp_subset": "near",
    "webp_low": "near",
    "jpeg_low": "coarse",
    "tokens": "id",
    "tokens_aug": "far",
    "tokens_adapt": "far",
    "tokens_vit": "id",
    "tokens_mtm": "coarse",
}
DASHED = ("webp_subset", "tokens_adapt", "tokens_vit", "tokens_mtm")  # of two lines of one colour, the second

SECTIONS = (
    ("pictures", "Pictures"),
    ("bytes", "Bytes"),
    ("worth", "Worth"),
    ("checks", "Checks"),
    ("outcomes", "Outcomes"),
    ("provenance", "Provenance"),
)


@dataclass(frozen=True, kw_only=True)
class Rival:
    """One way to keep the pictures shown: by number in the report's pool, bytes each, PSNR in dB."""

    name: str
    pictures: tuple[int, ...]
    each: float
    psnr: float | None = None


@dataclass(frozen=True, kw_only=True)
class TokenFacts:
    """What was packed. views: of an image. each, source: bytes of a view in tokens, of an image as found. arms: of
    `run_arm`.
    """

    tokenizer: str
    grid: tuple[int, int]
    images: int
    views: int
    each: float
    source: float
    stats: Mapping[str, Any]
    codec: str
    sizes: tuple[Mapping[str, Any], ...] = ()
    rivals: tuple[Rival, ...] = ()
    arms: tuple[Mapping[str, Any], ...] = ()


def render_tokens(data: ReportData, facts: TokenFacts) -> str:
    """The whole page as text; equal data gives equal text."""
    style = Markup(resource("report.css") + resource("retrieval.css") + resource("tokens.css"))
    album = Album(data.pictures)
    view = {
        "data": data,
        "facts": facts,
        "numbers": _numbers(data, facts),
        "rivals": [_drawn(rival, album) for rival in facts.rivals],
        "sizes": _sizes(facts),
        "imagenet": _imagenet(facts),
        "curve": accuracy_curve(facts.arms),
        "arms": [_arm(arm) for arm in facts.arms],
        "checks": checks_view(data.findings),
        "outcomes": outcomes_view(data),
        "config": details(data.config),
        "broken": album.broken,
    }
    page = environment().get_template("tokens.html")
    return page.render(
        view, sections=SECTIONS, style=style, script=Markup(SCRIPT), policy=policy(style=style, script=SCRIPT)
    )


def accuracy_curve(arms: Sequence[Mapping[str, Any]]) -> Markup:
    """Mean top-1 against the coded bytes spent on the training images, a line an arm; nothing without arms."""
    lines = []
    for name in ARMS:
        found = sorted(
            ((arm["spent"], arm) for arm in arms if arm["arm"] == name and arm["spent"] > 0),
            key=lambda pair: (pair[0], pair[1]["budget"]),
        )
        if not found:
            continue
        lines.append(
            Series(
                name=SHORT[name],
                role=ROLES[name],
                dashed=name in DASHED,
                marked=True,
                points=[(float(spent), float(np.mean(arm["top1"]))) for spent, arm in found],
                notes=[f"{ARMS[name]}: {spread(arm['top1'])} at {amount(spent)}B" for spent, arm in found],
            )
        )
    if not lines:
        return Markup("")
    axes = Axes(x="coded bytes of the training images", y="top-1, %", log_x=True)
    return curves(lines, axes, label="top-1 against coded bytes: " + ", ".join(line.name for line in lines))


SHORT = {
    "full": "full pixels",
    "subset": "subset",
    "webp_subset": "128 px WebP",
    "webp_low": "small WebP",
    "jpeg_low": "poor JPEG",
    "tokens": "tokens",
    "tokens_aug": "augmented",
    "tokens_adapt": "TokenAdapt",
    "tokens_vit": "tokens, ViT",
    "tokens_mtm": "ViT after MTM",
}


def spread(values: Sequence[float]) -> str:
    """`41.2 ± 0.8 %`: mean and sample standard deviation over seeds."""
    mean = 100 * float(np.mean(values))
    return f"{mean:.1f} ± {100 * float(np.std(values, ddof=1)):.1f} %" if len(values) > 1 else f"{mean:.1f} %"


def _arm(arm: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": ARMS[arm["arm"]],
        "role": ROLES[arm["arm"]],
        "budget": "–" if arm["allowed"] is None else f"{arm['budget']:g}",
        "spent": amount(arm["spent"]) + "B",
        "images": f"{arm['images']:,} of {arm['of']:,}",
        "each": f"{arm['spent'] / max(1, arm['images']):,.0f}",
        "setting": arm["setting"],
        "top1": spread(arm["top1"]),
    }


def _drawn(rival: Rival, album: Album) -> dict[str, Any]:
    sheet = album.sheet(
        rival.pictures, columns=max(1, len(rival.pictures)), side=SIDE, quality=90, what=rival.name
    )
    return {
        "name": rival.name,
        "sheet": sheet,
        "each": "" if np.isnan(rival.each) else f"{rival.each:,.0f} bytes an image",
        "psnr": "" if rival.psnr is None else f"{rival.psnr:.1f} dB",
    }


def _sizes(facts: TokenFacts) -> list[dict[str, Any]]:
    """Bytes a grid by each codec, beside uint16 and the entropy."""
    tokens = facts.grid[0] * facts.grid[1]
    rows: list[dict[str, Any]] = [
        {"name": "uint16", "bytes": 2.0 * tokens, "note": "as most tools keep them"}
    ]
    rows.append(
        {
            "name": "order-0 entropy",
            "bytes": facts.stats["h0"] * tokens / 8,
            "note": "a bound for codes alone",
        }
    )
    for size in facts.sizes:
        note = "the store's" if size["codec"] == facts.codec else ""
        rows.append({"name": size["codec"], "bytes": size["bytes"], "note": note})
    most = max(row["bytes"] for row in rows)
    return [row | {"share": 100 * row["bytes"] / most, "bits": 8 * row["bytes"] / tokens} for row in rows]


def _imagenet(facts: TokenFacts) -> list[dict[str, str]]:
    """What 1,281,167 images at 32 x 32 tokens would take at the bits a token that were measured here."""
    tokens = facts.grid[0] * facts.grid[1]
    found = [
        {"name": size["codec"], "bytes": f"{bytes_for(8 * size['bytes'] / tokens) / 1e9:.2f} GB"}
        for size in facts.sizes
    ]
    found.append({"name": "SeiT, as published", "bytes": f"{SEIT_BYTES / 1e9:.1f} GB"})
    found.append({"name": "JPEG, about", "bytes": f"{JPEG_BYTES / 1e9:.0f} GB"})
    return found


def _in_context(stats: Mapping[str, Any]) -> str:
    return "" if stats["h_context"] is None else f", {stats['h_context']:.2f} in context"


def _numbers(data: ReportData, facts: TokenFacts) -> tuple[KeyNumber, ...]:
    tokens = facts.grid[0] * facts.grid[1]
    found = [
        KeyNumber(label="images", value=f"{facts.images:,}", note=f"{tokens} tokens each"),
        KeyNumber(
            label="bytes an image" if facts.views == 1 else "bytes a view",
            value=f"{facts.each:,.0f}",
            note=f"{100 * facts.each / max(1.0, facts.source):.1f} % of the source's {facts.source:,.0f}",
        ),
        KeyNumber(
            label="bits a token",
            value=f"{8 * facts.each / tokens:.2f}",
            note=f"entropy {facts.stats['h0']:.2f}" + _in_context(facts.stats),
        ),
    ]
    for finding in data.findings:
        if finding["id"] == "tokens_picture":
            found.append(KeyNumber(label="PSNR", value=f"{finding['value']:.1f} dB",
                                   note=f"SSIM {finding['detail']['ssim']:.3f}"))  # fmt: skip
    passed, total = sum(verdict(one) == "pass" for one in data.findings), len(data.findings)
    rest = ", ".join(f"{count} {word}" for name, word, count in tally(data.findings) if name != "pass")
    note = f"of {total}" + (f": {rest}" if rest else "")
    return (*found, KeyNumber(label="checks passed", value=str(passed), note=note))
