"""The course of training: loss, accuracy and learning rate over the epochs."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from imgnet_mini.reporting.style import (
    AVERAGED,
    TRAIN,
    VALIDATION,
    new_figure,
    save_png,
    tidy,
)
from imgnet_mini.runs.records import (
    PHASE_NAMES,
    EpochRecord,
    Phase,
    select_phase,
    selection_records,
)

_COLORS: dict[Phase, str] = {"train": TRAIN, "val": VALIDATION, "ema": AVERAGED}

_MARKED_EPOCHS = 30
"""Up to so many epochs, each is a dot too."""


def draw_curves(records: Sequence[EpochRecord], report_dir: Path) -> None:
    """Write `loss_curve.png`, `accuracy_curve.png` and `lr_curve.png`.

    records: of at least one epoch, epochs rising; a phase may lack.

    Raises:
        WriteError: a file cannot be written.
    """
    save_png(_loss_figure(records), report_dir / "loss_curve.png")
    save_png(_accuracy_figure(records), report_dir / "accuracy_curve.png")
    lr = select_phase(records, "train") or select_phase(records, "val")
    save_png(_lr_figure(lr), report_dir / "lr_curve.png")


def _loss_figure(records: Sequence[EpochRecord]) -> Figure:
    figure, axes = epoch_figure("Loss", "loss", records)
    for phase, name in PHASE_NAMES.items():
        _plot(axes, select_phase(records, phase), "loss", label=name, color=_COLORS[phase])
    _add_legend(figure, columns=3)
    return figure


def _accuracy_figure(records: Sequence[EpochRecord]) -> Figure:
    figure, axes = epoch_figure("Accuracy", "accuracy (%)", records)
    for phase, name in PHASE_NAMES.items():
        found, color = select_phase(records, phase), _COLORS[phase]
        _plot(axes, found, "top1", label=f"{name} top-1", color=color)
        _plot(axes, found, "top5", label=f"{name} top-5", color=color, dashed=True)
    best = best_epoch(selection_records(records))
    if best is not None:
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
    axes.set_ylim(bottom=0)
    _add_legend(figure, columns=3)
    return figure


def _lr_figure(records: list[EpochRecord]) -> Figure:
    figure, axes = epoch_figure("Learning rate", "learning rate at the epoch's last step", records)
    _plot(axes, records, "lr", color=TRAIN)
    axes.set_ylim(bottom=0)
    return figure


def epoch_figure(title: str, y_label: str, records: Sequence[EpochRecord]) -> tuple[Figure, Axes]:
    """An empty plot over the epochs of these records."""
    figure = new_figure(8, 5)
    axes = figure.add_subplot()
    tidy(axes)
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel("epoch")
    axes.set_ylabel(y_label)
    epochs = [record.epoch for record in records]
    margin = max(0.5, 0.02 * (max(epochs) - min(epochs)))
    axes.set_xlim(min(epochs) - margin, max(epochs) + margin)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return figure, axes


def _plot(
    axes: Axes,
    records: list[EpochRecord],
    field: str,
    *,
    color: str,
    label: str | None = None,
    dashed: bool = False,
) -> None:
    if not records:
        return
    axes.plot(
        [record.epoch for record in records],
        [getattr(record, field) for record in records],
        color=color,
        label=label,
        linestyle="--" if dashed else "-",
        linewidth=1.8,
        alpha=0.7 if dashed else 1,
        marker="o" if len(records) <= _MARKED_EPOCHS else None,
        markersize=4,
    )


def _add_legend(figure: Figure, columns: int) -> None:
    """Below the plot, where it covers no curve."""
    figure.legend(loc="outside lower center", ncols=columns, frameon=False)


def best_epoch(val: list[EpochRecord]) -> EpochRecord | None:
    """The first epoch with the highest top-1."""
    measured = [record for record in val if math.isfinite(record.top1)]
    return max(measured, key=lambda record: record.top1, default=None)
