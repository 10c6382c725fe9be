"""A request's body, bounded in bytes and in time: a slow or endless one holds up nobody."""

from __future__ import annotations

import asyncio
import time

from starlette.types import Message, Receive

MAX_BODY = 24 << 20  # bytes
SECONDS = 30.0  # for all of it


class TooLarge(Exception):
    """A body of more than MAX_BODY bytes."""


class TooSlow(Exception):
    """A body that was not there after SECONDS."""


def bounded(receive: Receive) -> Receive:
    """`receive`, raising the above. What comes after the body, as that the caller has gone, may take as long as it
    likes.
    """
    seen, complete, until = 0, False, 0.0

    async def receiving() -> Message:
        nonlocal seen, complete, until
        if complete:
            return await receive()
        until = until or time.monotonic() + SECONDS
        try:
            message = await asyncio.wait_for(receive(), max(0.001, until - time.monotonic()))
        except TimeoutError:
            raise TooSlow from None
        seen += len(message.get("body", b""))
        if seen > MAX_BODY:
            raise TooLarge
        complete = not message.get("more_body", False)
        return message

    return receiving
