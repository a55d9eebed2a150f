"""Diagram of the stages of a network."""

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from torch import nn

from imgnet_mini.reporting.network import Stage, count_parameters, find_stages
from imgnet_mini.reporting.style import (
    FAINT,
    GRID,
    POINTS_PER_INCH,
    TEXT,
    TRAIN,
    fit_text,
    new_figure,
    save_png,
)

# Inches, from the left; the axes are as wide as the figure and have its units.
_WIDTH = 9.6
_BOX_CENTER = 2.45
_BOX_WIDTH = 4.4
_OUTPUT = 4.95
_PARAMETERS = 7.6
_BAR = 7.75
_BAR_WIDTH = 1.6
_ROW = 0.72
_BOX_HEIGHT = 0.5
_HEAD = 1.0
_FOOT = 0.2
_BOX_COLOR = "#dbeafe"
_EMPTY_BOX_COLOR = "#f3f4f6"


def draw_network(model: nn.Module, name: str, img_size: int, path: Path) -> None:
    """Write a PNG of the stages of a torchvision network, titled `name`; `model` is not changed.

    Raises:
        WriteError: the file cannot be written.
    """
    stages = find_stages(model, img_size)
    total = count_parameters(model)
    height = _HEAD + _ROW * (len(stages) + 1) + _FOOT
    figure = new_figure(_WIDTH, height)
    figure.set_layout_engine("none")  # everything is placed by hand
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, _WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    _write_head(axes, name, total, total - sum(s.parameters for s in stages))
    image = Stage(("image",), "RGB", (3, img_size, img_size), 0)
    largest = max(stage.parameters for stage in stages)
    for row, stage in enumerate([image, *stages]):
        middle = _HEAD + _ROW * (row + 0.5)
        if row:
            _draw_arrow(axes, middle - _ROW)
        _draw_box(axes, stage, middle, width=_box_width(stage, img_size))
        _draw_numbers(axes, stage, middle, largest)
    save_png(figure, path)


def _write_head(axes: Axes, name: str, total: int, outside: int) -> None:
    axes.text(0.25, 0.32, name, fontsize=14, fontweight="bold", va="center", color=TEXT)
    note = f"{total:,} parameters"
    if outside:
        note += f", {outside:,} of them outside these stages"
    axes.text(_WIDTH - 0.25, 0.32, note, fontsize=10, ha="right", va="center", color=TEXT)
    columns = (
        (_BOX_CENTER, "stage", "center"),
        (_OUTPUT, "output shape", "left"),
        (_PARAMETERS, "parameters", "right"),
    )
    for x, label, align in columns:
        axes.text(x, 0.8, label, fontsize=8.5, ha=align, va="center", color=FAINT)


def _box_width(stage: Stage, img_size: int) -> float:
    """Return a width that shrinks with each halving of the side of the feature map."""
    side = stage.output[1] if len(stage.output) == 3 else 1
    return _BOX_WIDTH * (0.62 + 0.38 * min(1.0, math.sqrt(side / img_size)))


def _draw_box(axes: Axes, stage: Stage, middle: float, width: float) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (_BOX_CENTER - width / 2, middle - _BOX_HEIGHT / 2),
            width,
            _BOX_HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=_BOX_COLOR if stage.parameters else _EMPTY_BOX_COLOR,
            edgecolor=TRAIN if stage.parameters else FAINT,
            linewidth=1,
        )
    )
    lines = ((_title(stage.layers), -0.1, 9.5, TEXT), (stage.content, 0.11, 7.5, FAINT))
    for text, offset, size, color in lines:
        axes.text(
            _BOX_CENTER,
            middle + offset,
            fit_text(text, (width - 0.15) * POINTS_PER_INCH, size),
            fontsize=size,
            ha="center",
            va="center",
            color=color,
            parse_math=False,
        )


def _title(layers: tuple[str, ...]) -> str:
    return " · ".join(layers) if len(layers) <= 3 else f"{layers[0]} … {layers[-1]}"


def _draw_arrow(axes: Axes, above: float) -> None:
    """Draw an arrow from the box whose middle is at `above` to the next one."""
    axes.add_patch(
        FancyArrowPatch(
            (_BOX_CENTER, above + _BOX_HEIGHT / 2),
            (_BOX_CENTER, above + _ROW - _BOX_HEIGHT / 2),
            arrowstyle="-|>",
            mutation_scale=9,
            shrinkA=0,
            shrinkB=0,
            color=FAINT,
        )
    )


def _draw_numbers(axes: Axes, stage: Stage, middle: float, largest: int) -> None:
    shape = " \N{MULTIPLICATION SIGN} ".join(map(str, stage.output))
    axes.text(_OUTPUT, middle, shape, fontsize=9.5, va="center", color=TEXT)
    if not stage.parameters:
        return
    count = f"{stage.parameters:,}"
    axes.text(_PARAMETERS, middle, count, fontsize=9.5, ha="right", va="center", color=TEXT)
    axes.add_patch(Rectangle((_BAR, middle - 0.07), _BAR_WIDTH, 0.14, color=GRID, linewidth=0))
    length = _BAR_WIDTH * stage.parameters / largest
    axes.add_patch(Rectangle((_BAR, middle - 0.07), length, 0.14, color=TRAIN, linewidth=0))
