"""The course of several runs in one picture each: loss, accuracy and learning rate."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.figure import Figure

from imgnet_mini.reporting.curves import epoch_figure
from imgnet_mini.reporting.readme.run_view import RunView
from imgnet_mini.reporting.style import fit, save_png, text_width
from imgnet_mini.runs.records import Phase, select_phase

_COLOURS = colormaps["tab10"].colors  # type: ignore[attr-defined]
_STYLES = ("-", "--", ":", "-.")
_FONT = 10.0
_LEGEND_WIDTH = 500.0  # points, of its names alone
_LEGEND_COLUMNS = 3


def draw_comparison(runs: Sequence[RunView], folder: Path) -> None:
    """Write `loss_curve.png`, `accuracy_curve.png` and `lr_curve.png`: a line per run.

    Raises:
        WriteError: a file cannot be written.
    """
    loss = _draw(runs, "Validation loss", "loss", "val", "loss")
    save_png(loss, folder / "loss_curve.png")
    accuracy = _draw(runs, "Validation top-1", "accuracy (%)", "val", "top1")
    save_png(accuracy, folder / "accuracy_curve.png")
    lr = _draw(runs, "Learning rate", "learning rate at the epoch's last step", "train", "lr")
    save_png(lr, folder / "lr_curve.png")


def _draw(runs: Sequence[RunView], title: str, y_label: str, phase: Phase, field: str) -> Figure:
    figure, axes = epoch_figure(title, y_label, [one for run in runs for one in run.records])
    for place, run in enumerate(runs):
        records = run.selection_records if phase == "val" else select_phase(run.records, phase)
        axes.plot(
            [record.epoch for record in records],
            [getattr(record, field) for record in records],
            color=_COLOURS[place % len(_COLOURS)],
            linestyle=_STYLES[place // len(_COLOURS) % len(_STYLES)],
            linewidth=1.8,
            marker="o" if len(records) == 1 else None,
            markersize=4,
            label=fit(run.name, _LEGEND_WIDTH, _FONT),
        )
    if field != "loss":
        axes.set_ylim(bottom=0)
    widest = max(text_width(run.name, _FONT) for run in runs)
    columns = max(1, min(len(runs), _LEGEND_COLUMNS, int(_LEGEND_WIDTH / widest)))
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, prop={"size": _FONT})
    return figure
