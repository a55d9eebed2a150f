import time
from itertools import count, islice

import pytest
import torch

from imgnet_mini.training.throughput import TimedLoader

BATCH = torch.zeros(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64)


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when told to: `clock(0.5)`."""
    now = 100.0

    def advance(seconds):
        nonlocal now
        now += seconds

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    return advance


def batches(clock, seconds):
    for _ in count():
        clock(seconds)
        yield BATCH


def test_a_rate_is_images_over_the_time_of_loading_and_of_the_steps(clock):
    timed = TimedLoader(lambda: batches(clock, 0.1), 4, seconds=10.0)
    for _ in timed.epoch(0):
        clock(0.3)
    assert timed.images_per_second == pytest.approx(4 / 0.4)


def test_what_the_first_steps_cost_is_not_counted(clock):
    costs = iter([0.4, 60.0])
    timed = TimedLoader(lambda: batches(clock, 0.0), 4, seconds=1.0)
    for _ in timed.epoch(0):
        clock(next(costs, 0.25))
    assert timed.images_per_second == pytest.approx(4 / 0.25)


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_however_slow_a_step_is_one_is_counted(clock, seconds):
    timed = TimedLoader(lambda: batches(clock, 5.0), 4, seconds=seconds, warm_up=50)
    assert len(list(timed.epoch(0))) == 2
    assert timed.images_per_second == pytest.approx(4 / 5)


def test_batches_loaded_in_advance_are_used_up_first(clock):
    def some_in_advance():
        yield from islice(batches(clock, 0.0), 6)
        yield from batches(clock, 0.5)

    timed = TimedLoader(some_in_advance, 4, seconds=3.0, warm_up=6)
    assert len(list(timed.epoch(0))) == 12
    assert timed.images_per_second == pytest.approx(4 / 0.5)
