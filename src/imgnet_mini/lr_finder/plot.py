"""The plot of a range test and of its trial runs."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from imgnet_mini.lr_finder.curve import Curve
from imgnet_mini.lr_finder.suggestions import METHOD_NAMES, Method, Suggestions, explain
from imgnet_mini.lr_finder.trials import TrialRuns
from imgnet_mini.utils.atomic_file import atomic_write

_LINE = "#1f77b4"
_FAINT = "#57606a"
_GRID = "#d8dee4"
_STYLES: Final[dict[Method, tuple[str, str]]] = {
    "trials": ("^", "#c62828"),
    "ramp": ("<", "#1f5fa8"),
    "default": ("P", "#24292f"),
    "turn": ("v", "#1a7f37"),
    "steepest": ("o", "#0b7a8a"),
    "valley": ("s", "#7b3fa0"),
    "minimum_over_10": ("D", "#d95f02"),
}
"""Marker and color of each method."""

_MARK: Final[dict[str, Any]] = {
    "linestyle": "none",
    "markersize": 8,
    "markeredgecolor": "white",
    "zorder": 5,
}
_STAR: Final[dict[str, Any]] = _MARK | {"marker": "*", "markersize": 18, "zorder": 6}
"""Styles of a suggestion, and of the recommended one."""

_REGIONS = {"flat": "#57606a", "falling": "#1a7f37", "diverging": "#c62828"}


def draw_range_test(
    curve: Curve,
    suggestions: Suggestions,
    settings: dict[str, Any],
    path: Path,
    *,
    trials: TrialRuns | None = None,
) -> None:
    """Write a PNG of loss over learning rate with the suggestions, and a panel of trial runs.

    settings: `arch` and `batch_size`, if present, go into the title.

    Raises:
        WriteError: the file cannot be written.
    """
    height = 9 if trials else 6
    figure = Figure(figsize=(9, height), dpi=150, layout="constrained", facecolor="white")
    axes, *below = figure.subplots(
        2 if trials else 1, squeeze=False, height_ratios=(3, 2) if trials else None
    )[:, 0]
    _set_up_axes(axes, [*curve.lrs, *(lr for lr in suggestions.lrs.values() if lr)])
    limits = _loss_limits(curve)
    if limits:
        axes.set_ylim(*limits)
    axes.plot(curve.lrs, curve.losses, color=_LINE, alpha=0.35, linewidth=1, label="loss")
    axes.plot(curve.lrs, curve.smoothed, color=_LINE, linewidth=2.4, label="smoothed loss")
    _shade_regions(axes, suggestions)
    if curve.finite_steps:
        _mark_suggestions(axes, curve, suggestions)
    if trials:
        _draw_trials(below[0], trials, suggestions)
    axes.set_title(_title(suggestions, settings), loc="left", parse_math=False, fontsize=11)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


def _set_up_axes(axes: Axes, shown: Sequence[float]) -> None:
    """Set scales, ticks and grid, with room for the learning rates `shown`."""
    axes.set_xscale("log")
    axes.set_xlabel("learning rate (log scale)")
    axes.set_ylabel("training loss")
    first, last = float(min(shown)), float(max(shown))
    decades = np.log10(last / first)
    margin = 10 ** max(0.02 * decades, 0.02)
    axes.set_xlim(first / margin, last * margin)
    subs = (1.0,) if decades >= 3 else (1.0, 2.0, 5.0) if decades >= 0.7 else tuple(range(1, 10))
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=16))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(which="both", color=_FAINT)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _loss_limits(curve: Curve) -> tuple[float, float] | None:
    """Return limits with room for the drop and 1.5 times as much above; clip an exploding loss."""
    losses, smoothed = curve.losses[: curve.finite_steps], curve.smoothed[: curve.finite_steps]
    if curve.finite_steps == 0:
        return None
    low = min(float(smoothed.min()), float(np.quantile(losses, 0.02)))
    first = float(np.median(losses[: max(5, curve.finite_steps // 10)]))
    early = float(losses[: max(5, curve.finite_steps // 2)].max())  # noise about the first level
    high = min(float(losses.max()), max(first + 1.5 * (first - low), min(early, 1.5 * first)))
    margin = max(0.06 * (high - low), 0.01 * abs(first), 1e-6)
    return low - margin, high + margin


def _shade_regions(axes: Axes, suggestions: Suggestions) -> None:
    for name, color in _REGIONS.items():
        region = getattr(suggestions.regions, name)
        if region:
            axes.axvspan(*region, color=color, alpha=0.09, linewidth=0, label=name)


def _mark_suggestions(axes: Axes, curve: Curve, suggestions: Suggestions) -> None:
    """Mark each suggestion on the smoothed curve and in the legend."""
    usable = slice(0, curve.finite_steps)
    for method, lr in suggestions.lrs.items():
        if lr is None:
            continue
        marker, color = _STYLES[method]
        recommended = method == suggestions.recommended
        loss = np.interp(np.log(lr), np.log(curve.lrs[usable]), curve.smoothed[usable])
        if recommended:
            axes.axvline(lr, color=color, linewidth=1, linestyle="--")
        style = _STAR if recommended else _MARK | {"marker": marker}
        label = f"{METHOD_NAMES[method]}: {lr:.3g}" + (" (recommended)" if recommended else "")
        axes.plot(lr, loss, color=color, label=label, **style)


def _draw_trials(axes: Axes, trials: TrialRuns, suggestions: Suggestions) -> None:
    """Plot the final loss of each trial run, the fitted minimum and the recommended peak."""
    recommended = [] if suggestions.trials is None else [suggestions.trials]
    _set_up_axes(axes, [*(run.peak_lr for run in trials.runs), *recommended])
    axes.set_xlabel("peak learning rate of a trial run (log scale)")
    axes.set_ylabel("final loss")
    color = _STYLES["trials"][1]
    finite = [run for run in trials.runs if math.isfinite(run.final_loss)]
    losses = [run.final_loss for run in finite]
    axes.plot([run.peak_lr for run in finite], losses, "o-", color=_LINE, linewidth=1.5)
    if math.isfinite(trials.chance_loss):
        axes.axhline(trials.chance_loss, color=_FAINT, linestyle=":")
        x_in_axes = axes.get_yaxis_transform()  # x as a share of the axes
        axes.text(
            0.01, trials.chance_loss, "chance", va="bottom", color=_FAINT, transform=x_in_axes
        )
    for run in trials.runs:
        if run not in finite:
            axes.axvline(run.peak_lr, color=_FAINT, linestyle=":")
            axes.annotate(
                "diverged ",
                (run.peak_lr, 0.9),
                xycoords=("data", "axes fraction"),
                horizontalalignment="right",
                color=_FAINT,
            )
    for lr in recommended:
        axes.axvline(lr, color=color, linewidth=1, linestyle="--")
    if trials.peak_lr is not None:
        axes.plot(trials.peak_lr, trials.min_loss, color=color, **_STAR)
    reason = explain(suggestions, trials) or "All trial runs diverged."
    axes.set_title("\n".join(textwrap.wrap(reason, width=105)), loc="left", fontsize=10)


def _title(suggestions: Suggestions, settings: dict[str, Any]) -> str:
    title = "Learning-rate range test"
    if "arch" in settings:
        title += f", {settings['arch']}"
    if "batch_size" in settings:
        title += f", batch size {settings['batch_size']}"
    if suggestions.problem is None:
        return title
    problem = f"It suggests nothing. {suggestions.problem}"
    return "\n".join([title, *textwrap.wrap(problem, width=100)])
