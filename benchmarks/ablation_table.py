"""The table and the picture of `ablation.py`."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imgnet_mini.reporting.readme.blocks import replace_block
from imgnet_mini.reporting.style import (
    CORRECT,
    TRAIN,
    VALIDATION,
    WRONG,
    new_figure,
    save_png,
    style_axes,
)
from imgnet_mini.utils.atomic_file import atomic_write

BLOCK: Final = "recipes"
PICTURE: Final = Path("recipes.png")
COLORS: Final = (TRAIN, VALIDATION, CORRECT, WRONG)


@dataclass(frozen=True)
class Result:
    """One run.

    budget: epochs at the full image size whose arithmetic it was to take.
    arithmetic: what it took, the same way, by the operations of the network's layers.
    top1, top5: in percent.
    train_loss: of its last epoch.
    """

    row: str
    seed: int
    arch: str
    img_size: int
    budget: int
    epochs: int
    arithmetic: float
    top1: float
    top5: float
    train_loss: float
    torch: str
    options: str


Setting = tuple[str, int, int]
"""Network, image size, and compute of each run in epochs at that size."""


def show(results: Sequence[Result], rows: Sequence[str], page: Path | None) -> None:
    """Put the table and a plot into the page; without a page, print the table."""
    settings = _settings(results)
    text = _table(results, rows, settings)
    if page is None:
        print(text)
        return
    _draw(results, rows, settings, page.parent / PICTURE)
    picture = f"![Top-1 accuracy of every row of the table, seed by seed]({PICTURE.as_posix()})"
    content = replace_block(page.read_bytes(), f"{text}\n\n{picture}", page, block=BLOCK)
    with atomic_write(page) as file:
        file.write(content)


def _settings(results: Sequence[Result]) -> list[Setting]:
    """Return the settings, sorted by name with the largest network first."""
    found = {(result.arch, result.img_size, result.budget) for result in results}
    return sorted(found, reverse=True)


def _name(setting: Setting) -> str:
    arch, size, budget = setting
    return f"{arch}, {size} px, {budget} epochs"


def _figures(results: Sequence[Result], row: str, setting: Setting) -> list[float]:
    return [
        result.top1
        for result in results
        if result.row == row and (result.arch, result.img_size, result.budget) == setting
    ]


def _table(results: Sequence[Result], rows: Sequence[str], settings: Sequence[Setting]) -> str:
    headings = [_name(setting) for setting in settings]
    lines = [["top-1, %", *headings], [":--", *["--:"] * len(settings)]]
    for row in rows:
        cells = [_cell(_figures(results, row, setting)) for setting in settings]
        if any(cells):
            lines.append([row, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(figures: Sequence[float]) -> str:
    """Return mean, standard deviation and number of seeds."""
    if not figures:
        return ""
    mean = statistics.mean(figures)
    if len(figures) == 1:
        return f"{mean:.2f} (one seed)"
    return f"{mean:.2f} ± {statistics.stdev(figures):.2f} ({len(figures)})"


def _draw(
    results: Sequence[Result], rows: Sequence[str], settings: Sequence[Setting], path: Path
) -> None:
    """Draw a point for each run and a bar for the mean of a row."""
    shown = [row for row in rows if any(result.row == row for result in results)]
    figure = new_figure(9, 1 + 0.2 * len(shown) * len(settings))
    axes = figure.add_subplot()
    style_axes(axes)
    height = 0.8 / len(settings)
    for place, (setting, color) in enumerate(zip(settings, COLORS, strict=False)):
        figures = {row: _figures(results, row, setting) for row in shown}
        lines = {row: line - 0.4 + height * (place + 0.5) for line, row in enumerate(shown)}
        means = {row: statistics.mean(found) for row, found in figures.items() if found}
        ys = [lines[row] for row in means]
        axes.barh(
            ys, list(means.values()), 0.9 * height, color=color, alpha=0.4, label=_name(setting)
        )
        points = [(top1, lines[row]) for row, found in figures.items() for top1 in found]
        axes.plot(*zip(*points, strict=True), "o", color=color, markersize=4)
    axes.set_yticks(range(len(shown)), shown)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("top-1 accuracy, percent; a point for each seed")
    axes.legend(loc="lower right", frameon=False)
    save_png(figure, path)
