"""Calibration: how well the probabilities match the accuracy, as numbers and as charts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from imgnet_mini.reporting.format import format_percent
from imgnet_mini.reporting.page.axes import BOTTOM, Axis
from imgnet_mini.reporting.page.chart import Box, Chart, Line, Readout
from imgnet_mini.runs.predictions import Predictions

BINS: Final = 15
"""As in Guo et al., On Calibration of Modern Neural Networks, 2017."""

_GAP: Final = 1.0
"""Between bars, in units of the drawing."""


@dataclass(frozen=True)
class Bin:
    """The images whose top-1 probability is above `low` and at most `high`.

    confidence, accuracy: means over them; 0 for an empty bin.
    """

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Values from 0 to 1; ece: expected calibration error (Guo et al., 2017, equation 3)."""

    bins: tuple[Bin, ...]
    ece: float
    confidence: float
    accuracy: float


def calibrate(predictions: Predictions, bins: int = BINS) -> Calibration:
    """Compare the top-1 probability with the top-1 accuracy.

    predictions: of at least one image.
    """
    confidence = predictions.probabilities[:, 0]
    is_correct = predictions.top[:, 0] == predictions.targets
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    images = np.bincount(place, minlength=bins)
    divisor = np.maximum(images, 1)
    confidences = np.bincount(place, confidence, minlength=bins) / divisor
    accuracies = np.bincount(place, is_correct, minlength=bins) / divisor
    columns = (edges[:-1], edges[1:], images, confidences, accuracies)
    return Calibration(
        bins=tuple(Bin(*row) for row in zip(*(c.tolist() for c in columns), strict=True)),
        ece=float((images * abs(accuracies - confidences)).sum() / len(confidence)),
        confidence=float(confidence.mean()),
        accuracy=float(is_correct.mean()),
    )


def reliability_chart(calibration: Calibration) -> Chart:
    """Return the reliability diagram: accuracy against confidence, bin by bin."""
    x, y = Axis.across([0, 100]), Axis.up([0, 100])
    bins = [entry for entry in calibration.bins if entry.images]
    return Chart(
        title="Reliability, %",
        x_label="probability of the top-1 prediction, %",
        x_ticks=x.ticks(),
        y_ticks=y.ticks(),
        legend=[("accuracy", "train"), ("confidence", "val"), ("images", "")],
        readouts=[
            Readout(
                x=x.place(50 * (entry.low + entry.high)),
                label=_format_range(entry),
                values=(
                    format_percent(entry.accuracy),
                    format_percent(entry.confidence),
                    f"{entry.images:,}",
                ),
                heights=(y.place(100 * entry.accuracy), y.place(100 * entry.confidence), None),
            )
            for entry in bins
        ],
        start=_largest(bins),
        lines=[
            Line("diagonal", f"M{x.place(0):g} {y.place(0):g}L{x.place(100):g} {y.place(100):g}")
        ],
        boxes=[
            *(_bar("bar-fill", entry, y.place(100 * entry.accuracy), BOTTOM, x) for entry in bins),
            *(_stroke(entry, y.place(100 * entry.confidence), x) for entry in bins),
        ],
    )


def confidence_chart(calibration: Calibration) -> Chart:
    """Return the histogram of the top-1 probabilities."""
    bins = calibration.bins
    total = sum(entry.images for entry in bins)
    x = Axis.across([0, 100])
    y = Axis.up([0, max(entry.images for entry in bins)], from_zero=True)
    return Chart(
        title="Images by probability",
        x_label="probability of the top-1 prediction, %",
        x_ticks=x.ticks(),
        y_ticks=y.ticks(whole=True),
        legend=[("images", "train"), ("share", "")],
        readouts=[
            Readout(
                x=x.place(50 * (entry.low + entry.high)),
                label=_format_range(entry),
                values=(f"{entry.images:,}", format_percent(entry.images / total)),
                heights=(y.place(entry.images), None),
            )
            for entry in bins
        ],
        start=_largest(bins),
        boxes=[_bar("bar-fill", entry, y.place(entry.images), BOTTOM, x) for entry in bins],
    )


def _largest(bins: Sequence[Bin]) -> int:
    return max(range(len(bins)), key=lambda index: bins[index].images)


def _bar(style: str, entry: Bin, top: float, bottom: float, x: Axis) -> Box:
    """Return a box as wide as the bin, less a gap."""
    left, right = x.place(100 * entry.low), x.place(100 * entry.high)
    width = round(right - left - _GAP, 1)
    return Box(style, round(left + _GAP / 2, 1), top, width, round(bottom - top, 1))


def _stroke(entry: Bin, height: float, x: Axis) -> Box:
    """Return a horizontal stroke across the bar."""
    return _bar("confidence", entry, height - 1, height + 1, x)


def _format_range(entry: Bin) -> str:
    return f"{100 * entry.low:.0f} to {100 * entry.high:.0f} %"
