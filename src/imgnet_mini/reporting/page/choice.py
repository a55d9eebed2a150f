"""Which images a page shows, and how far down their true classes come."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgnet_mini.reporting.classification import confused_pairs
from imgnet_mini.runs.predictions import Predictions


@dataclass(frozen=True)
class Confusion:
    """Images of one class that were taken for another one; class numbers.

    images: of the true class, how many there are; count: how many of them were taken for the other.
    mistaken: the position of the most confident of those; other: that of an image of the class
    it was taken for, recognised if one was; None where it has none.
    """

    true: int
    predicted: int
    count: int
    images: int
    mistaken: int
    other: int | None


def confident_mistakes(predictions: Predictions, count: int) -> list[int]:
    """Positions of the images taken for a wrong class with the highest probabilities."""
    wrong = np.flatnonzero(predictions.top[:, 0] != predictions.targets)
    return [int(position) for position in _most_confident(predictions, wrong)[:count]]


def confident_hits(predictions: Predictions, count: int) -> list[int]:
    """Positions of the images recognised most surely, of as many classes as there are."""
    right = np.flatnonzero(predictions.top[:, 0] == predictions.targets)
    seen: Counter[int] = Counter()
    ranked: list[tuple[int, int]] = []
    for position in _most_confident(predictions, right).tolist():
        target = int(predictions.targets[position])
        ranked.append((seen[target], position))
        seen[target] += 1
    return [position for _, position in sorted(ranked, key=lambda entry: entry[0])[:count]]


def hardest(predictions: Predictions, count: int, leave_out: Iterable[int] = ()) -> list[int]:
    """Positions of the images whose true class has the least probability, as far as is known.

    A class that is not among the likeliest ones has no more than the last of them.
    """
    is_true = predictions.top == predictions.targets[:, None]
    known = (predictions.probabilities * is_true).sum(1)
    bound = np.where(is_true.any(1), known, predictions.probabilities[:, -1])
    wrong = np.flatnonzero(predictions.top[:, 0] != predictions.targets)
    order = wrong[np.argsort(bound[wrong], kind="stable")]
    return [int(position) for position in order[~np.isin(order, list(leave_out))][:count]]


def count_ranks(predictions: Predictions) -> list[int]:
    """How many images have their true class at rank 1, 2, ...; the last, at none of them."""
    is_true = predictions.top == predictions.targets[:, None]
    found = is_true.sum(0).tolist()
    return [*found, len(predictions.targets) - sum(found)]


def worst_confusions(
    predictions: Predictions, counts: NDArray[np.int64], limit: int
) -> list[Confusion]:
    """The pairs of classes confused most often, equals in class order.

    counts: (C, C), a row per true class.
    """
    return [
        _confusion(predictions, counts, true, predicted)
        for true, predicted in confused_pairs(counts, limit)
    ]


def _confusion(
    predictions: Predictions, counts: NDArray[np.int64], true: int, predicted: int
) -> Confusion:
    targets, answers = predictions.targets, predictions.top[:, 0]
    mistaken = np.flatnonzero((targets == true) & (answers == predicted))
    others = np.flatnonzero(targets == predicted)
    recognised = others[answers[others] == predicted]
    shown = _most_confident(predictions, recognised if len(recognised) else others)
    return Confusion(
        true=true,
        predicted=predicted,
        count=len(mistaken),
        images=int(counts[true].sum()),
        mistaken=int(_most_confident(predictions, mistaken)[0]),
        other=int(shown[0]) if len(shown) else None,
    )


def _most_confident(predictions: Predictions, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """These positions, the highest first probability first, equals in their own order."""
    return positions[np.argsort(-predictions.probabilities[positions, 0], kind="stable")]
