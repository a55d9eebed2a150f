"""The course of a run: loss, accuracy and learning rate over the epochs."""

import math
from collections.abc import Callable, Sequence

from imgnet_mini.records import EpochRecord
from imgnet_mini.reporting.page.axes import Axis
from imgnet_mini.reporting.page.chart import Chart, Point, Series, line_chart, mark
from imgnet_mini.reporting.readme.markdown import rate


def epoch_charts(records: Sequence[EpochRecord], best: int) -> list[Chart]:
    """Loss, accuracy and learning rate by epoch.

    records: of at least one epoch; best: the validated epoch to point out.
    """
    train = [record for record in records if record.phase == "train"]
    val = [record for record in records if record.phase == "val"]
    loss = [
        Series("train", "train", points(train, "loss")),
        Series("validation", "val", points(val, "loss")),
    ]
    accuracy = [
        Series("train top-1", "train", points(train, "top1")),
        Series("train top-5", "train dashed", points(train, "top5")),
        Series("validation top-1", "val", points(val, "top1")),
        Series("validation top-5", "val dashed", points(val, "top5")),
    ]
    lr = [Series("at the last step", "train", points(train or val, "lr"))]
    return [
        epoch_chart("Loss", loss, say=lambda value: f"{value:.3f}"),
        epoch_chart("Accuracy, %", accuracy, best=best, from_zero=True, say=lambda v: f"{v:.2f}"),
        epoch_chart("Learning rate", lr, from_zero=True, say=rate),
    ]


def points(records: Sequence[EpochRecord], field: str) -> list[Point]:
    """A field of some records by their epoch."""
    return [(record.epoch, getattr(record, field)) for record in records]


def epoch_chart(
    title: str,
    series: Sequence[Series],
    *,
    say: Callable[[float], str],
    start: float | None = None,
    best: int | None = None,
    from_zero: bool = False,
) -> Chart:
    """Lines over the epochs.

    start: where the legend is read at first, the last epoch if not given; best: the same, and a
    mark is set there.
    """
    shown = [one for one in series if one.points]
    x = Axis.across([across for one in shown for across, _ in one.points])
    y = Axis.up([up for one in shown for _, up in one.points], from_zero=from_zero)
    heights = {across: up for one in shown if one.style == "val" for across, up in one.points}
    height = math.nan if best is None else heights.get(best, math.nan)
    return line_chart(
        title,
        shown,
        x=x,
        y=y,
        x_label="epoch",
        say_x=lambda epoch: f"epoch {epoch:g}" + (", the best" if epoch == best else ""),
        say_y=say,
        start=start if best is None else best,
        whole=True,
        marks=mark("val", best or 0, height, x=x, y=y),
    )
