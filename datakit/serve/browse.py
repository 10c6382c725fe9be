"""Beside answers: a sample and where it comes from, its image, what was left out, what is there twice; and a result to
take away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from datakit.check.report_words import REASONS
from datakit.errors import DatakitError
from datakit.index.clusters import THRESHOLD
from datakit.serve.asked import Asked, asked_of
from datakit.serve.export import LISTS, TAR, as_list, as_tar
from datakit.serve.pages import Pages, card
from datakit.serve.pictures import JPEG, small_of_any
from datakit.serve.schema import NUMBER, TEXT, WHOLE, Schema, of_words
from datakit.serve.site import Site
from datakit.texts import load_json

LIST = 200  # rows of a list on one page
SHOWN = 24  # pictures of a group of near-duplicates
NEAR = 12  # neighbours under a sample
KEEP = "private, max-age=86400, immutable"  # addresses of pictures change with the store
PLACE = (
    "split", "shard", "index_in_shard", "offset", "size", "image_offset", "image_size", "file_name", "xxh3",
)  # fmt: skip
TERMS = ("licence", "attribution", "source_url", "catalog")
DROPS: Mapping[str, Schema] = {
    "reason": TEXT,
    "outcome": TEXT,
    "start": {**WHOLE, "minimum": 0, "maximum": 10**9},
}
DUPLICATES: Mapping[str, Schema] = {
    "index": TEXT,
    "threshold": {**NUMBER, "minimum": 0, "maximum": 1},
    "start": {**WHOLE, "minimum": 0, "maximum": 10**9},
}


async def image_of(site: Site, key: str) -> Response:
    """The image as it is stored; its digest was compared. Raises ConfigError for a key that is not there."""
    data = await site.run(lambda: site.catalogue.image(key))
    kind = {"jpg": "jpeg"}.get(extension := site.catalogue.store.layout.image_extension, extension)
    return Response(data, media_type=f"image/{kind}", headers={"cache-control": KEEP})


class Browse:
    """Handlers."""

    def __init__(self, pages: Pages) -> None:
        self.pages, self.site = pages, pages.site

    async def image(self, request: Request) -> Response:
        return await image_of(self.site, str(request.path_params["key"]))

    async def thumb(self, request: Request) -> Response:
        key = str(request.path_params["key"])
        data = await self.site.run(lambda: self.site.thumb(key))
        return Response(data, media_type=JPEG, headers={"cache-control": KEEP})

    async def picture(self, request: Request) -> Response:
        """What somebody asked with, drawn anew."""
        name = str(request.path_params["name"])
        sent = self.site.uploads.get(name)
        data = await self.site.run(lambda: self.site.thumbs.get(("upload", name), lambda: small_of_any(sent)))
        return Response(data, media_type=JPEG)

    async def sample(self, request: Request) -> Response:
        key = str(request.path_params["key"])
        return await self.site.run(lambda: self._sample(key))

    def _sample(self, key: str) -> Response:
        row = self.site.catalogue.sample(key)
        asked = Asked(key=(key,), k=NEAR)
        named = card({**row, "key": key}, asked)
        try:
            near = [card(one, Asked()) for one in self.site.answer(asked).table.to_pylist()]
        except DatakitError:  # in the store, and not in the index
            near = []
        parts: dict[str, Any] = {
            "place": _file(row) | {name: row[name] for name in PLACE if name in row},
            "terms": {name: row[name] for name in TERMS if row.get(name)},
            "changes": row.get("changes"),
            "fields": {name: row[name] for name in row if name not in (*PLACE, *TERMS, "changes", "key")},
        }
        origin = origin_of(self.site, str(row.get("catalog") or ""))
        return self.pages.render("sample.html", key=key, card=named, near=near, origin=origin, **parts)

    async def drops(self, request: Request) -> Response:
        words = of_words(request.query_params.multi_items(), DROPS)
        return await self.site.run(lambda: self._drops(words))

    def _drops(self, words: Mapping[str, Any]) -> Response:
        every, start = self.site.outcomes().to_pylist(), words.get("start", 0)
        counts = Counter((str(row["outcome"]), str(row["reason"])) for row in every)
        chosen = [
            row
            for row in every
            if words.get("reason") in (None, row["reason"]) and words.get("outcome") in (None, row["outcome"])
        ]
        more = start + LIST < len(chosen)
        return self.pages.render(
            "drops.html",
            rows=chosen[start : start + LIST],
            counts=[
                (outcome, reason, REASONS.get(reason, ""), count)
                for (outcome, reason), count in counts.most_common()
            ],
            total=len(every),
            chosen=len(chosen),
            words=words,
            next_page={**words, "start": start + LIST} if more else None,
        )

    async def duplicates(self, request: Request) -> Response:
        words = of_words(request.query_params.multi_items(), DUPLICATES)
        return await self.site.run(lambda: self._duplicates(words))

    def _duplicates(self, words: Mapping[str, Any]) -> Response:
        index, start = self.site.index(words.get("index", "")), words.get("start", 0)
        threshold = round(float(words.get("threshold", THRESHOLD)), 4)
        groups = self.site.groups(index.name, threshold)
        shown = groups[start : start + LIST]
        return self.pages.render(
            "duplicates.html",
            groups=[(len(keys), keys[:SHOWN], _basket(keys, index.name)) for keys in shown],
            total=len(groups),
            folded=sum(map(len, groups)),
            threshold=threshold,
            index=index.name,
            next_page={**words, "start": start + LIST} if start + LIST < len(groups) else None,
        )

    async def export(self, request: Request) -> Response:
        """The first k of a result, as a list of keys (jsonl, parquet) or as shards (tar)."""
        form = str(request.path_params["form"])
        if form not in (*LISTS, "tar"):
            return self.pages.problem(404, f"a result is exported as {', '.join(LISTS)} or tar")
        asked = replace(asked_of(request.query_params.multi_items()), start=0)
        table = await self.site.run(lambda: self.site.answer(asked).table)
        headers = {"content-disposition": f'attachment; filename="result.{form}"'}
        if form == "tar":
            parts = as_tar(self.site, table)
            first = await anext(parts)  # what is wrong with it is told before an answer begins
            return StreamingResponse(_all(first, parts), media_type=TAR, headers=headers)
        data = await self.site.run(lambda: as_list(table, form))
        return Response(data, media_type=LISTS[form], headers=headers)


async def _all(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for part in rest:
        yield part


def _file(row: Mapping[str, Any]) -> dict[str, str]:
    return {"file": f"data/{row['shard']}.tar"} if "shard" in row else {}


def _basket(keys: list[str], index: str) -> str:
    """The address of a search for what a group is like."""
    return Asked(key=tuple(keys[:SHOWN]), index=index, own=True).url()


def origin_of(site: Site, catalog: str) -> list[tuple[str, str, str]]:
    """(name, text, address or nothing) of what the tree says of a sample's catalog and its build, if it does."""
    if not site.catalogue.has_store:
        return []
    try:
        found = load_json(site.catalogue.store.files.read("provenance.json"))
    except (OSError, ValueError, DatakitError):
        return []
    found = found if isinstance(found, dict) else {}
    catalogs = [one for one in found.get("catalogs") or [] if isinstance(one, dict)]
    alone = catalogs[0] if len(catalogs) == 1 else {}
    one = next((one for one in catalogs if one.get("name") == catalog), alone)
    licence = one.get("licence")
    terms: dict[str, Any] = licence if isinstance(licence, dict) else {}
    rows = [
        ("data set", one.get("title"), one.get("homepage")),
        ("its licence", terms.get("name") or terms.get("spdx"), terms.get("link")),
        ("its attribution", terms.get("attribution"), ""),
        ("its citation", one.get("citation"), ""),
        ("its checksum", one.get("checksum"), ""),
        ("recipe", found.get("recipe"), ""),
        ("build", found.get("build"), ""),
        ("made by datakit", (found.get("versions") or {}).get("datakit"), ""),
    ]
    return [(name, str(text), str(link or "")) for name, text, link in rows if text]
