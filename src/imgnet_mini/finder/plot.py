"""The picture of a range test."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from imgnet_mini.atomic_file import replacing
from imgnet_mini.finder.curve import Curve
from imgnet_mini.finder.suggestions import Suggestions

_LINE = "#1f77b4"
_FAINT = "#6e7781"
_GRID = "#d8dee4"
_METHODS = {
    "steepest": ("steepest descent", "o", "#c62828"),
    "valley": ("valley", "s", "#7b3fa0"),
    "minimum_over_10": ("minimum / 10", "D", "#d95f02"),
}
_REGIONS = {"flat": "#6e7781", "falling": "#1a7f37", "diverging": "#c62828"}


def draw_range_test(
    curve: Curve, suggestions: Suggestions, settings: dict[str, Any], path: Path
) -> None:
    """Write the plot as PNG: loss against learning rate, the suggestions marked on it.

    settings: its `arch` and `batch_size`, if there, are named in the title.

    Raises:
        WriteError: the file cannot be written.
    """
    figure = Figure(figsize=(9, 6), dpi=150, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    _prepare(axes, curve, suggestions)
    axes.plot(curve.lrs, curve.losses, color=_LINE, alpha=0.35, linewidth=1, label="loss of a step")
    axes.plot(curve.lrs, curve.smoothed, color=_LINE, linewidth=2.4, label="smoothed, peaks cut")
    if suggestions.problem is None:
        _shade(axes, suggestions)
        _mark(axes, curve, suggestions)
    axes.set_title(
        _title(suggestions, settings),
        loc="left",
        parse_math=False,
        fontsize=11,
    )
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    with replacing(path) as file:
        figure.savefig(file, format="png")


def _prepare(axes: Axes, curve: Curve, suggestions: Suggestions) -> None:
    """Scales, limits, ticks and grid."""
    axes.set_xscale("log")
    axes.set_xlabel("learning rate (log scale)")
    axes.set_ylabel("training loss")
    shown = [*curve.lrs, *(lr for lr in suggestions.rates.values() if lr)]
    first, last = float(min(shown)), float(max(shown))
    decades = np.log10(last / first)
    margin = 10 ** max(0.02 * decades, 0.02)
    axes.set_xlim(first / margin, last * margin)
    subs = (1.0,) if decades >= 3 else (1.0, 2.0, 5.0) if decades >= 0.7 else tuple(range(1, 10))
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=16))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    limits = _loss_limits(curve)
    if limits:
        axes.set_ylim(*limits)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(which="both", color=_FAINT)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _loss_limits(curve: Curve) -> tuple[float, float] | None:
    """Room for the fall and 1.5 times as much above; an exploding loss leaves through the top."""
    losses, smoothed = curve.losses[: curve.usable], curve.smoothed[: curve.usable]
    if curve.usable == 0:
        return None
    low = min(float(smoothed.min()), float(np.quantile(losses, 0.02)))
    first = float(np.median(losses[: max(5, curve.usable // 10)]))
    early = float(losses[: max(5, curve.usable // 2)].max())  # noise about the first level
    high = min(float(losses.max()), max(first + 1.5 * (first - low), min(early, 1.5 * first)))
    margin = max(0.06 * (high - low), 0.01 * abs(first), 1e-6)
    return low - margin, high + margin


def _shade(axes: Axes, suggestions: Suggestions) -> None:
    for name, color in _REGIONS.items():
        region = getattr(suggestions.regions, name)
        if region:
            axes.axvspan(*region, color=color, alpha=0.09, linewidth=0, label=name)


def _mark(axes: Axes, curve: Curve, suggestions: Suggestions) -> None:
    """A point on the smoothed curve for each suggestion, its value in the legend."""
    usable = slice(0, curve.usable)
    for method, lr in suggestions.rates.items():
        if lr is None:
            continue
        name, marker, color = _METHODS[method]
        recommended = method == suggestions.recommended
        loss = np.interp(np.log(lr), np.log(curve.lrs[usable]), curve.smoothed[usable])
        if recommended:
            axes.axvline(lr, color=color, linewidth=1, linestyle="--")
        axes.plot(
            lr,
            loss,
            linestyle="none",
            marker="*" if recommended else marker,
            markersize=18 if recommended else 8,
            color=color,
            markeredgecolor="white",
            zorder=6 if recommended else 5,
            label=f"{name}: {lr:.3g}" + (" (recommended)" if recommended else ""),
        )


def _title(suggestions: Suggestions, settings: dict[str, Any]) -> str:
    words = ["Learning-rate range test"]
    if "arch" in settings:
        words.append(f"{settings['arch']}")
    if "batch_size" in settings:
        words.append(f"batch size {settings['batch_size']}")
    title = ", ".join(words)
    if suggestions.problem is None:
        return title
    return "\n".join([title, *textwrap.wrap(f"No suggestion. {suggestions.problem}", width=100)])
