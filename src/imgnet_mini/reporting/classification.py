"""How well each class is told from the others, by the likeliest class of each image (top-1)."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import classification_report, precision_recall_fscore_support

from imgnet_mini.reporting.confusion import count_confusions
from imgnet_mini.runs.predictions import Predictions
from imgnet_mini.utils.atomic_file import write_text
from imgnet_mini.utils.console import escape_line
from imgnet_mini.utils.csv_file import write_table

EXTREMES = 10
"""Classes listed as best, and as worst."""

CONFUSED_PAIRS = 20


@dataclass(frozen=True)
class Averages:
    """Precision, recall and F1 over the classes, from 0 to 1; 0 where one is undefined."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class ClassScore:
    """One class: folder and display name, its images, how many were recognised.

    accuracy: from 0 to 1; None for a class without images.
    """

    folder: str
    name: str
    images: int
    correct: int
    accuracy: float | None


@dataclass(frozen=True)
class ConfusedPair:
    """How many images of one class were taken for another one; display names."""

    true: str
    predicted: str
    count: int


@dataclass(frozen=True)
class Classification:
    """Every number is a share from 0 to 1 or a count.

    classes: in the order of the network's outputs; best, worst: with images only, equals in
    that order too; confused: most frequent first, equals in class order.
    """

    images: int
    accuracy: float
    macro: Averages
    weighted: Averages
    classes: tuple[ClassScore, ...]
    best: tuple[ClassScore, ...]
    worst: tuple[ClassScore, ...]
    confused: tuple[ConfusedPair, ...]

    def save(self, report_dir: Path) -> None:
        """Write `class_accuracy.csv`, `confused_pairs.csv` and `report.json`.

        The last holds everything but the list of all classes.

        Raises:
            WriteError: a file cannot be written.
        """
        write_table(
            report_dir / "class_accuracy.csv",
            ["class", "name", "images", "correct", "accuracy"],
            [[c.folder, c.name, c.images, c.correct, c.accuracy] for c in self.classes],
        )
        write_table(
            report_dir / "confused_pairs.csv",
            ["true", "predicted", "count"],
            [[pair.true, pair.predicted, pair.count] for pair in self.confused],
        )
        values = {key: value for key, value in asdict(self).items() if key != "classes"}
        write_text(report_dir / "report.json", json.dumps(values, indent=2) + "\n")


def classify(predictions: Predictions, names: Sequence[str]) -> Classification:
    """Count what was recognised and what was confused.

    predictions: of at least one image; names: display name per class, in their order.
    """
    counts = count_confusions(predictions)
    classes = tuple(
        ClassScore(folder, name, images, correct, correct / images if images else None)
        for folder, name, images, correct in zip(
            predictions.classes,
            names,
            counts.sum(1).tolist(),
            counts.diagonal().tolist(),
            strict=True,
        )
    )
    ranked = sorted(
        (score.accuracy, index) for index, score in enumerate(classes) if score.accuracy is not None
    )
    best = sorted(ranked, key=lambda entry: (-entry[0], entry[1]))
    return Classification(
        images=len(predictions.targets),
        accuracy=float((predictions.top[:, 0] == predictions.targets).mean()),
        macro=_averages(predictions, "macro"),
        weighted=_averages(predictions, "weighted"),
        classes=classes,
        best=tuple(classes[index] for _, index in best[:EXTREMES]),
        worst=tuple(classes[index] for _, index in ranked[:EXTREMES]),
        confused=tuple(
            ConfusedPair(names[true], names[predicted], int(counts[true, predicted]))
            for true, predicted in confused_pairs(counts, CONFUSED_PAIRS)
        ),
    )


def confused_pairs(counts: NDArray[np.int64], limit: int) -> list[tuple[int, int]]:
    """The cells (true, predicted) of the most frequent confusions, equals in class order.

    counts: (C, C), a row per true class.
    """
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    true, predicted = np.nonzero(wrong)
    order = np.argsort(-wrong[true, predicted], kind="stable")[:limit]
    return list(zip(true[order].tolist(), predicted[order].tolist(), strict=True))


def write_classification_report(
    predictions: Predictions, names: Sequence[str], report_dir: Path
) -> None:
    """Write scikit-learn's `classification_report.txt`, one line per class.

    Raises:
        WriteError: the file cannot be written.
    """
    text: str = classification_report(
        predictions.targets,
        predictions.top[:, 0],
        labels=range(len(names)),
        target_names=[escape_line(name) for name in names],
        digits=4,
        zero_division=0,
    )
    write_text(report_dir / "classification_report.txt", text)


def _averages(predictions: Predictions, kind: str) -> Averages:
    precision, recall, f1, _ = precision_recall_fscore_support(
        predictions.targets,
        predictions.top[:, 0],
        labels=range(len(predictions.classes)),
        average=kind,
        zero_division=0,
    )
    return Averages(float(precision), float(recall), float(f1))
