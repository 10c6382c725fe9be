"""The report of a build: one HTML page that holds everything it shows and asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import jinja2
from markupsafe import Markup

from datakit.check.report_checks import checks_view, details
from datakit.check.report_data import ReportData
from datakit.check.report_pictures import Album
from datakit.check.report_script import SCRIPT
from datakit.check.report_summary import spelt
from datakit.check.report_validation import validation_view
from datakit.check.report_view import (
    classes_view,
    duplicates_view,
    hero,
    key_numbers,
    outcomes_view,
    splits_view,
    tiers_view,
)
from datakit.check.report_words import capital, clean, plural, role_of, sentence, tier_title

SECTIONS = (
    ("difficulty", "Difficulty"),
    ("checks", "Checks"),
    ("tiers", "Tiers"),
    ("classes", "Classes"),
    ("scores", "Scores"),
    ("duplicates", "Duplicates"),
    ("outcomes", "Outcomes"),
    ("provenance", "Provenance"),
)


def render_report(data: ReportData) -> str:
    """The whole page as text; equal data gives equal text.

    Raises ValueError where `data` names a picture it does not hold, or pixels are no uint8 (height, width, 3).
    """
    style = Markup(resource("report.css"))
    album = Album(data.pictures)
    data = replace(data, validation=data.validation and spelt(data.validation))
    view = {
        "data": data,
        "numbers": key_numbers(data),
        "hero": hero(data, album),
        "checks": checks_view(data.findings),
        "validation": validation_view(data.validation),
        "splits": splits_view(data),
        "tiers": tiers_view(data, album),
        "classes": classes_view(data, album),
        "duplicates": duplicates_view(data, album),
        "outcomes": outcomes_view(data),
        "config": details(data.config),
        "broken": album.broken,
    }
    page = environment().get_template("report.html")
    return page.render(
        view, sections=SECTIONS, style=style, script=Markup(SCRIPT), policy=policy(style=style, script=SCRIPT)
    )


def policy(*, style: str, script: str) -> str:
    """The page's content security policy: our own style and script by their hash, pictures that are in the page."""
    return "; ".join((
        "default-src 'none'",
        "img-src data:",
        f"style-src '{_digest(style)}'",
        f"script-src '{_digest(script)}'",
        "base-uri 'none'",
        "form-action 'none'",
    ))  # fmt: skip


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def resource(name: str) -> str:
    """A file of this package as text."""
    return files("datakit.check").joinpath(name).read_text(encoding="utf-8")


def environment() -> jinja2.Environment:
    """Of the pages: everything escaped, every name there or an error, our filters."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(resource),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        whole=lambda value: f"{value:,}",
        plural=plural,
        sentence=sentence,
        capital=capital,
        pct=_percent,
        size=_size,
        short=lambda value: f"{value:.4g}" if isinstance(value, float) else str(value),
        role=role_of,
        tier=tier_title,
        web=_web_address,
        ordered=_ordered,
    )
    return environment


def _finalize(value: object) -> object:
    """Nothing unprintable reaches the page; Markup is ours and already clean."""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f}"


def _size(size: int) -> str:
    """Bytes as people read them, in powers of 1024."""
    if size < 1024:
        return f"{size} B"
    power = min(int(math.log(size, 1024)), 4)
    return f"{size / 1024**power:.3g} {'KMGT'[power - 1]}iB"


def _web_address(text: str) -> str:
    """`text` if it is an http or https address, else nothing: no other scheme becomes a link."""
    try:
        parts = urlsplit(clean(text).strip())
    except ValueError:
        return ""
    return parts.geturl() if parts.scheme in ("http", "https") and parts.netloc else ""


def _ordered(mapping: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(mapping.items())
