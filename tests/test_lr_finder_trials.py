import math

import numpy as np
import pytest

from imgnet_mini.lr_finder.trials import SearchEndedError, TrialRun, TrialRuns, search_peak_lr


def search(loss_of, *, max_runs=6, first=0.1, chance_loss=math.inf):
    """Search with a loss that depends on the number of doublings; also return those tried."""
    tried = []

    def train(lr):
        tried.append(round(math.log2(lr / first)))
        return [9.0, 9.0, 9.0, loss_of(math.log2(lr / first))]

    return search_peak_lr(
        train, first=first, max_runs=max_runs, steps=4, chance_loss=chance_loss
    ), tried


@pytest.mark.parametrize(
    ("peak", "tried"),
    [
        (0.2, [0, 1, -1]),
        (1.2, [0, 1, 2]),
        (2.4, [0, 1, 2, 3]),
        (-0.6, [0, 1, -1, -2]),
        (4.4, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_the_search_continues_until_the_best_peak_has_a_worse_neighbor_on_each_side(peak, tried):
    trials, rates = search(lambda power: (power - peak) ** 2)
    assert rates == tried
    assert trials.peak_lr == pytest.approx(0.1 * 2**peak)
    assert trials.min_loss == pytest.approx(0, abs=1e-9)
    assert [run.peak_lr for run in trials.runs] == sorted(run.peak_lr for run in trials.runs)


def test_the_number_of_runs_is_limited_and_the_best_at_an_end_is_taken():
    trials, tried = search(lambda power: -power, max_runs=4)
    assert tried == [0, 1, 2, 3]
    assert (trials.peak_lr, trials.min_loss) == (0.8, -3)
    trials, tried = search(lambda power: -power, max_runs=1)
    assert (tried, trials.peak_lr) == ([0], 0.1)


def test_no_peak_above_a_diverged_one_is_tried():
    trials, tried = search(lambda power: math.nan if power > 0 else -power)
    assert tried == [0, 1, -1]
    assert trials.peak_lr == 0.1


def test_the_search_goes_down_if_all_diverge():
    trials, tried = search(lambda power: math.inf if power > -2 else (power + 3) ** 2)
    assert tried == [0, -1, -2, -3, -4]
    assert trials.peak_lr == pytest.approx(0.1 / 8)


def test_no_peak_is_suggested_if_all_diverge():
    trials, _ = search(lambda _: math.nan)
    assert trials.peak_lr is None
    assert trials.best.final_loss == math.inf


def test_runs_that_learn_too_little_suggest_nothing_and_end_the_search():
    def explode(power):  # a higher lr makes the output constant sooner
        return 4.605 + 0.5 / 2**power

    trials, tried = search(explode, chance_loss=math.log(100))
    assert tried == [0, 1]
    assert not trials.has_learned
    assert trials.peak_lr is None
    assert trials.best.final_loss < math.inf
    a_little, _ = search(lambda power: 4.2 + (power - 2) ** 2, chance_loss=math.log(100))
    assert not a_little.has_learned
    learned, tried = search(lambda power: 4.1 + (power - 1) ** 2, chance_loss=math.log(100))
    assert tried == [0, 1, 2]
    assert learned.peak_lr == pytest.approx(0.2)


def test_equal_losses_suggest_the_lowest_peak():
    trials, tried = search(lambda _: 1.0)
    assert trials.peak_lr == trials.runs[0].peak_lr
    assert min(tried) == -4


def test_a_search_that_is_ended_keeps_its_finished_runs():
    def train(lr):
        if lr > 0.1:
            raise SearchEndedError
        return [1.0]

    found = search_peak_lr(train, first=0.1, max_runs=5, steps=1)
    assert [run.peak_lr for run in found.runs] == [0.1]
    assert found.peak_lr == 0.1
    assert search_peak_lr(train, first=0.2, max_runs=5, steps=1) is None


def test_the_final_loss_is_the_mean_of_the_last_quarter():
    assert TrialRun(0.1, tuple(np.arange(100.0))).final_loss == np.arange(75.0, 100).mean()
    assert TrialRun(0.1, (5.0, 4.0, 3.0, 2.0)).final_loss == 2
    assert TrialRun(0.1, (5.0, math.nan)).final_loss == math.inf


def test_the_peak_is_the_minimum_of_the_parabola_through_the_best_and_its_neighbors():
    for left, right in np.random.default_rng(0).uniform(0.01, 1, (50, 2)):
        losses = (1 + left, 1.0, 1 + right)
        for powers in ([0, 1, 2], [0, 2, 3]):
            runs = (
                TrialRun(2.0**power, (loss,)) for power, loss in zip(powers, losses, strict=True)
            )
            trials = TrialRuns(1, tuple(runs))
            polynomial = np.polyfit(powers, losses, 2)
            vertex = -polynomial[1] / polynomial[0] / 2
            assert trials.peak_lr == pytest.approx(2**vertex)
            assert trials.min_loss == pytest.approx(np.polyval(polynomial, vertex))
            assert abs(vertex - powers[1]) <= 1
