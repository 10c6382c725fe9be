"""From what a search build found to its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from datakit.check.report import environment, policy, resource
from datakit.check.report_checks import checks_view, details, tally, verdict
from datakit.check.report_data import ReportData
from datakit.check.report_pictures import Album
from datakit.check.report_script import SCRIPT
from datakit.check.report_view import KeyNumber, outcomes_view

SIDE = 96  # px of a picture in an answer

SECTIONS = (
    ("answers", "Answers"),
    ("recall", "Recall"),
    ("worth", "Worth"),
    ("captions", "Captions"),
    ("checks", "Checks"),
    ("outcomes", "Outcomes"),
    ("provenance", "Provenance"),
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A query and what was found, pictures by number in the report's pool; `query` is empty for a text."""

    asked: str
    query: tuple[int, ...]
    found: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class SpaceView:
    """An index as the page shows it. curve: an SVG, or nothing. figures: of `ranking_figures`."""

    name: str
    encoder: str
    facts: Mapping[str, str]
    curve: Any = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    images: tuple[Answer, ...] = ()
    texts: tuple[Answer, ...] = ()


def render_search(data: ReportData, spaces: Sequence[SpaceView], *, curves: Sequence[tuple[str, Any]]) -> str:
    """The whole page as text; equal data gives equal text."""
    style = Markup(resource("report.css") + resource("retrieval.css") + resource("search.css"))
    album = Album(data.pictures)
    view = {
        "data": data,
        "numbers": _numbers(data, spaces),
        "spaces": [_drawn(space, album) for space in spaces],
        "pairs": [
            finding
            for finding in data.findings
            if "retrieval" in finding["id"] or "image_text" in finding["id"]
        ],
        "curves": curves,
        "checks": checks_view(data.findings),
        "outcomes": outcomes_view(data),
        "config": details(data.config),
        "broken": album.broken,
    }
    page = environment().get_template("search.html")
    return page.render(
        view, sections=SECTIONS, style=style, script=Markup(SCRIPT), policy=policy(style=style, script=SCRIPT)
    )


def _drawn(space: SpaceView, album: Album) -> dict[str, Any]:
    return {
        "name": space.name,
        "encoder": space.encoder,
        "facts": space.facts,
        "curve": space.curve,
        "figures": space.figures,
        "images": [_row(answer, album) for answer in space.images],
        "texts": [_row(answer, album) for answer in space.texts],
    }


def _row(answer: Answer, album: Album) -> dict[str, Any]:
    columns = max(1, len(answer.found))
    return {
        "asked": answer.asked,
        "query": album.sheet(answer.query, columns=1, side=SIDE, role="id", what="query"),
        "found": album.sheet(answer.found, columns=columns, side=SIDE, what=f"answers to {answer.asked}"),
    }


def _numbers(data: ReportData, spaces: Sequence[SpaceView]) -> tuple[KeyNumber, ...]:
    found = [KeyNumber(label="images", value=next(iter(space.facts["rows"] for space in spaces), "0"))]
    for finding in data.findings:
        name = finding["id"].removesuffix("_index_recall")
        if name != finding["id"] and finding["value"] is not None:
            found.append(
                KeyNumber(
                    label=f"recall@{finding['detail']['k']}, index {name}",
                    value=f"{finding['value']:.3f}",
                    note=f"of {finding['detail']['queries']} queries; target {finding['detail']['target']:g}",
                )
            )
        if finding["id"] == "instance_retrieval" and finding["value"] is not None:
            note = f"the same thing among all others; by chance {finding['detail']['shuffled']['r1']:.3f}"
            found.append(KeyNumber(label="R@1 of a thing", value=f"{finding['detail']['r1']:.3f}", note=note))
    passed, total = sum(verdict(one) == "pass" for one in data.findings), len(data.findings)
    rest = ", ".join(f"{count} {word}" for name, word, count in tally(data.findings) if name != "pass")
    found.append(
        KeyNumber(
            label="checks passed", value=str(passed), note=f"of {total}" + (f": {rest}" if rest else "")
        )
    )
    return tuple(found)
