from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from datakit.run.signals import undisturbed

STOPS = (signal.SIGINT, signal.SIGTERM)


class Came(Exception):
    pass


@pytest.fixture
def handled() -> Iterator[list[int]]:
    """Both signals raise, as the command's do; which came."""
    came: list[int] = []

    def stop(number: int, frame: object) -> None:
        came.append(number)
        raise Came

    before = {name: signal.signal(name, stop) for name in STOPS}
    yield came
    for name, handler in before.items():
        signal.signal(name, handler)


@pytest.mark.parametrize("name", STOPS)
def test_a_signal_waits_until_a_worker_is_started(name: signal.Signals, handled: list[int]) -> None:
    started = False
    with pytest.raises(Came), undisturbed():
        signal.raise_signal(name)
        assert not handled
        started = True
    assert started and handled == [name]
    with pytest.raises(Came):  # and everything is as before
        signal.raise_signal(name)
    assert handled == [name, name]


def test_signals_that_do_not_stop_us_all_come(handled: list[int]) -> None:
    for name in STOPS:
        signal.signal(name, lambda number, frame: handled.append(number))
    with undisturbed():
        for name in STOPS:
            signal.raise_signal(name)
        assert not handled
    assert sorted(handled) == sorted(STOPS)


def test_a_signal_as_handlers_are_put_back_leaves_none_of_ours(
    handled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [signal.getsignal(name) for name in STOPS]
    put = signal.signal

    def interrupted(name: int, handler: object) -> None:
        monkeypatch.setattr(signal, "signal", put)
        put(name, handler)  # type: ignore[arg-type]
        signal.raise_signal(name)

    with pytest.raises(Came), undisturbed():
        monkeypatch.setattr(signal, "signal", interrupted)
    assert [signal.getsignal(name) for name in STOPS] == before
