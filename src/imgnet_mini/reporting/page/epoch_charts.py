"""The course of a run: loss, accuracy and learning rate over the epochs."""

import math
from collections.abc import Callable, Sequence

from imgnet_mini.reporting.page.axes import Axis
from imgnet_mini.reporting.page.chart import Chart, Point, Series, line_chart, mark
from imgnet_mini.reporting.readme.markdown import rate
from imgnet_mini.runs.records import PHASE_NAMES, EpochRecord, select_phase


def epoch_charts(records: Sequence[EpochRecord], best: int) -> list[Chart]:
    """Loss, accuracy and learning rate by epoch.

    records: of at least one epoch; best: the validated epoch to point out.
    """
    train, val = select_phase(records, "train"), select_phase(records, "val")
    loss, accuracy = [], []
    for phase, name in PHASE_NAMES.items():
        found = select_phase(records, phase)
        if not found and phase == "ema":
            continue
        loss.append(Series(name, phase, points(found, "loss")))
        accuracy += [
            Series(f"{name} top-1", phase, points(found, "top1")),
            Series(f"{name} top-5", f"{phase} dashed", points(found, "top5")),
        ]
    lr = [Series("at the last step", "train", points(train or val, "lr"))]
    return [
        epoch_chart("Loss", loss, print_lines=lambda value: f"{value:.3f}"),
        epoch_chart(
            "Accuracy, %",
            accuracy,
            best=best,
            best_style="ema" if select_phase(records, "ema") else "val",
            from_zero=True,
            print_lines=lambda value: f"{value:.2f}",
        ),
        epoch_chart("Learning rate", lr, from_zero=True, print_lines=rate),
    ]


def points(records: Sequence[EpochRecord], field: str) -> list[Point]:
    """A field of some records by their epoch."""
    return [(record.epoch, getattr(record, field)) for record in records]


def epoch_chart(
    title: str,
    series: Sequence[Series],
    *,
    print_lines: Callable[[float], str],
    start: float | None = None,
    best: int | None = None,
    best_style: str = "val",
    from_zero: bool = False,
) -> Chart:
    """Lines over the epochs.

    start: where the legend is read at first, the last epoch if not given; best: the same, and a
    mark is set there, on the line of a style.
    """
    shown = [one for one in series if one.points]
    x = Axis.across([across for one in shown for across, _ in one.points])
    y = Axis.up([up for one in shown for _, up in one.points], from_zero=from_zero)
    heights = {across: up for one in shown if one.style == best_style for across, up in one.points}
    height = math.nan if best is None else heights.get(best, math.nan)
    return line_chart(
        title,
        shown,
        x=x,
        y=y,
        x_label="epoch",
        say_x=lambda epoch: f"epoch {epoch:g}" + (", the best" if epoch == best else ""),
        say_y=print_lines,
        start=start if best is None else best,
        whole=True,
        marks=mark(best_style, best or 0, height, x=x, y=y),
    )
