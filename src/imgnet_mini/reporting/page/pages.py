"""The report page of one run, and the page that compares several."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps

from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.reporting.advice import remarks
from imgnet_mini.reporting.classification import most_confused, tabulate_classes
from imgnet_mini.reporting.comparison import Comparison
from imgnet_mini.reporting.confusion import confusion_image
from imgnet_mini.reporting.examples import (
    DrawHeatMaps,
    Example,
    ReadImage,
    choose_confident_hits,
    choose_confident_mistakes,
    choose_confusion,
    choose_hardest,
    count_ranks,
    make_example,
    read_thumbnails,
)
from imgnet_mini.reporting.format import format_lr
from imgnet_mini.reporting.page.calibration import calibrate, confidence_chart, reliability_chart
from imgnet_mini.reporting.page.chart import Chart, Series
from imgnet_mini.reporting.page.render import render_page
from imgnet_mini.reporting.page.run_charts import (
    epoch_chart,
    epoch_charts,
    epoch_points,
    finder_chart,
)
from imgnet_mini.reporting.paired import PairedTest
from imgnet_mini.reporting.run_view import RunView, format_settings
from imgnet_mini.reporting.style import SERIES
from imgnet_mini.runs.predictions import Predictions
from imgnet_mini.runs.records import Phase, select_phase
from imgnet_mini.utils.console import escape_line

GENERATOR: Final = '<meta name="generator" content="imgnet-mini compare">'
"""Identifies a comparison page, which may be overwritten."""

_PAIRS: Final = 12
_MISTAKES: Final = 24
_HITS: Final = 24
_HARDEST: Final = 8
_THUMBNAIL_SIDE: Final = 176
"""Pixels; the page shows at most two thirds of it, so that high-density screens stay sharp."""


@dataclass(frozen=True)
class ReportPage:
    """The HTML, and how many of the images shown can no longer be read."""

    html: str
    shown: int
    missing: int


@dataclass(frozen=True)
class ConfusedClasses:
    """Images of class `true` that are predicted as `predicted`: `count` of `images`.

    mistaken: one of them; other: an image of the other class, None without one.
    """

    true: str
    predicted: str
    count: int
    images: int
    mistaken: Example
    other: Example | None


@dataclass(frozen=True)
class PageImages:
    """All images of a report page; `missing` of the `shown` files can no longer be read."""

    pairs: list[ConfusedClasses]
    mistakes: list[Example]
    hits: list[Example]
    hardest: list[Example]
    shown: int
    missing: int


def build_report_page(
    run: RunView,
    predictions: Predictions,
    counts: NDArray[np.int64],
    names: Sequence[str],
    *,
    val_dir: Path,
    read_image: ReadImage,
    draw_heat_maps: DrawHeatMaps | None = None,
) -> ReportPage:
    """Build the page of an evaluated run.

    predictions: of at least one image; counts: (C, C), a row for each true class; names: human
    name of each class; val_dir: folder of the images; draw_heat_maps: for the confident mistakes.

    Raises:
        DataError: the curve of the run's range test is damaged.
    """
    names = [escape_line(name) for name in names]
    images = _collect_images(predictions, counts, names, val_dir, read_image)
    if draw_heat_maps is not None:
        images = _add_heat_maps(images, predictions, draw_heat_maps)
    calibration = calibrate(predictions)
    html = render_page(
        "report.html.j2",
        run=run,
        remarks=remarks(run),
        charts=epoch_charts(run.records, run.best.epoch),
        finder_chart=run.finder and finder_chart(run.finder),
        classes=tabulate_classes(predictions, counts, names),
        matrix=confusion_image(counts),
        images=images,
        calibration=calibration,
        reliability=reliability_chart(calibration),
        confidence=confidence_chart(calibration),
        ranks=count_ranks(predictions),
        settings=_group_settings(run),
    )
    return ReportPage(html, images.shown, images.missing)


def build_comparison_page(
    runs: Sequence[RunView], comparison: Comparison, test: PairedTest, reported: Collection[str]
) -> str:
    """Return the HTML; its legends initially show the epoch at which the shortest run ends.

    reported: names of the runs that have a report page, in the folders beside.
    """
    return render_page(
        "compare.html.j2",
        comparison=comparison,
        test=test,
        reported=reported,
        charts=[
            _comparison_chart("Validation top-1, %", runs, "val", "top1"),
            _comparison_chart("Validation top-5, %", runs, "val", "top5"),
            _comparison_chart("Validation loss", runs, "val", "loss"),
            _comparison_chart("Training loss", runs, "train", "loss"),
            _comparison_chart("Learning rate", runs, "train", "lr"),
        ],
    )


def _collect_images(
    predictions: Predictions,
    counts: NDArray[np.int64],
    names: Sequence[str],
    val_dir: Path,
    read_image: ReadImage,
) -> PageImages:
    confusions = [
        (true, predicted, *choose_confusion(predictions, true, predicted))
        for true, predicted in most_confused(counts, _PAIRS)
    ]
    mistakes = choose_confident_mistakes(predictions, _MISTAKES)
    hits = choose_confident_hits(predictions, _HITS)
    hardest = choose_hardest(predictions, _HARDEST, exclude=mistakes)
    of_pairs = [
        index
        for _, _, mistaken, other in confusions
        for index in (mistaken, other)
        if index is not None
    ]
    indices = {*mistakes, *hits, *hardest, *of_pairs}
    files = {predictions.images[index] for index in indices}
    thumbnails = read_thumbnails(files, val_dir, read_image, _THUMBNAIL_SIDE)
    examples = {index: make_example(predictions, index, names, thumbnails) for index in indices}
    return PageImages(
        pairs=[
            ConfusedClasses(
                true=names[true],
                predicted=names[predicted],
                count=int(counts[true, predicted]),
                images=int(counts[true].sum()),
                mistaken=examples[mistaken],
                other=None if other is None else examples[other],
            )
            for true, predicted, mistaken, other in confusions
        ],
        mistakes=[examples[index] for index in mistakes],
        hits=[examples[index] for index in hits],
        hardest=[examples[index] for index in hardest],
        shown=len(files),
        missing=len(files) - len(thumbnails),
    )


def _add_heat_maps(images: PageImages, predictions: Predictions, draw: DrawHeatMaps) -> PageImages:
    """Return the images with a heat map beside each confident mistake that can be read."""
    indices = choose_confident_mistakes(predictions, _MISTAKES)
    shown = [
        index
        for index, example in zip(indices, images.mistakes, strict=True)
        if example.thumbnail is not None
    ]
    files = [predictions.images[index] for index in shown]
    maps = draw(files, predictions.top[shown, 0].tolist()) if files else {}
    side = (_THUMBNAIL_SIDE, _THUMBNAIL_SIDE)
    mistakes = [
        replace(example, heat_map=ImageOps.fit(maps[file], side)) if file in maps else example
        for file, example in zip(
            [predictions.images[index] for index in indices], images.mistakes, strict=True
        )
    ]
    return replace(images, mistakes=mistakes)


def _group_settings(run: RunView) -> dict[str, list[tuple[str, str, bool]]]:
    """Return section to settings: name, value, and True if it is not the default."""
    defaults = format_settings(RunConfig())
    sections: dict[str, list[tuple[str, str, bool]]] = {}
    for key, value in run.settings.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, []).append((name, value, value != defaults.get(key)))
    return sections


def _comparison_chart(title: str, runs: Sequence[RunView], phase: Phase, field: str) -> Chart:
    series = []
    for index, run in enumerate(runs):
        validated = run.selection_records
        records = validated if phase == "val" else select_phase(run.records, phase)
        dashed = " dashed" if index >= len(SERIES) else ""
        style = f"series-{index % len(SERIES)}{dashed}"
        series.append(Series(run.name, style, epoch_points(records, field)))
    start = min((line.points[-1][0] for line in series if line.points), default=None)
    format_y = {"loss": "{:.3f}".format, "lr": format_lr}.get(field, "{:.2f}".format)
    return epoch_chart(title, series, format_y=format_y, start=start, from_zero=field != "loss")
