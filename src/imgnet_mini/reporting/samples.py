"""A grid of validation images with what they are and what they were taken for."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image, ImageOps

from imgnet_mini.errors import DataError
from imgnet_mini.reporting.style import (
    GRID,
    POINTS_PER_INCH,
    RIGHT,
    TEXT,
    WRONG,
    fit,
    new_figure,
    save_png,
)
from imgnet_mini.runs.predictions import Predictions

COLUMNS = 6
ROWS = 4

_SIDE = 2.0  # inches, of one image
_BESIDE = 0.06  # gaps, in sides
_ABOVE = 0.22
_FONT = 8.0
_PIXELS = 320


def draw_samples(
    predictions: Predictions,
    names: Sequence[str],
    val_dir: Path,
    report_dir: Path,
    read_image: Callable[[Path], Image.Image],
) -> None:
    """Write `samples.png`: up to 24 images, in class order, the true class above the predicted one.

    An image that can no longer be read is named in its place.

    predictions: of at least one image; names: display name per class; read_image: decodes a
    file to RGB, as it was decoded for the network, or raises a DataError.

    Raises:
        WriteError: the file cannot be written.
    """
    chosen = choose_samples(predictions, ROWS * COLUMNS)
    columns = min(COLUMNS, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    width, height = columns + (columns - 1) * _BESIDE, rows + (rows - 1) * _ABOVE
    figure = new_figure(_SIDE * width, _SIDE * height)
    figure.set_layout_engine("none")
    spaces = {"left": 0, "right": 1, "bottom": 0, "top": 1, "wspace": _BESIDE, "hspace": _ABOVE}
    grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw=spaces)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, index in zip(grid.flat, chosen, strict=False):
        _draw_image(axes, predictions.images[index], val_dir, read_image)
        _write_title(axes, predictions, index, names)
    save_png(figure, report_dir / "samples.png")


def _draw_image(
    axes: Axes, image: str, val_dir: Path, read_image: Callable[[Path], Image.Image]
) -> None:
    try:
        pixels = read_image(val_dir / image)
    except DataError:
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.add_patch(Rectangle((0, 0), 1, 1, facecolor=GRID))
        inside = 0.9 * _SIDE * POINTS_PER_INCH
        for line, height in (("no longer readable:", 0.56), (Path(image).name, 0.44)):
            text = fit(line, inside, _FONT)
            axes.text(0.5, height, text, ha="center", va="center", fontsize=_FONT, parse_math=False)
    else:
        axes.imshow(ImageOps.fit(pixels, (_PIXELS, _PIXELS)))


def choose_samples(predictions: Predictions, count: int) -> list[int]:
    """Positions of up to `count` images, always the same ones, by class.

    Half of them were recognised and half not, as far as there are enough of each; of as many
    classes as there are.
    """
    targets = predictions.targets
    is_right = predictions.top[:, 0] == targets
    right, wrong = np.flatnonzero(is_right), np.flatnonzero(~is_right)
    wrong_count = min(len(wrong), max(count // 2, count - len(right)))
    right_count = min(len(right), count - wrong_count)
    chosen = _spread(wrong, targets, wrong_count)
    other = right[~np.isin(targets[right], targets[chosen])]
    if len(np.unique(targets[other])) >= right_count:
        right = other
    chosen += _spread(right, targets, right_count)
    return sorted(chosen, key=lambda index: (targets[index], index))


def _spread(indices: NDArray[np.int64], targets: NDArray[np.int64], count: int) -> list[int]:
    """`count` of these positions from as many classes, and as far apart, as there are."""
    seen: Counter[int] = Counter()
    entries: list[tuple[int, int, int]] = []
    for index in indices.tolist():
        target = int(targets[index])
        entries.append((seen[target], target, index))
        seen[target] += 1
    ordered = [index for _, _, index in sorted(entries)]  # one of each class before a second one
    pool = ordered[: max(count, len(seen))]
    return [pool[place] for place in np.linspace(0, len(pool) - 1, count).astype(int)]


def _write_title(axes: Axes, predictions: Predictions, index: int, names: Sequence[str]) -> None:
    target, predicted = predictions.targets[index], predictions.top[index, 0]
    percent = f"{100 * predictions.probabilities[index, 0]:.0f} %"
    mark, color = ("✓", RIGHT) if target == predicted else ("✗", WRONG)
    lines = (
        (f"true: {names[target]}", 16, TEXT),
        (f"{mark} {percent} {names[predicted]}", 4, color),
    )
    for line, height, line_color in lines:
        axes.annotate(
            fit(line, _SIDE * POINTS_PER_INCH, _FONT),
            (0.5, 1),
            xytext=(0, height),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            fontsize=_FONT,
            color=line_color,
            parse_math=False,
        )
