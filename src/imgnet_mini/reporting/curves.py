"""Curves of loss, accuracy and learning rate over the epochs, of one run or of several."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from imgnet_mini.reporting.run_view import RunView
from imgnet_mini.reporting.style import (
    EMA,
    SERIES,
    TRAIN,
    VALIDATION,
    fit_text,
    new_figure,
    save_png,
    style_axes,
    text_width,
)
from imgnet_mini.runs.records import (
    PHASE_NAMES,
    EpochRecord,
    Phase,
    best_record,
    select_phase,
    selection_records,
)

_COLORS: Final[dict[Phase, str]] = {"train": TRAIN, "val": VALIDATION, "ema": EMA}
_LINE_STYLES: Final = ("-", "--", ":", "-.")
_MAX_MARKERS: Final = 30
"""Up to this many epochs, each is marked with a dot."""

_LR_LABEL: Final = "learning rate at the epoch's last step"
_FONT: Final = 10.0
_LEGEND_WIDTH: Final = 500.0  # points, of the names alone
_LEGEND_COLUMNS: Final = 3


def draw_curves(records: Sequence[EpochRecord], report_dir: Path) -> None:
    """Write `loss_curve.png`, `accuracy_curve.png` and `lr_curve.png` of one run.

    records: of at least one epoch, epochs ascending; a phase may be missing.

    Raises:
        WriteError: a file cannot be written.
    """
    save_png(_loss_figure(records), report_dir / "loss_curve.png")
    save_png(_accuracy_figure(records), report_dir / "accuracy_curve.png")
    save_png(_lr_figure(records), report_dir / "lr_curve.png")


def draw_comparison(runs: Sequence[RunView], folder: Path) -> None:
    """Write the same files with one line for each run.

    Raises:
        WriteError: a file cannot be written.
    """
    for file, title, y_label, phase, field in (
        ("loss_curve.png", "Validation loss", "loss", "val", "loss"),
        ("accuracy_curve.png", "Validation top-1", "accuracy (%)", "val", "top1"),
        ("lr_curve.png", "Learning rate", _LR_LABEL, "train", "lr"),
    ):
        figure, axes = _epoch_figure(title, y_label, [r for run in runs for r in run.records])
        for index, run in enumerate(runs):
            validated = run.selection_records
            records = validated if phase == "val" else select_phase(run.records, "train")
            _plot(
                axes,
                records,
                field,
                color=SERIES[index % len(SERIES)],
                linestyle=_LINE_STYLES[index // len(SERIES) % len(_LINE_STYLES)],
                marker="o" if len(records) == 1 else None,
                label=fit_text(run.name, _LEGEND_WIDTH, _FONT),
            )
        if field != "loss":
            axes.set_ylim(bottom=0)
        widest = max(text_width(run.name, _FONT) for run in runs)
        _add_legend(figure, max(1, min(len(runs), _LEGEND_COLUMNS, int(_LEGEND_WIDTH / widest))))
        save_png(figure, folder / file)


def _loss_figure(records: Sequence[EpochRecord]) -> Figure:
    figure, axes = _epoch_figure("Loss", "loss", records)
    for phase, name in PHASE_NAMES.items():
        _plot(axes, select_phase(records, phase), "loss", label=name, color=_COLORS[phase])
    _add_legend(figure, columns=3)
    return figure


def _accuracy_figure(records: Sequence[EpochRecord]) -> Figure:
    figure, axes = _epoch_figure("Accuracy", "accuracy (%)", records)
    for phase, name in PHASE_NAMES.items():
        of_phase, color = select_phase(records, phase), _COLORS[phase]
        _plot(axes, of_phase, "top1", label=f"{name} top-1", color=color)
        dashed = {"linestyle": "--", "alpha": 0.7}
        _plot(axes, of_phase, "top5", label=f"{name} top-5", color=color, **dashed)
    best = best_record(selection_records(records))
    if best is not None and math.isfinite(best.top1):
        _mark_best(axes, best)
    axes.set_ylim(bottom=0)
    _add_legend(figure, columns=3)
    return figure


def _mark_best(axes: Axes, best: EpochRecord) -> None:
    name, color = PHASE_NAMES[best.phase], _COLORS[best.phase]
    axes.axvline(best.epoch, color=color, linewidth=0.8, linestyle=":", zorder=1)
    axes.plot(
        best.epoch,
        best.top1,
        linestyle="none",
        marker="*",
        markersize=14,
        color=color,
        markeredgecolor="white",
        zorder=4,
        label=f"best {name} top-1: {best.top1:.2f} % (epoch {best.epoch})",
    )


def _lr_figure(records: Sequence[EpochRecord]) -> Figure:
    figure, axes = _epoch_figure("Learning rate", _LR_LABEL, records)
    trained = select_phase(records, "train") or select_phase(records, "val")
    _plot(axes, trained, "lr", color=TRAIN)
    axes.set_ylim(bottom=0)
    return figure


def _epoch_figure(title: str, y_label: str, records: Sequence[EpochRecord]) -> tuple[Figure, Axes]:
    """Return an empty plot over the epochs of the records."""
    figure = new_figure(8, 5)
    axes = figure.add_subplot()
    style_axes(axes)
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel("epoch")
    axes.set_ylabel(y_label)
    epochs = [record.epoch for record in records]
    margin = max(0.5, 0.02 * (max(epochs) - min(epochs)))
    axes.set_xlim(min(epochs) - margin, max(epochs) + margin)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return figure, axes


def _plot(axes: Axes, records: Sequence[EpochRecord], field: str, **style: Any) -> None:
    if not records:
        return
    style = {"marker": "o" if len(records) <= _MAX_MARKERS else None, **style}
    epochs = [record.epoch for record in records]
    values = [getattr(record, field) for record in records]
    axes.plot(epochs, values, linewidth=1.8, markersize=4, **style)


def _add_legend(figure: Figure, columns: int) -> None:
    """Draw the legend below the plot, where it covers no curve."""
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, prop={"size": _FONT})
