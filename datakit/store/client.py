"""Files behind a URL, one request at a time: bounded in time, tried again where that can help, errors made ours.

By fsspec. What it and the libraries below do on their own is switched off: caches of listings and instances
(stale after a write, unsafe after a fork), and retries, which would multiply with ours.
"""

from __future__ import annotations

import base64
import errno
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from datakit.errors import ConfigError, DatakitError, EnvironmentProblem, StoreError, need
from datakit.store.urls import SCHEMES, Url, redacted

T = TypeVar("T")

MAX_WHOLE = 256 << 20  # bytes of a file whose size nobody told

_AGAIN = {408, 425, 429, 500, 502, 503, 504}  # statuses of HTTP that may pass
DENIED = {401, 403, 407}
_PASSING = {
    getattr(errno, name)
    for name in (
        *("EIO", "EBUSY", "EAGAIN", "ETIMEDOUT", "EPIPE", "ECONNRESET", "ECONNABORTED", "ECONNREFUSED"),
        *("ENETUNREACH", "ENETDOWN", "EHOSTUNREACH", "EHOSTDOWN", "EREMOTEIO"),
    )
    if hasattr(errno, name)
}
# By name: a library that was not imported raised nothing.
_FOREIGN = {
    "aiohttp": ("ClientError", "InvalidURL"),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "gcsfs.retry": ("HttpError",),
    "google.auth.exceptions": ("GoogleAuthError",),
    "huggingface_hub.errors": ("HfHubHTTPError",),
    "httpx": ("HTTPError",),
    "requests": ("RequestException",),
}
_LASTING = {
    "aiohttp": ("InvalidURL", "ClientSSLError", "TooManyRedirects"),
    "botocore.exceptions": (
        "NoCredentialsError",
        "PartialCredentialsError",
        "ParamValidationError",
        "NoRegionError",
        "SSLError",
    ),
    "google.auth.exceptions": ("DefaultCredentialsError",),
}
# Whatever status they name: a body that was cut is told as a 400.
_BROKEN = {
    "aiohttp": ("ClientPayloadError", "ClientConnectionError"),
    "botocore.exceptions": ("HTTPClientError", "ResponseStreamingError", "IncompleteReadError"),
}
# Left behind by a fork. They are never closed here: their connections are the parent's.
_INHERITED: list[Any] = []


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to go on. Times in seconds; `total` over all tries of an operation, `request` for one of them."""

    tries: int = 7
    first_wait: float = 0.2  # doubled each time, and of that a random part
    longest_wait: float = 10.0
    total: float = 180.0
    connect: float = 10.0
    read: float = 30.0  # without a byte
    request: float = 300.0


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a listing says of a file. `token` changes whenever its bytes do; empty where the server has none."""

    size: int | None
    token: str = ""


class ShortBody(Exception):
    """Fewer bytes came than were asked for and are there."""


class Client:
    """The files below a URL. Any thread and any process may use it: each process makes its own connections."""

    def __init__(self, url: Url, patience: Patience | None = None) -> None:
        scheme = SCHEMES[url.scheme]
        need(f"{url.scheme}://", scheme.extra, [scheme.module, "fsspec"])
        self.url, self.patience = url, patience or Patience()
        self.ranges = True  # until the server is seen to know none
        self._made: tuple[int, Any] | None = None

    def read(self, path: str, start: int = 0, size: int | None = None, *, limit: int | None = None) -> bytes:
        """`size` bytes from `start` on; fewer raise StoreError. None: all, and more than `limit` raise StoreError.

        No more than that is ever taken; `limit` is MAX_WHOLE if None. FileNotFoundError for no such file.
        """
        limit = MAX_WHOLE if limit is None else limit
        most = limit + 1 if size is None else size

        def get() -> bytes:
            data = (
                self._web_bytes(path, start, size, most) if self.url.web else self._bytes(path, start, most)
            )
            if size is not None and len(data) < size:
                raise ShortBody(f"{len(data)} of {size} bytes came")
            return data

        data = self.attempt(path, get) if most else b""
        if len(data) > limit and size is None:
            raise StoreError(f"{self.url.below(path).name} has more than the {limit} bytes that it may have")
        return data

    def look(self, path: str) -> Seen:
        """Its size and token. FileNotFoundError for no such file."""
        if self.url.web:
            return self.attempt(path, lambda: self._head(path))
        return self.attempt(path, lambda: _seen(self.now("info", self.url.at(path))))

    def listing(self) -> dict[str, Seen]:
        """Every file below, by path. Raises ConfigError where servers list nothing (http)."""
        if self.url.web:
            raise ConfigError(f"{self.url.name}: web servers list no files; give the address of one file")

        def find() -> dict[str, Seen]:
            try:
                found: dict[str, Any] = self.now("find", self.url.base, detail=True, withdirs=False)
            except FileNotFoundError:
                return {}
            root = self.filesystem._strip_protocol(self.url.base).rstrip("/") + "/"
            return {
                name.removeprefix(root): _seen(info) for name, info in found.items() if name.startswith(root)
            }

        return self.attempt("", find)

    def attempt(self, path: str, once: Callable[[], T]) -> T:
        """What `once` returns, tried again on errors that may pass. Raises FileNotFoundError or a DatakitError."""
        from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay
        from tenacity import wait_random_exponential as wait

        patience = self.patience
        retrying = Retrying(
            retry=retry_if_exception(passes),
            stop=stop_after_attempt(patience.tries) | stop_after_delay(patience.total),
            wait=wait(multiplier=patience.first_wait, max=patience.longest_wait),
            reraise=True,
        )
        try:
            return retrying(once)
        except foreign() as problem:
            name = self.url.below(path).name if path else self.url.name
            # A chained error may show the address with its secrets.
            raise translated(problem, name) from (None if self.url.has_secrets else problem)

    def now(self, method: str, *args: Any, **keywords: Any) -> Any:
        """One call of the file system, not tried again, ended after `Patience.request`."""
        from fsspec.asyn import AsyncFileSystem, sync

        system = self.filesystem
        if isinstance(system, AsyncFileSystem):
            # call_s3 is _call_s3 as a coroutine, and so are all others.
            return sync(
                system.loop, getattr(system, f"_{method}"), *args, timeout=self.patience.request, **keywords
            )
        return getattr(system, method)(*args, **keywords)

    @property
    def filesystem(self) -> Any:
        """Of this process."""
        if self._made is None or self._made[0] != os.getpid():
            if self._made is not None:
                _INHERITED.append(self._made[1])
            self._made = (os.getpid(), self._make())
        return self._made[1]

    def _make(self) -> Any:
        import fsspec

        system = fsspec.get_filesystem_class(self.url.scheme)(**self._options())
        if hasattr(system, "retries"):
            system.retries = 1  # tries, of s3fs and gcsfs
        return system

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        patience = self.patience
        if self.url.scheme == "s3":
            times = {"connect_timeout": patience.connect, "read_timeout": patience.read}
            retries = {"retries": {"total_max_attempts": 1, "mode": "standard"}}
            options["config_kwargs"] = {**times, **retries, "max_pool_connections": 32}
            options["max_concurrency"] = 1  # more, and each read asks for the size first
        if self.url.web:
            import aiohttp

            timeout = aiohttp.ClientTimeout(
                total=None, sock_connect=patience.connect, sock_read=patience.read
            )
            options["client_kwargs"] = {"timeout": timeout, "trust_env": True}
            options["encoded"] = True
            # A range of compressed bytes is none of the file's.
            options["headers"] = {"Accept-Encoding": "identity"}
            if self.url.user or self.url.password:
                told = base64.b64encode(f"{self.url.user}:{self.url.password}".encode()).decode()
                options["headers"]["Authorization"] = f"Basic {told}"
        return options

    def _bytes(self, path: str, start: int, most: int) -> bytes:
        """As many bytes from `start` on, fewer at its end."""
        try:
            return bytes(self.now("cat_file", self.url.at(path), start=start, end=start + most))
        except foreign() as problem:
            if status(problem) == 416 and not start:  # an empty file has no first byte
                return b""
            raise

    def _web_bytes(self, path: str, start: int, size: int | None, most: int) -> bytes:
        """The same from a web server, which may send what it likes: read only so far."""
        from fsspec.asyn import sync

        system = self.filesystem

        async def get() -> bytes:
            session = await system.set_session()
            address, options = system.encode_url(self.url.at(path)), dict(system.kwargs)
            if size is not None:
                last = start + size - 1
                options["headers"] = {**options["headers"], "Range": f"bytes={start}-{last}"}
            async with session.get(address, **options) as answer:
                system._raise_not_found_for_status(answer, address)
                skip = 0 if size is None or answer.status == 206 else start
                pieces, got = [], 0
                async for piece in answer.content.iter_any():
                    pieces.append(piece)
                    got += len(piece)
                    if got > skip + most:
                        break
                if size is not None and answer.status != 206 and got > size:
                    self.ranges = False  # everything comes, for it knows none
                return b"".join(pieces)[skip : skip + most]

        return bytes(sync(system.loop, get, timeout=self.patience.request))

    def _head(self, path: str) -> Seen:
        from fsspec.asyn import sync

        system = self.filesystem

        # fsspec's own `info` says of any error that the file is missing.
        async def head() -> Mapping[str, str]:
            session = await system.set_session()
            address = system.encode_url(self.url.at(path))
            async with session.head(address, allow_redirects=True, **system.kwargs) as answer:
                system._raise_not_found_for_status(answer, address)
                return dict(answer.headers)

        found = {
            name.lower(): value
            for name, value in sync(system.loop, head, timeout=self.patience.request).items()
        }
        size = found.get("content-length", "")
        token = found.get("etag") or found.get("last-modified", "")
        return Seen(size=int(size) if size.isdecimal() else None, token=token)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}


def _seen(info: Mapping[str, Any]) -> Seen:
    names = ("ETag", "etag", "generation", "md5Hash", "blob_id", "LastModified", "mtime", "created")
    token = next((str(info[name]) for name in names if info.get(name)), "")
    return Seen(size=info.get("size"), token=token.strip('"'))


def _classes(names: Mapping[str, tuple[str, ...]]) -> tuple[type[BaseException], ...]:
    return tuple(
        getattr(sys.modules[module], name)
        for module, kinds in names.items()
        if module in sys.modules
        for name in kinds
        if hasattr(sys.modules[module], name)
    )


def foreign() -> tuple[type[BaseException], ...]:
    """What fsspec and the libraries below it raise."""
    return (OSError, EOFError, ShortBody, *_classes(_FOREIGN))


def status(problem: BaseException | None) -> int | None:
    """The HTTP status that an error, or the one that it was made of, stands for."""
    while problem is not None:
        for name in ("status", "code"):
            if isinstance(found := getattr(problem, name, None), int | str) and str(found).isdecimal():
                return int(found)
        response = getattr(problem, "response", None)
        if isinstance(response, Mapping):
            found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return int(found) if found else None
        if isinstance(found := getattr(response, "status_code", None), int):
            return found
        problem = problem.__cause__
    return None


def passes(problem: BaseException) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(problem, DatakitError) or not isinstance(problem, foreign()):
        return False
    if isinstance(problem, FileNotFoundError | PermissionError | FileExistsError):
        return False
    if isinstance(problem, _classes(_LASTING)):
        return False
    if isinstance(problem, _classes(_BROKEN)):
        return True
    if (found := status(problem)) is not None:
        return found in _AGAIN
    if isinstance(problem, ShortBody | TimeoutError | ConnectionError | EOFError):
        return True
    if isinstance(problem, OSError) and not isinstance(problem, _classes(_FOREIGN)):
        return problem.errno in _PASSING
    return True


def translated(problem: BaseException, name: str) -> Exception:
    """Our error of it. name: of the file, for the message."""
    found, what = status(problem), _words(problem)
    if isinstance(problem, FileNotFoundError) or found in (404, 410):
        return FileNotFoundError(name)
    if isinstance(problem, PermissionError) or found in DENIED:
        return EnvironmentProblem(
            f"{name}: access denied ({what}); check the address and the credentials of the environment "
            "(AWS_…, ~/.netrc, HF_TOKEN, …)"
        )
    if isinstance(
        problem, _classes({"botocore.exceptions": ("NoCredentialsError", "PartialCredentialsError")})
    ):
        return EnvironmentProblem(
            f"{name}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or FSSPEC_S3_ANON=true "
            "for a public bucket"
        )
    if isinstance(problem, ShortBody):
        return StoreError(f"{name} is shorter than it should be, at every try: {what}")
    if passes(problem):
        return EnvironmentProblem(f"{name} cannot be reached: {what}; run the same command again to go on")
    return StoreError(f"{name} cannot be read: {what}")


def _words(problem: BaseException) -> str:
    found = status(problem)
    if found is not None and hasattr(problem, "message"):  # aiohttp adds the address, with all in it
        return redacted(f"{found} {problem.message}")
    return redacted(str(problem).strip() or type(problem).__name__)
