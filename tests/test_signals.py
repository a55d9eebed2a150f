import os
import signal

import pytest

from imgnet_mini.utils import signals
from imgnet_mini.utils.early_exit import SIGNALS
from imgnet_mini.utils.signals import (
    ImmediateStopError,
    StopRequest,
    StopRequestedError,
    raise_on_signal,
)

pytestmark = pytest.mark.usefixtures("default_sighup")

EACH = pytest.mark.parametrize("number", SIGNALS)


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


def test_without_a_signal_nothing_happens():
    with StopRequest() as stop:
        stop.check()


@EACH
def test_the_first_signal_is_raised_by_check(number):
    with StopRequest() as stop:
        signal.raise_signal(number)
        for _ in range(2):
            with pytest.raises(StopRequestedError, match=f"^{number.name}$") as error:
                stop.check()
            assert error.value.signal_number == number


@EACH
def test_a_second_signal_is_raised_immediately(number, monkeypatch):
    monkeypatch.setattr(signals, "DUPLICATE_SECONDS", -1)
    with StopRequest():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(ImmediateStopError, match=number.name) as error:
            signal.raise_signal(number)
        assert error.value.signal_number == number


def test_a_duplicate_signal_of_a_launcher_is_ignored():
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StopRequestedError):
            stop.check()


@EACH
def test_raise_on_signal_raises_immediately(number):
    before = handlers()
    with pytest.raises(ImmediateStopError, match=number.name), raise_on_signal():
        signal.raise_signal(number)
    assert handlers() == before


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_the_previous_handlers_are_restored(error):
    before = handlers()
    try:
        with StopRequest():
            assert handlers() != before
            if error:
                raise error
    except (ValueError, KeyboardInterrupt):
        pass
    assert handlers() == before


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals")
def test_sighup_stops_a_command_except_under_nohup():
    assert {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2} < set(SIGNALS)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            stop.check()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_each_block_starts_without_a_signal():
    with StopRequest():
        signal.raise_signal(signal.SIGTERM)
    with StopRequest() as stop:
        stop.check()
