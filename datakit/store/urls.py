"""URLs of stores and sources: which schemes there are, what each needs, and how one is named without its secrets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from datakit.errors import ConfigError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """`extra` of ours that brings it, `module` that must be importable for it, `web`: addresses as browsers have."""

    extra: str
    module: str
    web: bool = False


# An allow-list: fsspec knows schemes that run commands, unpack archives or read this machine's files.
SCHEMES = {
    "http": Scheme(extra="http", module="aiohttp", web=True),
    "https": Scheme(extra="http", module="aiohttp", web=True),
    "s3": Scheme(extra="s3", module="s3fs"),
    "gs": Scheme(extra="gcs", module="gcsfs"),
    "hf": Scheme(extra="hf", module="huggingface_hub"),
}
_SECRET = re.compile(r"(?<=://)[^/?#@\s'\"]*:[^/?#@\s'\"]*@")
_QUERY = re.compile(r"(://[^\s?'\"]*)\?[^\s'\"]*")


@dataclass(frozen=True, kw_only=True)
class Url:
    """A URL taken apart. `base` has no slash at its end, no credentials and no query."""

    scheme: str
    base: str
    query: str = ""
    user: str = ""
    password: str = ""

    @property
    def name(self) -> str:
        """For messages and records."""
        return f"{self.base}?…" if self.query else self.base

    @property
    def web(self) -> bool:
        return SCHEMES[self.scheme].web

    @property
    def has_secrets(self) -> bool:
        return bool(self.query or self.user or self.password)

    def at(self, path: str) -> str:
        """The address of a file below, as fsspec takes it; of the URL itself where `path` is empty."""
        if not self.web:
            return f"{self.base}/{path}" if path else self.base
        # `?`, `#` and `%` of a file's name are none of the address's.
        below = f"{self.base}/{quote(path)}" if path else self.base
        return f"{below}?{self.query}" if self.query else below

    def below(self, path: str) -> Url:
        """The URL of a file or folder below."""
        base = f"{self.base}/{quote(path) if self.web else path}"
        return Url(scheme=self.scheme, base=base, query=self.query, user=self.user, password=self.password)


def is_url(place: str) -> bool:
    return "://" in place


def parse_url(text: str) -> Url:
    """Raises ConfigError for a scheme that is not ours, a chain of URLs (`::`), and credentials where none can be."""
    scheme, _, rest = text.partition("://")
    if scheme not in SCHEMES:
        hint = did_you_mean(scheme, SCHEMES) or f"; there are {', '.join(f'{name}://' for name in SCHEMES)}"
        raise ConfigError(f"{scheme}:// cannot be read from{hint} and plain paths of this machine")
    if "::" in rest or "#" in rest or not rest.isprintable() or any(sign.isspace() for sign in rest):
        raise ConfigError(f"{redacted(text)}: a URL is one address, without `::`, `#` and spaces")
    if not SCHEMES[scheme].web:
        if not rest.strip("/") or "@" in rest.partition("/")[0] or "?" in rest:
            raise ConfigError(
                f"{redacted(text)}: give {scheme}://NAME/FOLDER; credentials come from the environment"
            )
        return Url(scheme=scheme, base=f"{scheme}://{rest.rstrip('/')}")
    try:
        parts = urlsplit(text)
        host = f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname
    except ValueError as problem:
        raise ConfigError(f"{redacted(text)} is no URL: {problem}") from None
    if not host:
        raise ConfigError(f"{redacted(text)} names no host")
    if ":" in (parts.hostname or ""):
        host = f"[{parts.hostname}]" + (f":{parts.port}" if parts.port else "")
    return Url(
        scheme=scheme,
        base=f"{scheme}://{host}{parts.path.rstrip('/')}",
        query=parts.query,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
    )


def redacted(text: str) -> str:
    """A text in which URLs may stand, without their credentials and queries."""
    return _QUERY.sub(r"\1?…", _SECRET.sub("***@", text))


def public_url(text: str, word: str) -> Url:
    """A URL that goes into records. Raises ConfigError where it holds anything that could be a secret."""
    url = parse_url(text)
    if url.has_secrets:
        raise ConfigError(
            f"{word}={redacted(text)}: words are recorded with what they make, so no credentials and no query "
            "here; give credentials by the environment or ~/.netrc"
        )
    return url
