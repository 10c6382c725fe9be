"""What a page holds that it should not: elements, handlers and addresses that came out of text."""

from __future__ import annotations

from html.parser import HTMLParser

WORDS = """
html head meta title link script body a header nav main form label span input select option button ul li img p div aside
section article code h1 h2 h3 small figure figcaption bdi article table caption tbody thead tr th td b
"""
ELEMENTS = frozenset(WORDS.split())


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ELEMENTS:
            self.wrong.append(f"<{tag}>")
        for name, value in attrs:
            text = (value or "").strip().lower()
            if name.startswith("on") or name == "style":
                self.wrong.append(f"<{tag} {name}>")
            if name in ("src", "href", "action", "hx-get", "data") and not _ours(text):
                self.wrong.append(f"<{tag} {name}={text[:60]}>")
            if tag == "meta" and name == "http-equiv":
                self.wrong.append(f"<meta {name}={text}>")


def _ours(address: str) -> bool:
    return address == "data:," or (address.startswith(("/", "#")) and not address.startswith("//"))


def wrong_in(text: str) -> list[str]:
    page = Page()
    page.feed(text)
    return page.wrong
