"""`datakit serve`: the catalogue on a port of this machine, for whoever has the address that is printed."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from datakit.config import parse
from datakit.errors import ConfigError, EnvironmentProblem, need

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The words of `datakit serve`."""

    index: str = field(default="", metadata={"help": "built tree, or folder of an index"})
    port: int = field(default=0, metadata={"help": "0: any that is free", "least": 0, "most": 65535})
    host: str = field(
        default="127.0.0.1",
        metadata={"help": "another than this machine's own lets others in who know the token"},
    )
    token: str = field(default="", metadata={"help": "what a caller must know; empty: drawn anew"})
    trusted: bool = field(
        default=False, metadata={"help": "run an encoder that is a program (torchscript:PATH)"}
    )


def serve_words(words: Sequence[str], tell: Callable[[str], None]) -> None:
    """Serve until a signal ends it. Raises ConfigError for wrong words, MissingExtra, EnvironmentProblem (the port)."""
    named = [f"index={word}" if at == 0 and "=" not in word else word for at, word in enumerate(words)]
    asked = parse(ServeOptions, named)
    if not asked.index:
        raise ConfigError("give the folder to serve: datakit serve builds/search")
    if asked.token and len(asked.token) < 16:
        raise ConfigError("token= is too short to keep anybody out; give 16 letters or more, or none")
    need("datakit serve", "serve", ("starlette", "uvicorn", "python_multipart"))
    from datakit.index.catalogue import open_catalogue

    catalogue = open_catalogue(asked.index, trusted=asked.trusted)
    for name in catalogue.indices:
        _ = catalogue.indices[name]  # a damaged one is told now
    bound = _bound(asked.host, asked.port)
    token = asked.token or secrets.token_urlsafe(24)
    port = bound.getsockname()[1]
    if asked.host not in LOOPBACK:
        tell(f"datakit: others can reach {asked.host}:{port}; what they ask goes unencrypted, token and all")
    shown = f"[{asked.host}]" if ":" in asked.host else asked.host
    tell(f"http://{shown}:{port}/?token={token}")
    _run(catalogue, token, asked.host, bound)


def _bound(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as problem:
        raise EnvironmentProblem(
            f"cannot listen on {host}:{port}: {problem.strerror or problem}"
        ) from problem


def _run(catalogue: object, token: str, host: str, bound: socket.socket) -> None:
    import uvicorn

    from datakit.index.catalogue import Catalogue
    from datakit.serve.app import make_app

    assert isinstance(catalogue, Catalogue)
    hosts = ("127.0.0.1", "localhost", "[::1]") if host in LOOPBACK else ()
    settings = uvicorn.Config(
        make_app(catalogue, token=token, hosts=hosts),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=15,
        h11_max_incomplete_event_size=64 << 10,
        limit_concurrency=256,
    )
    uvicorn.Server(settings).run(sockets=[bound])
