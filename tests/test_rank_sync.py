import signal

import pytest

from imgnet_mini.distributed import rank_sync
from imgnet_mini.distributed.context import SINGLE_PROCESS
from imgnet_mini.distributed.rank_sync import RankSync
from imgnet_mini.utils.early_exit import SIGNALS
from imgnet_mini.utils.signals import StopRequest, StopRequestedError

NONE = [0] * len(SIGNALS)
"""No rank has received any of the signals."""


class Clock:
    """A clock that the test advances."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


class TwoRanks:
    """The context of one of two ranks; `adds` are the terms of the other one in each sum."""

    world_size = 2

    def __init__(self, *, first, adds):
        self.is_main_process = first
        self.adds = list(adds)
        self.sent = []

    def all_reduce_sum(self, values):
        self.sent.append(list(values))
        return [ours + theirs for ours, theirs in zip(values, self.adds.pop(0), strict=True)]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(rank_sync, "time", clock)
    return clock


def test_one_process_syncs_after_a_second_or_max_steps(clock):
    steps = RankSync(SINGLE_PROCESS, StopRequest(), max_steps=3)
    assert [steps.should_sync() for _ in range(3)] == [False, False, True]
    assert steps.sync(decision=True)
    clock.now += 1.5
    assert steps.should_sync()


def test_one_process_sees_a_signal_after_any_step():
    with StopRequest() as stop:
        steps = RankSync(SINGLE_PROCESS, stop, max_steps=64)
        steps.check()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StopRequestedError):
            steps.check()


def test_rank_0_at_most_doubles_the_steps_between_syncs(clock):
    ranks = TwoRanks(first=True, adds=[[0, 0, *NONE]] * 9)
    steps = RankSync(ranks, StopRequest(), max_steps=64)
    planned = []
    for _ in range(9):
        while not steps.should_sync():
            clock.now += 0.02
        clock.now += 0.02
        steps.sync()
        planned.append(ranks.sent[-1][0])
    assert planned == [2, 4, 8, 16, 32, 50, 50, 50, 50]  # fifty steps are a second


def test_other_ranks_follow_the_plan_and_the_decision_of_rank_0(clock):
    ranks = TwoRanks(first=False, adds=[[5, 1, *NONE], [1, 0, *NONE]])
    steps = RankSync(ranks, StopRequest(), max_steps=64)
    assert steps.should_sync()
    assert steps.sync(decision=False)
    clock.now += 100  # its own clock does not matter
    assert [steps.should_sync() for _ in range(5)] == [False] * 4 + [True]
    assert not steps.sync(decision=True)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_to_another_rank_stops_this_one_in_the_same_sync(clock, number):
    adds = [1, 0, *(int(other == number) for other in SIGNALS)]
    steps = RankSync(TwoRanks(first=False, adds=[adds]), StopRequest(), max_steps=64)
    with pytest.raises(StopRequestedError) as error:
        steps.sync()
    assert error.value.signal_number == number


def test_a_signal_unknown_to_the_other_ranks_waits_for_the_next_sync(clock):
    with StopRequest() as stop:
        ranks = TwoRanks(first=True, adds=[[0, 0, *NONE]] * 2)
        steps = RankSync(ranks, stop, max_steps=64)
        exchange = ranks.all_reduce_sum

        def late(values):
            sums = exchange(values)
            signal.raise_signal(signal.SIGTERM)
            return sums

        ranks.all_reduce_sum = late
        steps.sync()
        steps.check()
        ranks.all_reduce_sum = exchange
        with pytest.raises(StopRequestedError):
            steps.sync()
