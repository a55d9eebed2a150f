"""Charts of training: loss, accuracy and learning rate by epoch, and the finder's curve."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from imgnet_mini.errors import DataError
from imgnet_mini.lr_finder.suggestions import LrRange
from imgnet_mini.reporting.finder_view import Finder, sibling_file
from imgnet_mini.reporting.format import format_lr
from imgnet_mini.reporting.page.axes import Axis
from imgnet_mini.reporting.page.chart import Chart, Point, Series, band, line_chart, marker
from imgnet_mini.runs.records import PHASE_NAMES, EpochRecord, select_phase
from imgnet_mini.utils.csv_file import read_table


def epoch_charts(records: Sequence[EpochRecord], best: int) -> list[Chart]:
    """Return loss, accuracy and learning rate by epoch.

    records: of at least one epoch; best: the validated epoch to highlight.
    """
    loss, accuracy = [], []
    for phase, name in PHASE_NAMES.items():
        of_phase = select_phase(records, phase)
        if not of_phase and phase == "ema":
            continue
        loss.append(Series(name, phase, epoch_points(of_phase, "loss")))
        accuracy += [
            Series(f"{name} top-1", phase, epoch_points(of_phase, "top1")),
            Series(f"{name} top-5", f"{phase} dashed", epoch_points(of_phase, "top5")),
        ]
    trained = select_phase(records, "train") or select_phase(records, "val")
    lr = [Series("at the last step", "train", epoch_points(trained, "lr"))]
    return [
        epoch_chart("Loss", loss, format_y="{:.3f}".format),
        epoch_chart(
            "Accuracy, %",
            accuracy,
            best=best,
            best_style="ema" if select_phase(records, "ema") else "val",
            from_zero=True,
            format_y="{:.2f}".format,
        ),
        epoch_chart("Learning rate", lr, from_zero=True, format_y=format_lr),
    ]


def epoch_points(records: Sequence[EpochRecord], field: str) -> list[Point]:
    """Return (epoch, value) of a field."""
    return [(record.epoch, getattr(record, field)) for record in records]


def epoch_chart(
    title: str,
    series: Sequence[Series],
    *,
    format_y: Callable[[float], str],
    start: float | None = None,
    best: int | None = None,
    best_style: str = "val",
    from_zero: bool = False,
) -> Chart:
    """Return lines over the epochs.

    start: epoch that the legend shows initially, by default the last; best: the same, and
    highlighted on the line of style `best_style`.
    """
    shown = [line for line in series if line.points]
    x = Axis.across([epoch for line in shown for epoch, _ in line.points])
    y = Axis.up([value for line in shown for _, value in line.points], from_zero=from_zero)
    values = {
        epoch: value for line in shown if line.style == best_style for epoch, value in line.points
    }
    value = math.nan if best is None else values.get(best, math.nan)
    return line_chart(
        title,
        shown,
        x=x,
        y=y,
        x_label="epoch",
        format_x=lambda epoch: f"epoch {epoch:g}" + (" (best)" if epoch == best else ""),
        format_y=format_y,
        start=start if best is None else best,
        whole=True,
        markers=marker(best_style, best or 0, value, x=x, y=y),
    )


def finder_chart(finder: Finder) -> Chart | None:
    """Return loss against learning rate; None if the file of the curve no longer exists.

    Raises:
        DataError: the curve is damaged.
    """
    path = sibling_file(finder.result, finder.result.curve)
    rows = _read_curve(path) if path else []
    if len(rows) < 2:
        return None
    lrs, losses, smoothed = zip(*rows, strict=True)
    x = Axis.across([*lrs, finder.lr], is_log=True)
    y = Axis.up(_loss_limits(losses, smoothed))
    nearest = min(lrs, key=lambda lr: abs(math.log(lr / finder.lr)))
    regions: dict[str, LrRange] = {
        name: region
        for name in ("flat", "falling", "diverging")
        if (region := getattr(finder.result.regions, name))
    }

    def format_x(lr: float) -> str:
        names = [name for name, (low, high) in regions.items() if low <= lr <= high][:1]
        return ", ".join([format_lr(lr), *names, *(["suggested"] if lr == nearest else [])])

    return line_chart(
        "Learning-rate finder",
        [
            Series("loss of a step", "faint", list(zip(lrs, losses, strict=True))),
            Series("smoothed", "train", list(zip(lrs, smoothed, strict=True))),
        ],
        x=x,
        y=y,
        x_label="learning rate",
        format_x=format_x,
        format_y="{:.3f}".format,
        start=nearest,
        boxes=[band(name, low, high, x) for name, (low, high) in regions.items()],
        markers=marker("train", finder.lr, smoothed[lrs.index(nearest)], x=x, y=y),
    )


def _read_curve(path: Path) -> list[tuple[float, float, float]]:
    """Read learning rate, loss and smoothed loss of each step."""
    try:
        rows = [(float(lr), float(loss), float(mean)) for lr, loss, mean in [*read_table(path)][1:]]
        if not all(0 < lr < math.inf for lr, _, _ in rows):
            raise ValueError("a learning rate is not above 0")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a curve of find-lr ({error}); remove it") from error
    return rows


def _loss_limits(losses: Sequence[float], smoothed: Sequence[float]) -> tuple[float, float]:
    """Return limits with room for the fall and 1.5 times as much above; the rest is cut off."""
    finite = [loss for loss in smoothed if math.isfinite(loss)] or [0.0]
    first = median(losses[: max(5, len(losses) // 10)])
    low = min(finite)
    return low, min(max(finite), first + max(1.5 * (first - low), 0.1 * abs(first)))
