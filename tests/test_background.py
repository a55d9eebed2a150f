import threading
from concurrent import futures

import pytest

from imgnet_mini.errors import WriteError
from imgnet_mini.utils.background import BackgroundThread
from imgnet_mini.utils.signals import ImmediateStopError


def nothing():
    pass


def failing():
    raise WriteError("no space")


def blocked_until(event):
    assert event.wait(30)


def test_a_function_runs_beside_the_caller_and_is_waited_for():
    go, done = threading.Event(), []
    with BackgroundThread("test", nothing) as background:
        background.start(lambda: (blocked_until(go), done.append(1)))
        background.check()
        assert not done
        go.set()
        background.wait()
        assert done == [1]
        background.start(lambda: done.append(2))
    assert done == [1, 2]


def test_two_functions_run_in_order_one_at_a_time():
    order = []
    with BackgroundThread("test", nothing) as background:
        for number in range(5):
            background.start(lambda number=number: order.append((number, threading.active_count())))
    assert [number for number, _ in order] == [*range(5)]
    assert len({threads for _, threads in order}) == 1


@pytest.mark.parametrize("ask", ["wait", "check", "start", "end"])
def test_the_error_of_a_function_is_raised_once_where_the_caller_asks_next(ask):
    def run(background):
        with background:
            background.start(failing)
            futures.wait([background._running])
            if ask == "start":
                background.start(nothing)
            elif ask != "end":
                getattr(background, ask)()

    background = BackgroundThread("test", nothing)
    with pytest.raises(WriteError, match="no space"):
        run(background)
    background.wait()


def end_with(error, function, cancel):
    with BackgroundThread("test", cancel) as background:
        background.start(function)
        raise error


def test_an_error_of_the_block_waits_for_the_function_and_names_its_failure():
    cancelled = threading.Event()
    with pytest.raises(ZeroDivisionError) as error:
        end_with(ZeroDivisionError(), failing, cancelled.set)
    assert error.value.__notes__ == ["no space"]
    assert not cancelled.is_set()


def test_an_immediate_stop_cancels_the_function_and_waits_for_its_end():
    cancelled, ended = threading.Event(), []
    with pytest.raises(ImmediateStopError):
        end_with(
            ImmediateStopError(2),
            lambda: (blocked_until(cancelled), ended.append(1)),
            cancelled.set,
        )
    assert ended
