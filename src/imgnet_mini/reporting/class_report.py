"""`report.json`: written by `report`, read by `readme`."""

from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from imgnet_mini.utils.json_file import Count, JsonModel, Text


class Averages(JsonModel):
    """Means over the classes that have images, from 0 to 1.

    The precision of a class that is never predicted is undefined, and counts as 0.
    """

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

    classes: number of classes; with_images: those that have images, over which averages are taken;
    never_predicted: those that have images, but no prediction. None in files of earlier versions.
    best, worst: classes with images, ties in the order of the classes.
    confused: most frequent first, ties in the order of the classes.
    """

    cure: ClassVar[str] = "remove it, and `imgnet-mini report` writes it again"

    images: Count
    accuracy: float
    macro: Averages
    weighted: Averages
    classes: Count | None = None
    with_images: Count | None = None
    never_predicted: Count | None = None
    best: tuple[ClassScore, ...] = Field(strict=False)
    worst: tuple[ClassScore, ...] = Field(strict=False)
    confused: tuple[ConfusedPair, ...] = Field(strict=False)

    @property
    def balanced_top1(self) -> float:
        """Mean recall of the classes that have images, in percent."""
        return 100 * self.macro.recall

    @property
    def overall(self) -> list[OverallRow]:
        """Accuracy, macro average and weighted average."""
        rows = [OverallRow("accuracy", None, None, self.accuracy, self.images)]
        for name, averages in (("macro avg", self.macro), ("weighted avg", self.weighted)):
            row = OverallRow(name, averages.precision, averages.recall, averages.f1, self.images)
            rows.append(row)
        return rows

    @property
    def note(self) -> str:
        """Sentences on what the averages leave out or count as 0; empty if nothing."""
        notes = []
        if self.with_images != self.classes:
            notes.append(
                f"Averages are over the {self.with_images} of {self.classes} classes that have "
                "validation images."
            )
        if self.never_predicted:
            words = "class is" if self.never_predicted == 1 else "classes are"
            notes.append(
                f"{self.never_predicted} {words} never predicted, and the precision, which is "
                "undefined, counts as 0."
            )
        return " ".join(notes)
