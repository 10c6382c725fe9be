"""The page of a query and its answers, which all other pages look like. It works without script."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from typing import Any
from urllib.parse import quote, urlsplit

import jinja2
import pyarrow as pa
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from datakit.check.report_words import clean
from datakit.errors import DatakitError
from datakit.index.where import matches
from datakit.serve.asked import MOST, Asked, asked_of
from datakit.serve.facets import facets_of
from datakit.serve.pictures import small_of_any
from datakit.serve.site import Site

STATIC = {"style.css": "text/css", "htmx.min.js": "text/javascript", "keys.js": "text/javascript"}
FIELDS, FILES = 400, 4  # of a form
FIELD = 1 << 20  # bytes
TITLE = 60  # letters: a longer text stands under a picture only where there is no shorter one


def static_file(name: str) -> bytes:
    return files("datakit.serve").joinpath("static", name).read_bytes()


# Part of their addresses: a browser keeps them, and asks for those of another datakit.
STATIC_VERSION = hashlib.sha256(b"".join(map(static_file, STATIC))).hexdigest()[:12]


def environment() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.FunctionLoader(
            lambda name: files("datakit.serve").joinpath("templates", name).read_text(encoding="utf-8")
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(
        path=lambda key: quote(str(key), safe=""), whole=lambda value: f"{value:,}", web=web_address
    )
    return found


def _finalize(value: object) -> object:
    """Nothing unprintable reaches the page; Markup is ours and already clean."""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def web_address(text: object) -> str:
    """`text` if it is an http or https address, else nothing: no other scheme becomes a link."""
    try:
        parts = urlsplit(clean(str(text)).strip())
    except ValueError:
        return ""
    return parts.geturl() if parts.scheme in ("http", "https") and parts.netloc else ""


class Pages:
    """Handlers of the query page; `render` for others."""

    def __init__(self, site: Site) -> None:
        self.site, self._templates = site, environment()

    def render(self, name: str, code: int = 200, **view: Any) -> HTMLResponse:
        site = self.site
        known = {
            "title": site.title, "names": site.names, "size": site.size, "has_store": site.catalogue.has_store,
            "version": site.version, "most": MOST, "static": STATIC_VERSION,
        }  # fmt: skip
        text = self._templates.get_template(name).render({**known, **view})
        return HTMLResponse(text, status_code=code)

    def problem(self, status: int, text: str) -> HTMLResponse:
        return self.render("problem.html", status, status=status, text=text)

    async def search(self, request: Request) -> Response:
        asked = asked_of(request.query_params.multi_items())
        return await self.site.run(lambda: self._search(asked))

    async def more(self, request: Request) -> Response:
        """The next cards, for a page that goes on by itself."""
        asked = asked_of(request.query_params.multi_items())
        return await self.site.run(lambda: self.render("cards.html", **self.found(asked)))

    async def upload(self, request: Request) -> Response:
        """A form with pictures: kept, and the page of its query."""
        words, sent = [], []
        async with request.form(max_files=FILES, max_fields=FIELDS, max_part_size=FIELD) as form:
            for name, value in form.multi_items():
                if isinstance(value, str):
                    words.append((name, value))
                elif name in ("image", "minus_image") and (data := await value.read()):
                    sent.append((name.replace("image", "upload"), data))
        asked = asked_of(words)
        for name, data in sent:
            kept = await self.site.run(lambda data=data: self._kept(data))  # type: ignore[misc]
            changes: dict[str, Any] = {name: (*getattr(asked, name), kept)}
            asked = replace(asked, start=0, **changes)
        return RedirectResponse(asked.url(), status_code=303)

    def _kept(self, data: bytes) -> str:
        thumb = small_of_any(data)  # what is no picture, or a bomb, is refused before it is kept
        name = self.site.uploads.keep(data)
        self.site.thumbs.get(("upload", name), lambda: thumb)
        return name

    def _search(self, asked: Asked) -> Response:
        status, problem, view = 200, "", _nothing(asked)
        try:
            view = self.found(asked)
        except DatakitError as wrong:
            status, problem = 400, self.site.said(wrong)
        return self.render("search.html", status, problem=problem, **view)

    def found(self, asked: Asked) -> dict[str, Any]:
        """What templates print: of the answers to a question, or without one of all images that pass the filter."""
        table, index, plan = self._answer(asked) if asked.something else self._some(asked)
        rows = table.slice(asked.start, asked.k).to_pylist()
        here = asked.start + len(rows)
        goes_on = here < MOST and (len(rows) == asked.k if asked.something else here < table.num_rows)
        columns = self.site.facets(self.site.catalogue.indices[index])
        return {
            "asked": asked,
            "cards": [card(row, asked) for row in rows],
            "next": asked.url("/more", start=here) if goes_on else "",
            "next_page": asked.url("/", start=here) if goes_on else "",
            "facets": facets_of(table, columns),
            "plan": plan,
            "index": index,
        }

    def _answer(self, asked: Asked) -> tuple[pa.Table, str, Mapping[str, Any]]:
        found = self.site.answer(asked)
        return found.table, found.index, found.plan

    def _some(self, asked: Asked) -> tuple[pa.Table, str, Mapping[str, Any]]:
        index = self.site.index(asked.index)
        mask = matches(index.meta, asked.filter) & index.live if asked.filter else index.live
        table = index.meta.filter(pa.array(mask))
        return table, index.name, {"matching": table.num_rows}


def _nothing(asked: Asked) -> dict[str, Any]:
    return {
        "asked": asked, "cards": [], "next": "", "next_page": "", "facets": [], "plan": {}, "index": "",
    }  # fmt: skip


def card(row: Mapping[str, Any], asked: Asked) -> dict[str, Any]:
    """What stands under a picture: a short text, the whole one for who cannot see it, and what can be done."""
    key = str(row["key"])
    texts = [str(row[name]) for name in ("caption", "said", "class_name") if row.get(name)]
    name = next((text for text in texts if len(text) <= TITLE), texts[-1] if texts else key)
    return {
        "key": key,
        "name": name,
        "said": texts[0] if texts else key,
        "score": row.get("score"),
        "sign": asked.sign(key),
        "like": Asked(key=(key,), index=asked.index, k=asked.k).url(),
        "plus": asked.plus(key).url(),
        "minus": asked.minus(key).url(),
    }
