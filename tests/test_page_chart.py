from math import inf, nan

import pytest

from imgnet_mini.reporting.format import UNKNOWN
from imgnet_mini.reporting.page.axes import BOTTOM, LEFT, RIGHT, TOP, Axis
from imgnet_mini.reporting.page.chart import Series, band, line_chart
from imgnet_mini.reporting.page.run_charts import epoch_chart


def draw(*series, **options):
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points]
    options = {"format_x": str, "format_y": str, "x_label": "x", **options}
    return line_chart("t", series, x=Axis.across(xs), y=Axis.up(ys), **options)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0, 10], ["0", "2", "4", "6", "8", "10"]),
        ([6.9, 4.1], ["4", "4.5", "5", "5.5", "6", "6.5", "7"]),
        ([0, 0.0046], ["0", "0.001", "0.002", "0.003", "0.004", "0.005"]),
    ],
)
def test_ticks_are_round_and_hold_all_values(values, texts):
    axis = Axis.up(values)
    ticks = axis.ticks()
    assert [tick.text for tick in ticks] == texts
    assert axis.low <= min(values) <= max(values) <= axis.high
    assert all(TOP <= tick.place <= BOTTOM for tick in ticks)


@pytest.mark.parametrize("last", [0, 1, 2, 19, 20, 299, 1000])
def test_epochs_have_whole_ticks(last):
    ticks = Axis.across([0, last]).ticks(whole=True)
    assert 1 <= len(ticks) <= 8
    assert all(tick.text.isdigit() for tick in ticks)


def test_a_log_axis_gives_each_decade_the_same_room():
    axis = Axis.across([1e-6, 1e-2], is_log=True)
    assert [axis.place(10.0**power) for power in (-6, -4, -2)] == [
        LEFT,
        (LEFT + RIGHT) / 2,
        RIGHT,
    ]
    assert [tick.text for tick in axis.ticks()] == ["1e-6", "1e-5", "1e-4", "0.001", "0.01"]


@pytest.mark.parametrize("values", [[], [nan], [inf, nan], [0.0], [1e-300, 1e300]])
def test_any_values_make_an_axis(values):
    for axis in (Axis.up(values), Axis.up(values, from_zero=True), Axis.across(values)):
        assert axis.low < axis.high
        assert all(abs(axis.place(value)) < 1e4 for value in (-1e9, 0.0, 1e9))
        axis.ticks()


def test_a_value_that_is_not_finite_leaves_a_gap():
    chart = draw(Series("s", "train", [(0, 1.0), (1, nan), (2, 3.0), (3, inf), (4, 2.0)]))
    (line,) = chart.lines
    assert line.path.count("M") == 3
    assert "nan" not in line.path
    assert chart.readouts[1].values == (UNKNOWN,)
    assert chart.readouts[1].heights == (None,)


def test_the_legend_reads_every_series_at_every_place():
    chart = draw(
        Series("a", "train", [(0, 1.0), (1, 2.0)]),
        Series("b", "val", [(1, 5.0), (2, 6.0)]),
        start=1,
    )
    assert [readout.values for readout in chart.readouts] == [
        ("1.0", UNKNOWN),
        ("2.0", "5.0"),
        (UNKNOWN, "6.0"),
    ]
    assert chart.start == 1
    assert chart.summary == "t; 1: a 2.0, b 5.0"


def test_a_line_of_few_points_has_dots_and_one_of_many_has_none():
    few, many = ([(x, float(x)) for x in range(count)] for count in (30, 31))
    assert len(draw(Series("s", "train", few)).lines[0].dots) == 30
    assert draw(Series("s", "train", many)).lines[0].dots == ()


def test_a_band_covers_its_part_of_the_axis():
    axis = Axis.across([0, 10])
    box = band("flat", 0, 5, axis)
    assert (box.x, box.width, box.y, box.height) == (LEFT, (RIGHT - LEFT) / 2, TOP, BOTTOM - TOP)


def test_the_best_epoch_is_marked_and_read_first():
    series = [Series("v", "val", [(0, 10.0), (1, 30.0), (2, 20.0)])]
    chart = epoch_chart("t", series, format_y=str, best=1, from_zero=True)
    (marker,) = chart.markers
    assert (marker.x, marker.y) == (chart.readouts[1].x, chart.readouts[1].heights[0])
    assert chart.readouts[chart.start].label == "epoch 1 (best)"
