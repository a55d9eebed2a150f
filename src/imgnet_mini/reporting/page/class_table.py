"""One row per class, for a table to sort and to search."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support

from imgnet_mini.runs.predictions import Predictions
from imgnet_mini.utils.console import escape_line


@dataclass(frozen=True)
class ClassRow:
    """How one class fared; shares from 0 to 1, None where nothing was counted; names on one line.

    correct: of its images, how many were recognised; precision: of the images taken for it, the
    share that are; taken_for: the class its others were most often taken for, and how many were.
    """

    folder: str
    name: str
    images: int
    correct: int
    recall: float | None
    precision: float | None
    f1: float
    taken_for: str | None
    taken: int


def tabulate_classes(
    predictions: Predictions, counts: NDArray[np.int64], names: Sequence[str]
) -> list[ClassRow]:
    """In the order of the network's outputs.

    counts: (C, C), a row per true class; names: human name per class.
    """
    precision, recall, f1, images = precision_recall_fscore_support(
        predictions.targets,
        predictions.top[:, 0],
        labels=range(len(names)),
        average=None,
        zero_division=0,
    )
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    other, taken, answered = wrong.argmax(1), wrong.max(1), counts.sum(0)
    return [
        ClassRow(
            folder=escape_line(folder),
            name=names[index],
            images=int(images[index]),
            correct=int(counts[index, index]),
            recall=float(recall[index]) if images[index] else None,
            precision=float(precision[index]) if answered[index] else None,
            f1=float(f1[index]),
            taken_for=names[other[index]] if taken[index] else None,
            taken=int(taken[index]),
        )
        for index, folder in enumerate(predictions.classes)
    ]
