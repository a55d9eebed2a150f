import numpy as np
import pytest

from imgnet_mini.lr_finder.curve import averaged_steps, build_curve, smooth


def weighted_lines(losses, width):
    """The value at each step of the line that fits best there, by numpy's own least squares."""
    steps = np.arange(losses.size)
    fitted = []
    for step in steps:
        root_weights = np.exp(-0.25 * ((steps - step) / width) ** 2)
        slope_and_value = np.polyfit(steps - step, losses, 1, w=root_weights)
        fitted.append(slope_and_value[1])
    return np.array(fitted)


@pytest.mark.parametrize(("steps", "width"), [(2, 1.0), (20, 1.0), (100, 5.0), (37, 3.3)])
def test_smoothing_is_the_best_line_at_each_step(steps, width):
    losses = 7 + 0.05 * np.random.default_rng(0).standard_normal(steps)
    np.testing.assert_allclose(smooth(losses, std=width), weighted_lines(losses, width), rtol=1e-4)


def test_a_line_stays_a_line_up_to_both_ends():
    line = 7 - 0.01 * np.arange(50)
    np.testing.assert_allclose(smooth(line, std=4), line, rtol=1e-12)


def test_a_minimum_stays_at_its_step():
    losses = 6 + ((np.arange(101) - 60) / 50) ** 2
    assert np.argmin(smooth(losses, std=5)) == 60


def test_how_high_a_loss_explodes_changes_nothing():
    losses = np.concatenate([np.linspace(7, 6, 60), np.full(10, 1e2)])
    higher = np.where(losses > 10, 1e30, losses)
    np.testing.assert_array_equal(smooth(losses, std=4), smooth(higher, std=4))


def test_a_smoothed_loss_is_as_precise_as_the_mean_of_so_many():
    noise = np.random.default_rng(0).standard_normal((2000, 100))
    middle = [smooth(row, std=5)[50] for row in noise]
    assert np.var(middle) == pytest.approx(1 / averaged_steps(100), rel=0.1)


@pytest.mark.parametrize("losses", [[], [6.9], [np.nan], [6.9, np.inf]])
def test_a_curve_of_next_to_nothing_is_still_a_curve(losses):
    curve = build_curve(np.geomspace(1, 2, len(losses)), losses, "nan", num_iter=100)
    assert curve.finite_steps == sum(map(np.isfinite, losses))
    np.testing.assert_array_equal(np.isfinite(curve.smoothed), np.isfinite(curve.losses))
