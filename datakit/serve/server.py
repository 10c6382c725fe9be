"""`datakit serve`: the catalogue on a port of this machine, for whoever has the address that is printed."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datakit.config import parse
from datakit.errors import ConfigError, EnvironmentProblem, need

if TYPE_CHECKING:
    from datakit.index.catalogue import Catalogue

LOOPBACK = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1", "::1": "::1"}  # and where it listens
NAMES = ("127.0.0.1", "localhost", "[::1]")
LEAST_TOKEN = 16  # letters
GRACE = 5  # seconds for answers under way, when a signal ends the server


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The words of `datakit serve`."""

    index: str = field(default="", metadata={"help": "built tree, or folder of an index"})
    port: int = field(default=0, metadata={"help": "0: any that is free", "least": 0, "most": 65535})
    host: str = field(
        default="127.0.0.1",
        metadata={"help": "another than this machine's own lets others in who know the token"},
    )
    token: str = field(
        default="auto", metadata={"help": "what a caller must know, 16 letters or more; auto: drawn anew"}
    )
    trusted: bool = field(
        default=False, metadata={"help": "run an encoder that is a program (torchscript:PATH)"}
    )


def serve_words(
    words: Sequence[str], tell: Callable[[dict[str, Any], str], None], warn: Callable[[str], None]
) -> None:
    """Serve until a signal ends it. Raises ConfigError for wrong words, MissingExtra, EnvironmentProblem (the port).

    tell: takes the address to open, as JSON and as text. warn: what whoever started it must know.
    """
    named = [f"index={word}" if at == 0 and "=" not in word else word for at, word in enumerate(words)]
    asked = parse(ServeOptions, named)
    if not asked.index:
        raise ConfigError("give the folder to serve: datakit serve builds/search")
    if asked.token not in ("", "auto") and len(asked.token) < LEAST_TOKEN:
        raise ConfigError("token= is too short to keep anybody out; give 16 letters or more, or none")
    need("datakit serve", "serve", ("starlette", "uvicorn", "python_multipart"))
    from datakit.index.catalogue import open_catalogue

    catalogue = open_catalogue(Path(asked.index).absolute(), trusted=asked.trusted)
    for name in catalogue.indices:
        _ = catalogue.indices[name]  # a damaged one is told now
    token = secrets.token_urlsafe(24) if asked.token in ("", "auto") else asked.token
    bound = _bound(LOOPBACK.get(asked.host, asked.host), asked.port)
    port = bound.getsockname()[1]
    if asked.host not in LOOPBACK:
        warn(
            f"warning: every machine that reaches {asked.host}:{port} can knock, and what is asked goes unencrypted, "
            "the token and all; without host= it is this machine alone"
        )
    shown = f"[{asked.host}]" if ":" in asked.host else asked.host
    address = f"http://{shown}:{port}/?token={token}"
    tell({"address": address, "host": asked.host, "port": port, "token": token}, address)
    _run(catalogue, token, asked.host, bound)


def _bound(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, UnicodeError) as problem:
        why = getattr(problem, "strerror", None) or problem
        raise EnvironmentProblem(f"cannot listen on {host}:{port}: {why}") from problem


def _run(catalogue: Catalogue, token: str, host: str, bound: socket.socket) -> None:
    import uvicorn

    from datakit.serve.app import make_app
    from datakit.serve.patience import Patience

    loopback = host in LOOPBACK
    names = NAMES if loopback else (*NAMES, host.lower(), socket.gethostname().lower())
    settings = uvicorn.Config(
        make_app(catalogue, token=token, hosts=names, loopback=loopback),
        http=Patience,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=GRACE,
        h11_max_incomplete_event_size=64 << 10,
        limit_concurrency=256,
    )
    uvicorn.Server(settings).run(sockets=[bound])
