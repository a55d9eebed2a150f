"""Whether probabilities can be believed, and where the true classes come, as drawings."""

from imgnet_mini.reporting.page.axes import BOTTOM, Axis
from imgnet_mini.reporting.page.calibration import Bin, Calibration
from imgnet_mini.reporting.page.chart import Box, Chart, Line, Reading

_GAP = 1.0
"""Between bars, in units of the drawing."""


def reliability_chart(calibration: Calibration) -> Chart:
    """How often the answers of each probability are right; on the diagonal, as often as said."""
    x, y = Axis.across([0, 100]), Axis.up([0, 100])
    bins = calibration.bins
    filled = [one for one in bins if one.images]
    return Chart(
        title="Reliability, %",
        x_label="probability of the likeliest class, %",
        x_ticks=x.ticks(),
        y_ticks=y.ticks(),
        legend=[("right", "train"), ("said", "val"), ("images", "")],
        readings=[
            Reading(
                x=x.place(50 * (one.low + one.high)),
                at=_span(one),
                values=(_percent(one.accuracy), _percent(one.confidence), f"{one.images:,}"),
                heights=(y.place(100 * one.accuracy), y.place(100 * one.confidence), None),
            )
            for one in filled
        ],
        start=max(range(len(filled)), key=lambda index: filled[index].images),
        lines=[
            Line("diagonal", f"M{x.place(0):g} {y.place(0):g}L{x.place(100):g} {y.place(100):g}")
        ],
        boxes=[
            *(_bar("right", one, y.place(100 * one.accuracy), BOTTOM, x) for one in filled),
            *(_tick(one, y.place(100 * one.confidence), x) for one in filled),
        ],
    )


def confidence_chart(calibration: Calibration) -> Chart:
    """How many images were answered with which probability."""
    most = max(one.images for one in calibration.bins)
    total = sum(one.images for one in calibration.bins)
    x, y = Axis.across([0, 100]), Axis.up([0, most], from_zero=True)
    return Chart(
        title="Images by probability",
        x_label="probability of the likeliest class, %",
        x_ticks=x.ticks(),
        y_ticks=y.ticks(whole=True),
        legend=[("images", "train"), ("share", "")],
        readings=[
            Reading(
                x=x.place(50 * (one.low + one.high)),
                at=_span(one),
                values=(f"{one.images:,}", _percent(one.images / total)),
                heights=(y.place(one.images), None),
            )
            for one in calibration.bins
        ],
        start=max(range(len(calibration.bins)), key=lambda i: calibration.bins[i].images),
        boxes=[_bar("right", one, y.place(one.images), BOTTOM, x) for one in calibration.bins],
    )


def _bar(style: str, one: Bin, top: float, bottom: float, x: Axis) -> Box:
    """As wide as its bin, but for a gap beside the next one."""
    left, right = x.place(100 * one.low), x.place(100 * one.high)
    return Box(
        style, round(left + _GAP / 2, 1), top, round(right - left - _GAP, 1), round(bottom - top, 1)
    )


def _tick(one: Bin, height: float, x: Axis) -> Box:
    """A stroke across the bar."""
    return _bar("said", one, height - 1, height + 1, x)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _span(one: Bin) -> str:
    return f"{100 * one.low:.0f} to {100 * one.high:.0f} %"
