"""Axes of charts: from values to coordinates of an SVG drawing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from matplotlib.ticker import MaxNLocator

from imgnet_mini.reporting.format import format_lr

WIDTH, HEIGHT = 480, 274
LEFT, RIGHT, TOP, BOTTOM = 54, 462, 10, 232
"""Size of the drawing, and the area of the data within it, in SVG units."""

_MAX_TICKS = 6


@dataclass(frozen=True)
class Tick:
    """A position along an axis and its label."""

    place: float
    text: str


@dataclass(frozen=True)
class Axis:
    """One axis: values from `low` to `high` map to coordinates from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    @classmethod
    def across(cls, values: Sequence[float], *, is_log: bool = False) -> Self:
        """Return an axis from left to right; values that are not finite are ignored."""
        low, high = _limits(values)
        if low == high:
            low, high = (low / 2, high * 2) if is_log else (low - 0.5, high + 0.5)
        return cls(low, high, LEFT, RIGHT, is_log)

    @classmethod
    def up(cls, values: Sequence[float], *, from_zero: bool = False) -> Self:
        """Return an axis from bottom to top that begins and ends at a tick."""
        low, high = _limits(values)
        if from_zero:
            low = min(low, 0)
        if low == high:
            low, high = (low, low + 1) if from_zero else (low - 0.5, high + 0.5)
        steps = _linear_ticks(low, high)
        return cls(min(steps[0], low), max(steps[-1], high), BOTTOM, TOP)

    def place(self, value: float) -> float:
        """Return the coordinate of a value, to 0.1; at most one axis length beyond either end."""
        low, high = self.low, self.high
        if self.is_log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        share = min(max((value - low) / (high - low), -1), 2)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, *, whole: bool = False) -> list[Tick]:
        """Return a few round values; `whole`: integers only."""
        steps = (
            _log_ticks(self.low, self.high)
            if self.is_log
            else _linear_ticks(self.low, self.high, whole=whole)
        )
        slack = 1e-9 * (self.high - self.low)
        return [
            Tick(self.place(step), format_lr(step) if self.is_log else f"{step:g}")
            for step in steps
            if self.low - slack <= step <= self.high + slack
        ]


def _limits(values: Sequence[float]) -> tuple[float, float]:
    finite = [value for value in values if math.isfinite(value)]
    return (min(finite), max(finite)) if finite else (0.0, 1.0)


def _linear_ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    locator = MaxNLocator(nbins=_MAX_TICKS, steps=[1, 2, 5, 10], integer=whole, min_n_ticks=1)
    return [float(f"{step:.10g}") for step in locator.tick_values(low, high)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    step = max(1, math.ceil((last - first) / _MAX_TICKS))
    decades = [10.0**power for power in range(first, last + 1, step)]
    return decades if len(decades) > 1 else [low, high]
