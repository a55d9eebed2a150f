"""The report of one run as a page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.reporting.page.calibration import calibrate
from imgnet_mini.reporting.page.calibration_charts import confidence_chart, reliability_chart
from imgnet_mini.reporting.page.choice import count_ranks
from imgnet_mini.reporting.page.class_table import tabulate_classes
from imgnet_mini.reporting.page.epoch_charts import epoch_charts
from imgnet_mini.reporting.page.examples import build_gallery
from imgnet_mini.reporting.page.finder_chart import finder_chart
from imgnet_mini.reporting.page.matrix import matrix_picture
from imgnet_mini.reporting.page.render import render_page
from imgnet_mini.reporting.readme.advice import remarks
from imgnet_mini.reporting.readme.run_view import RunView, settings_of
from imgnet_mini.runs.predictions import Predictions
from imgnet_mini.utils.console import escape_line


@dataclass(frozen=True)
class ReportPage:
    """The HTML, and of how many of the images shown the files can no longer be read."""

    html: str
    shown: int
    missing: int


def build_report_page(
    run: RunView,
    predictions: Predictions,
    counts: NDArray[np.int64],
    names: Sequence[str],
    *,
    finder_dir: Path,
    val_dir: Path,
    read_image: Callable[[Path], Image.Image],
) -> ReportPage:
    """Put all that is known of a run on one page.

    run: one that was evaluated; predictions: of at least one image; counts: (C, C), a row per
    true class; names: human name per class; val_dir: where the images are; read_image: decodes a
    file to RGB, or raises a DataError.

    Raises:
        DataError: the curve of the run's range test is damaged.
    """
    names = [escape_line(name) for name in names]
    gallery = build_gallery(predictions, counts, names, val_dir, read_image)
    calibration = calibrate(predictions)
    html = render_page(
        "report.html.j2",
        run=run,
        remarks=remarks(run),
        charts=epoch_charts(run.records, run.best.epoch),
        finder_chart=run.finder and finder_chart(run.finder, finder_dir, run.name),
        classes=tabulate_classes(predictions, counts, names),
        matrix=matrix_picture(counts),
        gallery=gallery,
        calibration=calibration,
        reliability=reliability_chart(calibration),
        confidence=confidence_chart(calibration),
        ranks=count_ranks(predictions),
        settings=_settings(run),
    )
    return ReportPage(html, gallery.shown, gallery.missing)


def _settings(run: RunView) -> dict[str, list[tuple[str, str, bool]]]:
    """Section to its settings: name, value, and whether it is not the default."""
    defaults = settings_of(RunConfig())
    sections: dict[str, list[tuple[str, str, bool]]] = {}
    for key, value in run.settings.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, []).append((name, value, value != defaults.get(key)))
    return sections
