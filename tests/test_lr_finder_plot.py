import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from imgnet_mini.lr_finder.curve import build_curve
from imgnet_mini.lr_finder.plot import draw_range_test
from imgnet_mini.lr_finder.suggestions import Suggestions, suggest
from imgnet_mini.lr_finder.trials import TrialRun, TrialRuns

LRS = np.geomspace(1e-7, 1, 100)
STEP = np.arange(100)
FALL = 6.9 - 1 / (1 + np.exp(-(STEP - 55) / 4)) + np.where(STEP > 75, ((STEP - 75) / 8) ** 2, 0)
SETTINGS = {"arch": "resnet18", "batch_size": 64}


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Draw, and give back the figure that was written."""
    figures = []
    save = Figure.savefig

    def watch(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", watch)

    def draw(curve, suggestions, settings=SETTINGS, **more):
        path = tmp_path / "plot.png"
        draw_range_test(curve, suggestions, settings, path, **more)
        with Image.open(path) as image:
            assert image.format == "PNG"
        return figures[-1]

    return draw


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_each_suggestion_is_marked_on_the_curve_with_its_value(drawn):
    curve = build_curve(LRS, FALL, "end", num_iter=100)
    found = suggest(curve)
    figure = drawn(curve, found)
    assert f"half the start of divergence: {found.ramp:.3g} (recommended)" in legend(figure)
    assert f"steepest descent: {found.steepest:.3g}" in legend(figure)
    assert f"valley: {found.valley:.3g}" in legend(figure)
    assert f"minimum / 10: {found.minimum_over_10:.3g}" in legend(figure)
    (axes,) = figure.axes
    for name, lr in (("steepest", found.steepest), ("valley", found.valley)):
        (marker,) = [line for line in axes.lines if str(line.get_label()).startswith(name)]
        assert marker.get_xdata()[0] == lr
        assert marker.get_ydata()[0] == pytest.approx(curve.smoothed[np.argmin(abs(LRS - lr))])


def test_the_ranges_are_shaded(drawn):
    curve = build_curve(LRS, FALL, "end", num_iter=100)
    assert {"flat", "falling", "diverging"} <= set(legend(drawn(curve, suggest(curve))))


def test_the_title_names_network_and_batch_size(drawn):
    curve = build_curve(LRS, FALL, "end", num_iter=100)
    (axes,) = drawn(curve, suggest(curve)).axes
    assert axes.get_title(loc="left") == "Learning-rate range test, resnet18, batch size 64"
    (axes,) = drawn(curve, suggest(curve), {}).axes
    assert axes.get_title(loc="left") == "Learning-rate range test"


def test_a_problem_is_in_the_title_and_nothing_is_marked(drawn):
    curve = build_curve(LRS, np.full(100, 6.9), "end", num_iter=100)
    figure = drawn(curve, suggest(curve))
    (axes,) = figure.axes
    assert "It suggests nothing. The loss never falls clearly" in axes.get_title(loc="left")
    assert len(axes.lines) == len(legend(figure)) == 2


def test_the_fall_fills_the_plot_however_high_the_loss_explodes(drawn):
    losses = np.where(STEP < 90, FALL, 1e6)
    curve = build_curve(LRS, losses, "diverged", num_iter=100)
    (axes,) = drawn(curve, suggest(curve)).axes
    low, high = axes.get_ylim()
    assert low < losses.min() < 6.9 < high < 10


@pytest.mark.parametrize(
    ("first", "last"), [(1e-7, 1), (1e-8, 100), (1e-3, 5e-2), (0.02, 0.05), (0.01, 0.0102)]
)
def test_the_rates_have_readable_ticks(drawn, first, last):
    curve = build_curve(np.geomspace(first, last, 100), FALL, "end", num_iter=100)
    (axes,) = drawn(curve, suggest(curve)).axes
    left, right = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if left <= tick <= right]
    assert 1 <= len(ticks) <= 16
    labels = [float(axes.xaxis.get_major_formatter()(tick)) for tick in ticks]
    assert labels == pytest.approx(ticks)


@pytest.mark.parametrize("losses", [[np.nan], [6.9], [6.9, np.inf], [6.9] * 8])
def test_a_test_of_hardly_any_steps_is_drawn_too(drawn, losses):
    curve = build_curve(LRS[: len(losses)], losses, "nan", num_iter=100)
    drawn(curve, suggest(curve))


def test_a_suggestion_below_the_first_rate_is_in_the_picture(drawn):
    curve = build_curve(LRS, FALL, "end", num_iter=100)
    (axes,) = drawn(curve, Suggestions(steepest=1e-3, minimum_over_10=1e-8)).axes
    assert axes.get_xlim()[0] < 1e-8


def test_names_are_not_read_as_formulas(drawn):
    curve = build_curve(LRS, FALL, "end", num_iter=100)
    (axes,) = drawn(curve, suggest(curve), {"arch": r"$\frac$", "batch_size": 2}).axes
    assert r"$\frac$" in axes.get_title(loc="left")


def test_no_figure_is_left_open(tmp_path):
    curve = build_curve(LRS, FALL, "end", num_iter=100)
    draw_range_test(curve, suggest(curve), SETTINGS, tmp_path / "plot.png")
    assert plt.get_fignums() == []


def test_trials_have_a_panel_with_their_best_and_the_reason(drawn):
    curve = build_curve(LRS, FALL, "end", num_iter=100)
    runs = [(0.05, 4.0), (0.1, 3.0), (0.2, 3.5), (0.4, np.inf)]
    trials = TrialRuns(30, tuple(TrialRun(lr, (loss,)) for lr, loss in runs))
    figure = drawn(curve, suggest(curve, trials), trials=trials)
    above, below = figure.axes
    assert f"trial runs: {trials.peak_lr:.3g} (recommended)" in legend(figure)
    assert "Recommended: trial runs" in below.get_title(loc="left")
    points, *_ = below.lines
    np.testing.assert_array_equal(points.get_xydata(), runs[:3])
    (star,) = [line for line in below.lines if line.get_marker() == "*"]
    assert star.get_xydata().tolist() == [[trials.peak_lr, trials.min_loss]]
    assert [text.get_text() for text in below.texts] == ["diverged "]
    assert "Learning-rate range test" in above.get_title(loc="left")


def test_the_lower_peak_of_a_longer_training_is_in_view(drawn):
    curve = build_curve(LRS, FALL, "end", num_iter=100)
    trials = TrialRuns(30, tuple(TrialRun(lr, (loss,)) for lr, loss in ((0.1, 2.0), (0.2, 3.0))))
    found = suggest(curve, trials, steps=30_000)
    _, below = drawn(curve, found, trials=trials).axes
    assert found.trials == pytest.approx(0.01)
    assert any(set(line.get_xdata()) == {found.trials} for line in below.lines)
    assert below.get_xlim()[0] < found.trials
    assert "For a training of 30000 steps" in below.get_title(loc="left").replace("\n", " ")


def test_trials_are_drawn_beside_the_loss_of_chance(drawn):
    curve = build_curve(LRS, FALL, "end", num_iter=100)
    trials = TrialRuns(30, (TrialRun(0.1, (5.1,)), TrialRun(0.4, (4.7,))), 4.605)
    _, below = drawn(curve, suggest(curve, trials, default=0.1), trials=trials).axes
    assert "the peak of train without --max-lr" in below.get_title(loc="left")
    assert [text.get_text() for text in below.texts] == ["chance"]
    assert any(set(line.get_ydata()) == {4.605} for line in below.lines)
    assert not any(line.get_marker() == "*" for line in below.lines)


def test_trials_that_all_diverge_are_drawn_too(drawn):
    curve = build_curve(LRS[:1], [np.nan], "nan", num_iter=100)
    trials = TrialRuns(30, (TrialRun(0.1, (np.inf,)),))
    _, below = drawn(curve, suggest(curve, trials), trials=trials).axes
    assert below.get_title(loc="left") == "All trial runs diverged."
