"""uvicorn's protocol with an end to its patience: a request whose head does not come closes its connection.

uvicorn bounds the time between requests and not that of a head: one that comes byte by byte would hold its connection,
of which there are a few hundred, for good.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS = 10.0  # from the first byte, or the connection, to the end of the head


class Patience(H11Protocol):
    """See the module."""

    _until: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        if self._until is None and self._between():
            self._wait()
        super().data_received(data)
        if not self._between():
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _between(self) -> bool:
        """Whether no request is being answered: what comes now is the head of the next."""
        return self.cycle is None or bool(self.cycle.response_complete)

    def _wait(self) -> None:
        self._until = self.loop.call_later(SECONDS, self._give_up)

    def _stop(self) -> None:
        if self._until is not None:
            self._until.cancel()
            self._until = None

    def _give_up(self) -> None:
        self._until = None
        if self._between() and not self.transport.is_closing():
            self.transport.close()
