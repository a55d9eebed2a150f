"""`report.json`: written by `report`, read by `readme`."""

from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from imgnet_mini.utils.json_file import Count, JsonModel, Text


class Averages(JsonModel):
    """Precision, recall and F1 over the classes, from 0 to 1; 0 where undefined."""

    precision: float
    recall: float
    f1: float


class ClassScore(JsonModel):
    """Top-1 accuracy of one class, from 0 to 1; None for a class without images.

    folder: its folder name; name: the display name.
    """

    folder: Text
    name: Text
    images: Count
    correct: Count
    accuracy: float | None


class ConfusedPair(JsonModel):
    """Number of images of one class that are predicted as another; display names."""

    true: Text
    predicted: Text
    count: Count


@dataclass(frozen=True)
class OverallRow:
    """One row over all classes, as scikit-learn's report has them; None: not defined."""

    name: str
    precision: float | None
    recall: float | None
    f1: float
    images: int


class ClassReport(JsonModel):
    """Top-1 results over all classes, from 0 to 1.

    best, worst: classes with images, ties in the order of the classes.
    confused: most frequent first, ties in the order of the classes.
    """

    cure: ClassVar[str] = "remove it, and `imgnet-mini report` writes it again"

    images: Count
    accuracy: float
    macro: Averages
    weighted: Averages
    best: tuple[ClassScore, ...] = Field(strict=False)
    worst: tuple[ClassScore, ...] = Field(strict=False)
    confused: tuple[ConfusedPair, ...] = Field(strict=False)

    @property
    def overall(self) -> list[OverallRow]:
        """Accuracy, macro average and weighted average."""
        rows = [OverallRow("accuracy", None, None, self.accuracy, self.images)]
        for name, averages in (("macro avg", self.macro), ("weighted avg", self.weighted)):
            row = OverallRow(name, averages.precision, averages.recall, averages.f1, self.images)
            rows.append(row)
        return rows
