"""Per-class results of the top-1 predictions, for the report's tables and its page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from imgnet_mini.reporting.class_report import (
    Averages,
    ClassReport,
    ClassScore,
    ConfusedPair,
    OverallRow,
)
from imgnet_mini.runs.predictions import Predictions
from imgnet_mini.utils.console import escape_line
from imgnet_mini.utils.csv_file import write_table

EXTREMES: Final = 10
"""Classes listed as best, and as worst."""

CONFUSED_PAIRS: Final = 20


@dataclass(frozen=True)
class ClassRow:
    """One row of the page's table of classes; names on one line.

    correct: images of the class that are predicted as it.
    recall, precision, f1: from 0 to 1; None where undefined: recall and F1 without images,
        precision without predictions.
    confused_with: the most frequent wrong prediction for its images; confusions: how often.
    """

    folder: str
    name: str
    images: int
    correct: int
    recall: float | None
    precision: float | None
    f1: float | None
    confused_with: str | None
    confusions: int


def score_classes(
    classes: Sequence[str], names: Sequence[str], counts: NDArray[np.int64]
) -> tuple[ClassScore, ...]:
    """Return the accuracy of each class, in the order of the network's outputs.

    classes: C folder names; names: C display names; counts: (C, C), a row for each true class.
    """
    images, correct = counts.sum(1).tolist(), counts.diagonal().tolist()
    return tuple(
        ClassScore(
            folder=folder,
            name=name,
            images=size,
            correct=hits,
            accuracy=hits / size if size else None,
        )
        for folder, name, size, hits in zip(classes, names, images, correct, strict=True)
    )


def summarize_classes(
    predictions: Predictions, scores: Sequence[ClassScore], counts: NDArray[np.int64]
) -> ClassReport:
    """Return the averages, the best and worst classes, and the most confused pairs.

    predictions: of at least one image; scores: of all C classes; counts: (C, C), a row for each
    true class.
    """
    ranked = sorted(
        (score.accuracy, index) for index, score in enumerate(scores) if score.accuracy is not None
    )
    best = sorted(ranked, key=lambda entry: (-entry[0], entry[1]))
    has_images = counts.sum(1) > 0
    return ClassReport(
        images=len(predictions.targets),
        accuracy=float((predictions.top[:, 0] == predictions.targets).mean()),
        macro=_average(counts, weighted=False),
        weighted=_average(counts, weighted=True),
        classes=len(counts),
        with_images=int(has_images.sum()),
        never_predicted=int((has_images & (counts.sum(0) == 0)).sum()),
        best=tuple(scores[index] for _, index in best[:EXTREMES]),
        worst=tuple(scores[index] for _, index in ranked[:EXTREMES]),
        confused=tuple(
            ConfusedPair(
                true=scores[true].name,
                predicted=scores[predicted].name,
                count=int(counts[true, predicted]),
            )
            for true, predicted in most_confused(counts, CONFUSED_PAIRS)
        ),
    )


def tabulate_classes(
    predictions: Predictions, counts: NDArray[np.int64], names: Sequence[str]
) -> list[ClassRow]:
    """Return a row for each class, in the order of the network's outputs.

    counts: (C, C), a row for each true class; names: C human names.
    """
    precision, recall, f1 = _scores(counts)
    images = counts.sum(1)
    wrong = _without_diagonal(counts)
    other, confusions, predicted = wrong.argmax(1), wrong.max(1), counts.sum(0)
    return [
        ClassRow(
            folder=escape_line(folder),
            name=escape_line(names[index]),
            images=int(images[index]),
            correct=int(counts[index, index]),
            recall=float(recall[index]) if images[index] else None,
            precision=float(precision[index]) if predicted[index] else None,
            f1=float(f1[index]) if images[index] else None,
            confused_with=names[other[index]] if confusions[index] else None,
            confusions=int(confusions[index]),
        )
        for index, folder in enumerate(predictions.classes)
    ]


def most_confused(counts: NDArray[np.int64], limit: int) -> list[tuple[int, int]]:
    """Return the most frequent confusions (true, predicted), ties in the order of the classes.

    counts: (C, C), a row for each true class.
    """
    wrong = _without_diagonal(counts)
    true, predicted = np.nonzero(wrong)
    order = np.argsort(-wrong[true, predicted], kind="stable")[:limit]
    return list(zip(true[order].tolist(), predicted[order].tolist(), strict=True))


def write_class_tables(scores: Sequence[ClassScore], report: ClassReport, report_dir: Path) -> None:
    """Write `class_accuracy.csv` and `confused_pairs.csv`.

    Raises:
        WriteError: a file cannot be written.
    """
    write_table(
        report_dir / "class_accuracy.csv",
        ["class", "name", "images", "correct", "accuracy"],
        [[s.folder, s.name, s.images, s.correct, s.accuracy] for s in scores],
    )
    write_table(
        report_dir / "confused_pairs.csv",
        ["true", "predicted", "count"],
        [[pair.true, pair.predicted, pair.count] for pair in report.confused],
    )


def format_classification_report(rows: Sequence[ClassRow], report: ClassReport) -> str:
    """Return a table in scikit-learn's layout, with `-` where a value is undefined.

    rows: of all classes.
    """
    width = max(len("weighted avg"), *(len(row.name) for row in rows))
    titles = "".join(f" {title:>9}" for title in ("precision", "recall", "f1-score", "support"))
    lines = [f"{'':>{width}} {titles}", ""]
    lines += [_format_row(row, width) for row in rows]
    lines += ["", *(_format_row(row, width, undefined="") for row in report.overall)]
    lines += ["", f"Balanced top-1, the mean recall: {report.balanced_top1:.2f} %"]
    lines += ["", report.note] if report.note else []
    return "\n".join(lines) + "\n"


def _format_row(row: ClassRow | OverallRow, width: int, *, undefined: str = "-") -> str:
    scores = (row.precision, row.recall, row.f1)
    cells = [undefined if score is None else f"{score:.4f}" for score in scores]
    return f"{row.name:>{width}} " + "".join(f" {cell:>9}" for cell in (*cells, row.images))


def _average(counts: NDArray[np.int64], *, weighted: bool) -> Averages:
    """Average over the classes that have images, perhaps weighted by their number."""
    images = counts.sum(1)
    shown = images > 0
    weights = images[shown] if weighted else None
    averages = (float(np.average(score[shown], weights=weights)) for score in _scores(counts))
    precision, recall, f1 = averages
    return Averages(precision=precision, recall=recall, f1=f1)


def _scores(counts: NDArray[np.int64]) -> tuple[NDArray[np.float64], ...]:
    """Return precision, recall and F1 of each class; 0 where undefined.

    Those of scikit-learn's precision_recall_fscore_support, which takes seconds to import.

    counts: (C, C), a row for each true class.
    """
    correct, images, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    precision = correct / np.maximum(predicted, 1)
    recall = correct / np.maximum(images, 1)
    return precision, recall, 2 * correct / np.maximum(images + predicted, 1)


def _without_diagonal(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    return wrong
