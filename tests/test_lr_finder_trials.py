import math

import numpy as np
import pytest

from imgnet_mini.lr_finder.trials import Trial, Trials, search_peak


def search(loss_of, *, most=6, first=0.1, chance=math.inf):
    """With trainings whose loss is a function of the number of doublings; also what was tried."""
    tried = []

    def train(lr):
        tried.append(round(math.log2(lr / first)))
        return [9.0, 9.0, 9.0, loss_of(math.log2(lr / first))]

    return search_peak(train, first=first, most=most, steps=4, chance=chance), tried


@pytest.mark.parametrize(
    ("peak", "tried"),
    [
        (1.2, [0, 2, 4, 3, 1]),
        (2.4, [0, 2, 4, 3, 1]),
        (-0.6, [0, 2, 4, 1, -1, -2]),
        (4.9, [0, 2, 4, 5, 6]),
    ],
)
def test_it_goes_on_until_the_best_lies_between_two(peak, tried):
    trials, rates = search(lambda power: (power - peak) ** 2)
    assert rates == tried
    assert trials.lr == pytest.approx(0.1 * 2**peak)
    assert trials.lowest == pytest.approx(0, abs=1e-9)
    assert [run.lr for run in trials.runs] == sorted(run.lr for run in trials.runs)


def test_no_more_are_made_than_are_allowed_and_the_best_of_an_end_stands():
    trials, tried = search(lambda power: -power, most=4)
    assert tried == [0, 2, 4, 5]
    assert (trials.lr, trials.lowest) == (3.2, -5)
    trials, tried = search(lambda power: -power, most=1)
    assert (tried, trials.lr) == ([0], 0.1)


def test_what_diverges_is_not_gone_beyond():
    trials, tried = search(lambda power: math.nan if power > 0 else -power)
    assert tried == [0, 2, 4, 1, -1]
    assert trials.lr == 0.1


def test_the_search_goes_down_from_where_all_diverge():
    trials, tried = search(lambda power: math.inf if power > -2 else -power)
    assert tried == [0, 2, 4, -1, -2, -3]
    assert trials.lr == pytest.approx(0.1 / 4)


def test_where_all_diverge_there_is_no_rate():
    trials, _ = search(lambda _: math.nan)
    assert trials.lr is None
    assert trials.best.loss == math.inf


def test_trials_that_have_learnt_too_little_suggest_nothing_and_are_not_gone_on_with():
    def explode(power):  # the higher the rate, the sooner the network says the same of all images
        return 4.605 + 0.5 / 2**power

    trials, tried = search(explode, chance=math.log(100))
    assert tried == [0, 2, 4]
    assert not trials.have_learnt
    assert trials.lr is None
    assert trials.best.loss < math.inf
    a_little, _ = search(lambda power: 4.2 + (power - 2) ** 2, chance=math.log(100))
    assert not a_little.have_learnt
    learnt, tried = search(lambda power: 4.1 + (power - 2) ** 2, chance=math.log(100))
    assert tried == [0, 2, 4, 3, 1]
    assert learnt.lr == pytest.approx(0.4)


def test_equal_losses_suggest_the_lowest_rate():
    trials, tried = search(lambda _: 1.0)
    assert trials.lr == trials.runs[0].lr
    assert min(tried) == -2


def test_the_last_quarter_of_the_steps_is_judged():
    assert Trial(0.1, tuple(np.arange(100.0))).loss == np.arange(75.0, 100).mean()
    assert Trial(0.1, (5.0, 4.0, 3.0, 2.0)).loss == 2
    assert Trial(0.1, (5.0, math.nan)).loss == math.inf


def test_the_peak_is_that_of_the_parabola_through_the_best_and_its_neighbours():
    for left, right in np.random.default_rng(0).uniform(0.01, 1, (50, 2)):
        losses = (1 + left, 1.0, 1 + right)
        for powers in ([0, 1, 2], [0, 2, 3]):
            runs = (Trial(2.0**power, (loss,)) for power, loss in zip(powers, losses, strict=True))
            trials = Trials(1, tuple(runs))
            polynomial = np.polyfit(powers, losses, 2)
            vertex = -polynomial[1] / polynomial[0] / 2
            assert trials.lr == pytest.approx(2**vertex)
            assert trials.lowest == pytest.approx(np.polyval(polynomial, vertex))
            assert abs(vertex - powers[1]) <= 1
