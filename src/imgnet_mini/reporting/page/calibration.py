"""Whether a network is right as often as it says."""

from dataclasses import dataclass

import numpy as np

from imgnet_mini.runs.predictions import Predictions

BINS = 15
"""As in Guo et al., On Calibration of Modern Neural Networks, 2017."""


@dataclass(frozen=True)
class Bin:
    """The images whose likeliest class has a probability above `low` and up to `high`.

    confidence, accuracy: means over them, 0 where there are none.
    """

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Shares from 0 to 1; ece: the expected calibration error (Guo et al., 2017, equation 3)."""

    bins: tuple[Bin, ...]
    ece: float
    confidence: float
    accuracy: float


def calibrate(predictions: Predictions, bins: int = BINS) -> Calibration:
    """Compare the probability of the likeliest class with how often it is the true one.

    predictions: of at least one image.
    """
    confidence = predictions.probabilities[:, 0]
    is_right = predictions.top[:, 0] == predictions.targets
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    images = np.bincount(place, minlength=bins)
    counted = np.maximum(images, 1)
    confidences = np.bincount(place, confidence, minlength=bins) / counted
    accuracies = np.bincount(place, is_right, minlength=bins) / counted
    columns = (edges[:-1], edges[1:], images, confidences, accuracies)
    return Calibration(
        bins=tuple(Bin(*row) for row in zip(*(c.tolist() for c in columns), strict=True)),
        ece=float((images * abs(accuracies - confidences)).sum() / len(confidence)),
        confidence=float(confidence.mean()),
        accuracy=float(is_right.mean()),
    )
