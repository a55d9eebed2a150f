"""Which class was taken for which, as a table and as a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from imgnet_mini.reporting.style import (
    FAINT,
    POINTS_PER_INCH,
    TEXT,
    fit,
    new_figure,
    save_png,
    text_width,
)
from imgnet_mini.runs.predictions import Predictions
from imgnet_mini.utils.csv_file import write_table

NUMBERED_CLASSES = 20
NAMED_CLASSES = 60
"""Up to so many classes each cell holds its count, and each row its name."""

_NAME_WIDTH = 150.0  # points
_SMALLEST_DOT = 2.2  # points; a smaller one is lost when the picture is shown reduced

# Zero is white and the least share already a clear orange, so that single errors are seen.
_COLORS = ListedColormap(colormaps["magma_r"](np.linspace(0.2, 0.95, 256)))
_SHARE = Normalize(0, 1)


def count_confusions(predictions: Predictions) -> NDArray[np.int64]:
    """(C, C): row, the true class; column, the likeliest one."""
    size = len(predictions.classes)
    cells = predictions.targets * size + predictions.top[:, 0]
    return np.bincount(cells, minlength=size * size).reshape(size, size)


def write_confusion_csv(
    counts: NDArray[np.int64], classes: Sequence[str], report_dir: Path
) -> None:
    """Write `confusion_matrix.csv`: a row per true class, a column per predicted one.

    counts: (C, C), a row per true class; classes: C folder names.

    Raises:
        WriteError: the file cannot be written.
    """
    rows = ([name, *row] for name, row in zip(classes, counts.tolist(), strict=True))
    write_table(report_dir / "confusion_matrix.csv", ["true/predicted", *classes], rows)


def draw_confusion(counts: NDArray[np.int64], names: Sequence[str], report_dir: Path) -> None:
    """Write `confusion_matrix.png`.

    Raises:
        WriteError: the file cannot be written.
    """
    save_png(confusion_figure(counts, names), report_dir / "confusion_matrix.png")


def confusion_figure(counts: NDArray[np.int64], names: Sequence[str]) -> Figure:
    """Colour is the share of the true class's images.

    counts: (C, C), a row per true class; names: C display names.
    """
    size = len(names)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(10.0, max(3.0, 0.5 * size))  # inches, of the matrix alone
    figure = new_figure(side, side)
    figure.set_layout_engine("none")  # the matrix fills it; labels and colour bar lie outside
    axes = figure.add_axes((0, 0, 1, 1))
    _draw_cells(axes, shares, cell=side / size)
    _label_axes(axes, names, cell=side / size)
    if size <= NUMBERED_CLASSES:
        _write_counts(axes, counts, shares)
    _add_color_bar(figure, side)
    return figure


def _draw_cells(axes: Axes, shares: NDArray[np.float64], cell: float) -> None:
    """As squares where they are large enough, else as dots that may overlap; `cell` in inches."""
    size = len(shares)
    if cell * POINTS_PER_INCH >= _SMALLEST_DOT:
        image = np.ma.masked_equal(shares, 0)
        axes.imshow(image, cmap=_COLORS, norm=_SHARE, interpolation="nearest")
    else:
        rows, columns = np.nonzero(shares)
        values = shares[rows, columns]
        order = np.argsort(values, kind="stable")  # the largest on top
        axes.scatter(
            columns[order],
            rows[order],
            c=values[order],
            s=_SMALLEST_DOT**2,
            marker="s",
            linewidths=0,
            cmap=_COLORS,
            norm=_SHARE,
        )
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal")


def _label_axes(axes: Axes, names: Sequence[str], cell: float) -> None:
    size = len(names)
    axes.spines[:].set_color(FAINT)
    axes.tick_params(color=FAINT, labelcolor=TEXT)
    if size > NAMED_CLASSES:
        unit = "class index, in the order of confusion_matrix.csv"
        axes.set_xlabel(f"predicted ({unit})")
        axes.set_ylabel(f"true ({unit})")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=10, integer=True))
        return
    font = min(9.0, 0.8 * cell * POINTS_PER_INCH)
    labels = [fit(name, _NAME_WIDTH, font) for name in names]
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    is_wide = max(text_width(label, font) for label in labels) > 0.9 * cell * POINTS_PER_INCH
    rotation = 90 if is_wide else 0
    axes.set_xticks(range(size), labels, rotation=rotation, fontsize=font, parse_math=False)
    axes.set_yticks(range(size), labels, fontsize=font, parse_math=False)


def _write_counts(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    for (row, column), count in np.ndenumerate(counts):
        color = FAINT if count == 0 else "white" if shares[row, column] > 0.3 else "black"
        axes.text(column, row, f"{count}", ha="center", va="center", fontsize=8, color=color)


def _add_color_bar(figure: Figure, side: float) -> None:
    axes = figure.add_axes((1 + 0.2 / side, 0.1, 0.2 / side, 0.8))
    bar = figure.colorbar(ScalarMappable(_SHARE, _COLORS), cax=axes)
    bar.set_label("share of the true class's images (white: none)", color=TEXT)
    bar.outline.set_visible(False)
