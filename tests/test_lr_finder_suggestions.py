import math

import numpy as np
import pytest

from imgnet_mini.lr_finder.curve import _middle_of_longest_fall, build_curve
from imgnet_mini.lr_finder.suggestions import Regions, explain, suggest
from imgnet_mini.lr_finder.trials import TrialRun, TrialRuns

STEPS = 100
LRS = np.geomspace(1e-7, 1, STEPS)
FACTOR = LRS[1] / LRS[0]


def fall(steps=STEPS, *, center=55, depth=1.0, width=4.0, rises_from=75):
    """Flat at 6.9, steepest at `center`, rising again."""
    step = np.arange(steps)
    down = depth / (1 + np.exp(-(step - center) / width))
    up = depth * np.where(step > rises_from, ((step - rises_from) / 8) ** 2, 0)
    return 6.9 - down + up


def noise(seed, steps=STEPS, size=0.05):
    return size * np.random.default_rng(seed).standard_normal(steps)


def curve_of(losses, stopped="end", lrs=LRS, num_iter=STEPS):
    return build_curve(lrs[: len(losses)], losses, stopped, num_iter=num_iter)


def steps_apart(lr, other):
    return abs(np.log(lr / other) / np.log(FACTOR))


@pytest.mark.parametrize("center", [35, 45, 55])
def test_steepest_is_where_a_quiet_curve_falls_fastest(center):
    assert steps_apart(suggest(curve_of(fall(center=center))).steepest, LRS[center]) < 1.1


@pytest.mark.parametrize("seed", range(10))
def test_steepest_is_found_in_noise(seed):
    found = suggest(curve_of(fall() + noise(seed)))
    assert steps_apart(found.steepest, LRS[55]) < 5


def test_minimum_over_10_is_a_tenth_of_the_lowest_point():
    curve = curve_of(fall() + noise(0))
    lowest = curve.lrs[np.argmin(curve.smoothed)]
    assert suggest(curve).minimum_over_10 == pytest.approx(lowest / 10)
    assert steps_apart(lowest, LRS[np.argmin(fall())]) < 5


def test_valley_lies_in_the_fall_before_the_steepest_point():
    found = suggest(curve_of(fall()))
    assert LRS[10] < found.valley < LRS[70]


def longest_fall(values):
    """The length by the quadratic recursion of the textbook."""
    lengths = []
    for i, value in enumerate(values):
        lengths.append(1 + max((lengths[j] for j in range(i) if values[j] > value), default=0))
    return max(lengths)


@pytest.mark.parametrize("seed", range(5))
def test_valley_is_the_middle_of_a_longest_falling_subsequence(seed):
    values = np.random.default_rng(seed).integers(0, 30, 60).astype(float)
    middle = _middle_of_longest_fall(values)
    left = [value for value in values[:middle] if value > values[middle]]
    right = [value for value in values[middle + 1 :] if value < values[middle]]
    before = longest_fall(left) if left else 0
    after = longest_fall(right) if right else 0
    assert before + 1 + after == longest_fall(values)
    assert after == longest_fall(values) // 2


def test_valley_of_a_single_fall_is_its_middle():
    assert _middle_of_longest_fall(np.array([9.0, 8, 7, 6, 5, 4, 3])) == 3


def test_the_default_of_train_is_recommended_if_trial_runs_learn_too_little():
    tried = TrialRuns(100, (TrialRun(0.1, (4.7,)), TrialRun(0.4, (4.6,))), math.log(100))
    found = suggest(curve_of(np.full(STEPS, 6.9)), tried, default=0.025)
    assert (found.recommended, found.lr, found.trials) == ("default", 0.025, None)
    sentence = explain(found, tried)
    assert "No trial run of 100 steps has learned enough" in sentence
    assert "larger --budget" in sentence


def test_the_range_test_raises_the_default_but_never_lowers_it():
    turn = suggest(curve_of(fall())).turn
    raised = suggest(curve_of(fall()), default=turn / 10)
    assert (raised.recommended, raised.lr) == ("ramp", turn / 2)
    kept = suggest(curve_of(fall()), default=turn)
    assert (kept.recommended, kept.lr) == ("default", turn)
    sentence = explain(kept, None)
    assert "may raise the peak, and not lower it" in sentence
    assert f"diverges from {turn:.3g} on" in sentence


def test_the_peak_is_below_those_tried_if_all_trial_runs_diverge():
    diverged = TrialRuns(100, (TrialRun(0.01, (math.inf,)), TrialRun(0.02, (math.inf,))))
    found = suggest(curve_of(np.full(STEPS, 6.9)), diverged, default=0.02)
    assert (found.recommended, found.lr) == ("default", 0.0025)
    assert "All trial runs diverged, down to peak lr 0.01" in explain(found, diverged)


def test_trial_runs_come_before_the_range_test_and_that_before_the_default():
    tried = TrialRuns(20, (TrialRun(0.5, (1.0,)),))
    found = suggest(curve_of(fall()), tried, default=1e-6)
    assert (found.recommended, found.lr) == ("trials", 0.5)
    assert suggest(curve_of(fall()), default=1e-6).recommended == "ramp"
    assert suggest(curve_of(fall(rises_from=STEPS)), default=1e-6).recommended == "default"
    assert suggest(curve_of(np.full(STEPS, 6.9))).recommended is None


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("growth", [1.2, 2.0, 4.0])
def test_the_range_tests_suggestion_lies_outside_the_zone_where_the_losses_explode(seed, growth):
    start = 80
    explosion = np.where(np.arange(STEPS) > start, growth ** (np.arange(STEPS) - start), 0)
    losses = fall(rises_from=STEPS) + 0.1 * explosion + noise(seed, size=0.01)
    found = suggest(curve_of(losses))
    first_high = start + np.flatnonzero(losses[start:] > 6.9 - 0.5)[0]
    assert steps_apart(found.turn, LRS[first_high]) < 2
    assert found.ramp < found.regions.diverging[0] <= LRS[first_high + 1]


@pytest.mark.parametrize(("steps", "lr"), [(0, 0.4), (20, 0.4), (160, 0.2), (20_000, 0.04)])
def test_a_longer_training_gets_a_lower_peak_by_a_cube_root(steps, lr):
    tried = TrialRuns(20, (TrialRun(0.2, (2.0,)), TrialRun(0.4, (1.0,)), TrialRun(0.8, (2.0,))))
    found = suggest(curve_of(fall()), tried, steps=steps)
    assert (found.recommended, found.lr) == ("trials", pytest.approx(lr))
    sentence = explain(found, tried)
    assert "peak lr 0.4 had the lowest final loss" in sentence
    assert (f"For a training of {steps} steps the peak is lowered to {lr:g}" in sentence) == (
        steps > 20
    )


def test_divergence_starts_where_the_loss_has_risen_by_half_of_its_drop():
    loss = fall()
    found = suggest(curve_of(loss))
    first = 60 + np.flatnonzero(loss[60:] > 6.9 - 0.5)[0]
    assert steps_apart(found.turn, LRS[first]) < 3
    assert found.turn == found.regions.diverging[0]


@pytest.mark.parametrize(
    ("trials", "words"),
    [
        (None, ["Recommended: half the start of divergence."]),
        ([(0.1, 3.0), (0.2, 2.0), (0.4, 3.0)], ["Of 3 runs of 20 steps", "peak lr 0.2"]),
        ([(0.1, 2.5), (0.2, 2.0), (0.4, 3.0)], ["parabola", "minimum at 0.178"]),
        ([(0.1, 3.0), (0.2, 2.0)], ["the highest that was tried", "--budget"]),
    ],
)
def test_a_sentence_says_why(trials, words):
    tried = trials and TrialRuns(20, tuple(TrialRun(lr, (loss,)) for lr, loss in trials))
    sentence = explain(suggest(curve_of(fall()), tried), tried)
    assert all(word in sentence for word in words), sentence


def test_regions_follow_one_another():
    regions = suggest(curve_of(fall())).regions
    assert regions.flat[0] == LRS[0]
    assert regions.flat[1] == regions.falling[0] < LRS[55] < regions.falling[1]
    assert regions.falling[1] < regions.diverging[0] < regions.diverging[1] == LRS[-1]


@pytest.mark.parametrize("seed", range(30))
def test_the_steepest_point_lies_in_the_falling_region(seed):
    found = suggest(curve_of(fall(depth=0.1) + noise(seed)))
    assert found.problem or found.regions.falling[0] <= found.steepest <= found.regions.falling[1]


def test_no_region_diverges_where_the_loss_stays_low():
    found = suggest(curve_of(fall(rises_from=STEPS) + noise(0, size=0.01)))
    assert found.steepest
    assert found.regions.diverging is None


def test_no_minimum_where_the_loss_still_falls_but_ever_more_slowly():
    losses = 6.9 - 1 / (1 + np.exp(-(np.arange(STEPS) - 60) / 12))
    found = suggest(curve_of(losses))
    assert found.minimum_over_10 is None
    assert steps_apart(found.steepest, LRS[60]) < 3


def test_a_loss_that_becomes_nan_late_still_suggests():
    losses = np.append(fall(90, rises_from=90), np.nan)
    found = suggest(curve_of(losses, "nan"))
    assert steps_apart(found.steepest, LRS[55]) < 1.1
    assert found.regions.diverging == (LRS[90], LRS[90])


def test_an_explosion_does_not_move_the_steepest_point():
    losses = np.concatenate([fall(85, rises_from=85), 6.9 * 2.0 ** np.arange(1, 6)])
    found = suggest(curve_of(losses, "diverged"))
    assert steps_apart(found.steepest, LRS[55]) < 1.1
    assert found.regions.diverging[0] > LRS[75]


def assert_refused(found, *words):
    assert found.problem
    for word in words:
        assert word in found.problem
    assert found.lr is None
    assert set(found.lrs.values()) == {None}
    assert found.regions == Regions()


def test_too_few_steps_are_named():
    assert_refused(suggest(curve_of(fall(19))), "only 19 steps", "needs 20", "--num-iter")


@pytest.mark.parametrize("last", [np.nan, np.inf])
def test_a_loss_that_is_no_number_early_is_named_with_its_rate(last):
    found = suggest(curve_of([6.9] * 7 + [last], "nan"))
    assert_refused(found, f"became {last}", f"{LRS[7]:.3g}", "only 7 steps", "--start-lr")


def test_a_loss_that_diverges_early_is_named():
    found = suggest(curve_of([6.9] * 5 + [60.0] * 5, "diverged"))
    assert_refused(found, "diverged", f"{LRS[9]:.3g}", "--start-lr")


def test_a_network_that_comes_back_to_chance_has_diverged_before():
    step = np.arange(STEPS)
    hump = 0.5 * np.exp(-(((step - 80) / 8) ** 2))
    found = suggest(curve_of(4.6 - 0.1 * np.exp(-(((step - 55) / 8) ** 2)) + hump + noise(2)))
    assert LRS[60] < found.turn < LRS[80]
    assert found.ramp == found.turn / 2
    assert found.regions.diverging == (found.turn, LRS[-1])


@pytest.mark.parametrize("steps", [20, 50, 100, 300])
def test_noise_alone_seldom_looks_like_divergence(steps):
    lrs = np.geomspace(1e-7, 1, steps)
    curves = (curve_of(6.9 + noise(seed, steps), lrs=lrs, num_iter=steps) for seed in range(200))
    assert sum(suggest(curve).turn is not None for curve in curves) <= 0.16 * 200


@pytest.mark.parametrize("steps", [20, 50, 100, 300])
def test_noise_alone_seldom_looks_like_a_fall(steps):
    lrs = np.geomspace(1e-7, 1, steps)
    curves = (curve_of(6.9 + noise(seed, steps), lrs=lrs, num_iter=steps) for seed in range(200))
    assert sum(suggest(curve).problem is None for curve in curves) <= 0.05 * 200


def test_a_fall_of_twice_the_noise_is_always_seen():
    curves = (curve_of(fall(depth=0.1) + noise(seed)) for seed in range(100))
    assert not any("never falls" in (suggest(curve).problem or "") for curve in curves)


def test_a_flat_curve_asks_for_a_higher_end():
    found = suggest(curve_of(6.9 + noise(1)))
    assert_refused(found, "never falls clearly", "from 6.89", "--end-lr")


@pytest.mark.parametrize("loss", [6.9, 0.0])
def test_a_constant_curve_never_falls(loss):
    assert_refused(suggest(curve_of(np.full(STEPS, loss))), "never falls clearly")


def test_a_curve_that_only_rises_asks_for_more_steps_and_tells_where_it_diverges():
    found = suggest(curve_of(6.9 + 2 * np.linspace(0, 1, STEPS) ** 4 + noise(0)))
    assert found.problem.startswith("The loss never falls clearly")
    assert "--num-iter" in found.problem
    assert "--end-lr" not in found.problem
    assert steps_apart(found.turn, LRS[83]) < 6
    assert found.ramp == found.turn / 2
    assert found.regions.falling is None


def test_a_fall_that_is_cut_off_asks_for_a_higher_end():
    found = suggest(curve_of(6.9 - np.linspace(0, 1, STEPS) ** 3))
    assert_refused(found, "still falls fastest at the last", "--end-lr")


def test_a_fall_that_has_begun_asks_for_a_lower_start():
    found = suggest(curve_of(5 + 2 * np.exp(-np.arange(STEPS) / 8) + noise(0)))
    assert_refused(found, "fastest at the first", "--start-lr")
