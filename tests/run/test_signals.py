from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from datakit.run.pool import _no_interrupt

NAMES = [signal.SIGINT, signal.SIGTERM]


class Came(Exception):
    pass


@pytest.fixture
def handled() -> Iterator[list[int]]:
    """Both signals raise, as the command's do; which came."""
    came: list[int] = []

    def stop(number: int, frame: object) -> None:
        came.append(number)
        raise Came

    before = {name: signal.signal(name, stop) for name in NAMES}
    yield came
    for name, handler in before.items():
        signal.signal(name, handler)


@pytest.mark.parametrize("name", NAMES)
def test_a_signal_waits_until_a_worker_is_started(name: signal.Signals, handled: list[int]) -> None:
    started = False
    with pytest.raises(Came), _no_interrupt():
        signal.raise_signal(name)
        assert not handled
        started = True
    assert started and handled == [name]
    with pytest.raises(Came):  # and everything is as before
        signal.raise_signal(name)
    assert handled == [name, name]
