"""The pages: a query and its answers, one sample, what was left out, what is there twice. All work without script."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from datakit.errors import ConfigError, DatakitError
from datakit.image import Image
from datakit.index.clusters import THRESHOLD
from datakit.serve.asked import MOST, PAGE, Asked, asked_of, number
from datakit.serve.export import LISTS, MAX_TAR, as_jsonl, as_parquet, as_tar
from datakit.serve.facets import facets_of
from datakit.serve.site import Site

LIST = 200  # rows of a list on one page
PROVENANCE = ("recipe", "build", "versions", "catalogs")


def environment() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.FunctionLoader(
            lambda name: files("datakit.serve").joinpath("templates", name).read_text(encoding="utf-8")
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["path"] = lambda key: quote(str(key), safe="")
    return found


class Pages:
    """Handlers of the HTML routes."""

    def __init__(self, site: Site) -> None:
        self.site, self._templates = site, environment()

    def render(self, name: str, code: int = 200, **view: Any) -> HTMLResponse:
        known = {
            "title": self.site.title,
            "names": self.site.names,
            "has_store": self.site.catalogue.has_store,
        }
        text = self._templates.get_template(name).render({**known, **view})
        return HTMLResponse(text, status_code=code)

    def problem(self, status: int, text: str) -> HTMLResponse:
        return self.render("problem.html", status, status=status, text=text)

    async def search(self, request: Request) -> Response:
        asked = asked_of(request.query_params.multi_items())
        return await self.site.run(lambda: self._search(asked))

    async def more(self, request: Request) -> Response:
        asked = asked_of(request.query_params.multi_items())
        return await self.site.run(lambda: self.render("cards.html", **self._cards(asked)))

    async def upload(self, request: Request) -> Response:
        """A form with a picture: kept, and the page of its query."""
        async with request.form(max_files=4, max_fields=40, max_part_size=1 << 20) as form:
            words, images = [], []
            for name, value in form.multi_items():
                if isinstance(value, str):
                    words.append((name, value))
                elif name == "image":
                    images.append(await value.read())
        asked = asked_of(words)
        kept = [await self.site.run(lambda data=data: self._kept(data)) for data in images if data]  # type: ignore[misc]
        return RedirectResponse(_with_uploads(asked, kept).url(), status_code=303)

    def _kept(self, data: bytes) -> str:
        _ = Image(data).header  # what is no picture, or a bomb, is refused before it is kept
        return self.site.uploads.keep(data)

    def _search(self, asked: Asked) -> Response:
        view: dict[str, Any] = {
            "asked": asked,
            "facets": [],
            "problem": "",
            "cards": [],
            "next": "",
            "plan": {},
        }
        status = 200
        try:
            view |= self._cards(asked) if asked.something else self._some(asked)
        except DatakitError as problem:
            status, view["problem"] = 400, self.site.said(problem)
        return self.render("search.html", status, **view)

    def _cards(self, asked: Asked) -> dict[str, Any]:
        found = self.site.answer(asked)
        rows = found.table.slice(asked.start, asked.k).to_pylist()
        index = self.site.catalogue.indices[found.index]
        here = asked.start + len(rows)
        more = here < MOST and len(rows) == asked.k
        return {
            "asked": asked,
            "cards": [_card(row, asked) for row in rows],
            "next": asked.url("/more", start=here) if more else "",
            "next_page": asked.url("/", start=here) if more else "",
            "facets": facets_of(found.table, self.site.facets(index)),
            "plan": dict(found.plan),
            "index": found.index,
        }

    def _some(self, asked: Asked) -> dict[str, Any]:
        """Without a question: the first rows, or those that a filter leaves."""
        from datakit.index.where import matches

        index = self.site.index(asked.index)
        mask = matches(index.meta, asked.where) & index.live if asked.where else index.live
        table = index.meta.filter(mask)
        rows = table.slice(asked.start, asked.k).to_pylist()
        here = asked.start + len(rows)
        more = here < min(MOST, table.num_rows)
        return {
            "cards": [_card(row, asked) for row in rows],
            "next": "",
            "next_page": asked.url("/", start=here) if more else "",
            "facets": facets_of(table, self.site.facets(index)),
            "plan": {"matching": table.num_rows},
            "index": index.name,
        }

    async def sample(self, request: Request) -> Response:
        key = str(request.path_params["key"])
        return await self.site.run(lambda: self._sample(key))

    def _sample(self, key: str) -> Response:
        try:
            row = self.site.catalogue.sample(key)
        except ConfigError as problem:
            return self.problem(404, self.site.said(problem))
        origin = provenance(self.site)
        return self.render("sample.html", key=key, row=row, origin=origin, like=Asked(key=(key,)).url())

    async def image(self, request: Request) -> Response:
        key = str(request.path_params["key"])
        try:
            data = await self.site.run(lambda: self.site.catalogue.image(key))
        except ConfigError as problem:
            return self.problem(404, self.site.said(problem))
        kind = {"jpg": "jpeg"}.get(extension := self.site.catalogue.store.layout.image_extension, extension)
        return Response(data, media_type=f"image/{kind}", headers={"cache-control": "private, max-age=3600"})

    async def drops(self, request: Request) -> Response:
        start = number("start", request.query_params.get("start", "0"), least=0, most=10**9)
        return await self.site.run(lambda: self._drops(start))

    def _drops(self, start: int) -> Response:
        table = self.site.outcomes()
        counts: dict[str, int] = {}
        for reason in table["reason"].to_pylist():
            counts[str(reason)] = counts.get(str(reason), 0) + 1
        rows = table.slice(start, LIST).to_pylist()
        more = f"/drops?start={start + LIST}" if start + LIST < table.num_rows else ""
        counted = sorted(counts.items(), key=lambda one: -one[1])
        return self.render("drops.html", rows=rows, counts=counted, total=table.num_rows, next_page=more)

    async def duplicates(self, request: Request) -> Response:
        words = dict(request.query_params)
        threshold = share("threshold", words.get("threshold", str(THRESHOLD)))
        return await self.site.run(lambda: self._duplicates(words.get("index", ""), threshold))

    def _duplicates(self, name: str, threshold: float) -> Response:
        index = self.site.index(name)
        table = self.site.duplicates(index, threshold)
        groups: dict[int, list[str]] = {}
        for row in table.to_pylist():
            if row["size"] > 1:
                groups.setdefault(row["cluster"], []).append(row["key"])
        shown = sorted(groups.values(), key=lambda keys: (-len(keys), keys))[:LIST]
        folded = sum(len(keys) for keys in groups.values())
        return self.render(
            "duplicates.html",
            groups=[keys[:24] for keys in shown],
            counts=[len(keys) for keys in shown],
            total=len(groups),
            folded=folded,
            threshold=threshold,
            index=index.name,
        )

    async def export(self, request: Request) -> Response:
        """The result as a list of keys (jsonl, parquet) or as shards (tar)."""
        form = str(request.path_params["form"])
        asked = asked_of(request.query_params.multi_items())
        if form not in (*LISTS, "tar"):
            return self.problem(404, f"a result is exported as {', '.join(LISTS)} or tar")
        asked = Asked(
            **{**vars(asked), "start": 0, "k": min(MAX_TAR if form == "tar" else MOST, max(asked.k, PAGE))}
        )
        found = await self.site.run(lambda: self.site.answer(asked))
        headers = {"content-disposition": f'attachment; filename="result.{form}"'}
        if form == "tar":
            return StreamingResponse(
                as_tar(self.site, found.table), media_type="application/x-tar", headers=headers
            )
        data = as_jsonl(found.table) if form == "jsonl" else as_parquet(found.table)
        return Response(data, media_type=LISTS[form], headers=headers)


def _card(row: Mapping[str, Any], asked: Asked) -> dict[str, Any]:
    key = str(row["key"])
    said = row.get("caption") or row.get("said") or row.get("class_name") or key
    return {
        "key": key,
        "said": str(said),
        "score": row.get("score"),
        "like": Asked(key=(key,), index=asked.index).url(),
        "plus": asked.plus(key).url(),
        "minus": asked.minus(key).url(),
    }


def _with_uploads(asked: Asked, names: list[str]) -> Asked:
    return Asked(**{**vars(asked), "upload": (*asked.upload, *names), "start": 0})


def share(name: str, text: str) -> float:
    """A number from 0 to 1. Raises ConfigError."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise ConfigError(f"{name} must be a number from 0 to 1")
    return round(found, 4)


def provenance(site: Site) -> dict[str, Any]:
    """What the tree says of where it comes from; {} where it says nothing."""
    from datakit.texts import load_json

    if not site.catalogue.has_store:
        return {}
    try:
        found = load_json(site.catalogue.store.files.read("provenance.json"))
    except (OSError, ValueError, DatakitError):
        return {}
    return {name: found[name] for name in PROVENANCE if name in found} if isinstance(found, dict) else {}
