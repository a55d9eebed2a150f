"""What `evaluate` and `report` found of the best checkpoint."""

import re
from dataclasses import dataclass
from pathlib import Path

from imgnet_mini.errors import DataError
from imgnet_mini.reporting.readme.json_file import JsonFile, read_json, read_json_if_there
from imgnet_mini.reporting.readme.redact import last_component
from imgnet_mini.runs.paths import RunPaths


@dataclass(frozen=True)
class Metrics:
    """`metrics.json`. Accuracies in percent; checkpoint: its file name; views: of each image."""

    top1: float | None
    top5: float | None
    loss: float | None
    images: int | None
    imgs_per_sec: float | None
    checkpoint: str | None
    epoch: int | None
    img_size: int | None
    views: str


@dataclass(frozen=True)
class Overall:
    """One of the last lines of a classification report; shares from 0 to 1, None where left out."""

    name: str
    precision: float | None
    recall: float | None
    f1: float
    images: int


@dataclass(frozen=True)
class ClassScore:
    """A class by its display name, its images, and the share of them that was recognised."""

    name: str | None
    images: int | None
    accuracy: float


@dataclass(frozen=True)
class ConfusedPair:
    """How many images of one class were taken for another."""

    true: str | None
    predicted: str | None
    count: int | None


@dataclass(frozen=True)
class Evaluation:
    """Everything here is missing (None, empty) until its command has run."""

    metrics: Metrics | None
    overall: list[Overall]
    best_classes: list[ClassScore]
    worst_classes: list[ClassScore]
    confused: list[ConfusedPair]


def read_evaluation(paths: RunPaths) -> Evaluation:
    """Read the files of the report's folder.

    Raises:
        DataError: one of them is damaged.
    """
    report = read_json_if_there(paths.report_dir / "report.json")
    return Evaluation(
        metrics=_metrics(read_json(paths.metrics)) if paths.metrics.exists() else None,
        overall=_overall(paths.report_dir / "classification_report.txt"),
        best_classes=_class_scores(report, "best"),
        worst_classes=_class_scores(report, "worst"),
        confused=[
            ConfusedPair(pair.text("true"), pair.text("predicted"), pair.count("count"))
            for pair in report.rows("confused")
        ],
    )


def _class_scores(report: JsonFile, key: str) -> list[ClassScore]:
    return [
        ClassScore(row.text("name"), row.count("images"), row.number("accuracy") or 0.0)
        for row in report.rows(key)
    ]


def _metrics(file: JsonFile) -> Metrics:
    checkpoint = file.text("checkpoint")
    views = file.text("views") or ("hflip" if file.flag("tta") else "center")
    return Metrics(
        top1=file.number("top1"),
        top5=file.number("top5"),
        loss=file.number("loss"),
        images=file.count("images"),
        imgs_per_sec=file.number("imgs_per_sec"),
        checkpoint=last_component(checkpoint) if checkpoint else None,
        epoch=file.count("epoch"),
        img_size=file.count("img_size"),
        views={"centre": "center", "mirror": "hflip"}.get(views, views),
    )


def _overall(path: Path) -> list[Overall]:
    """The lines below the classes; a class may have such a name too, so the last line counts."""
    try:
        text = path.read_text("utf-8", errors="replace") if path.exists() else ""
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    found = re.findall(
        r"^\s*(accuracy|macro avg|weighted avg)\s+(?:([\d.]+)\s+([\d.]+)\s+)?([\d.]+)\s+(\d+)\s*$",
        text,
        re.MULTILINE,
    )
    rows = {
        name: Overall(
            name,
            float(precision) if precision else None,
            float(recall) if recall else None,
            float(f1),
            int(images),
        )
        for name, precision, recall, f1, images in found
    }
    return list(rows.values())
