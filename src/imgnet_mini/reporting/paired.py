"""Paired test: difference of the top-1 accuracy of two evaluations of the same images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from imgnet_mini.checkpoint.reader import file_sha256
from imgnet_mini.config.run_config import RunConfig, run_flags
from imgnet_mini.reporting.format import format_fixed
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.runs.predictions import Predictions, balanced_top1, load_predictions
from imgnet_mini.runs.results import EvaluationResult, Views

VIEW_NAMES: Final[dict[Views, str]] = {
    "center": "center crop",
    "hflip": "center crop and flip",
    "ten-crop": "ten crops",
}

_QUANTILE: Final = 1.959964
"""Of the normal distribution, for a two-sided interval of 95 %."""


@dataclass(frozen=True)
class PairedDifference:
    """Top-1 of the second evaluation minus that of the first, in points, on the same images.

    images: number of images; gained, lost: those that only the second, only the first has right.
    """

    images: int
    gained: int
    lost: int

    @property
    def points(self) -> float:
        """The difference in percentage points."""
        return 100 * (self.gained - self.lost) / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval, in percentage points.

        Agresti and Min 2005, Statistics in Medicine 24:729: Wald's interval after adding half an
        image to each cell of the two by two table. Images that both have right or both have wrong
        make it no wider, so it is narrower than that of two separate accuracies.
        """
        gained, lost, images = self.gained + 0.5, self.lost + 0.5, self.images + 2
        center = (gained - lost) / images
        deviation = math.sqrt((gained + lost) / images - center**2) / math.sqrt(images)
        margin = _QUANTILE * deviation
        return 100 * (center - margin), 100 * (center + margin)

    @property
    def is_noise(self) -> bool:
        """True if the interval includes no difference."""
        low, high = self.interval
        return low <= 0 <= high

    @property
    def interval_text(self) -> str:
        """The interval, such as `-0.31 to +1.90`."""
        return " to ".join(f"{bound:+.2f}" for bound in self.interval)


@dataclass(frozen=True)
class PairedRow:
    """One run beside the first; texts for a table, empty for the first itself."""

    name: str
    top1: str
    balanced: str
    difference: str = ""
    interval: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class PairedTest:
    """Runs beside the first, and why others are left out; no rows if nothing can be tested."""

    images: int
    rows: tuple[PairedRow, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """The last evaluation of the best or the last weights of a run."""

    name: str
    result: EvaluationResult
    predictions: Predictions


def compare_predictions(first: Predictions, second: Predictions) -> PairedDifference | None:
    """Return the difference of two evaluations; None if images or classes are not the same."""
    order = {image: index for index, image in enumerate(second.images)}
    if first.classes != second.classes or order.keys() != set(first.images):
        return None
    places = [order[image] for image in first.images]
    if not np.array_equal(first.targets, second.targets[places]):
        return None
    before = first.top[:, 0] == first.targets
    after = (second.top[:, 0] == second.targets)[places]
    return PairedDifference(
        len(before), gained=int((after & ~before).sum()), lost=int((before & ~after).sum())
    )


def read_evaluation(paths: RunPaths) -> Evaluation | None:
    """Read the evaluation of a run; None if there is none of its present weights.

    Raises:
        DataError: a file of it is damaged.
    """
    result = EvaluationResult.read_if_exists(paths.metrics)
    if result is None or not paths.predictions.exists():
        return None
    digests = [file_sha256(path) for path in (paths.best, paths.checkpoint) if path.exists()]
    if digests and result.checkpoint_sha256 not in digests:
        return None
    return Evaluation(paths.name, result, load_predictions(paths.predictions, result.classes))


def compare_with_first(runs: Sequence[RunPaths]) -> PairedTest:
    """Compare each run with the first, as far as both are evaluated in the same way.

    Raises:
        DataError: a file of an evaluation is damaged.
    """
    found = {paths.name: read_evaluation(paths) for paths in runs}
    notes = [_advise(paths) for paths in runs if found[paths.name] is None]
    first, *others = found.values()
    rows = []
    for run in others:
        if first is None or run is None:
            continue
        difference = _difference(first, run)
        if isinstance(difference, str):
            notes.append(f"Not compared image by image: {difference}")
        else:
            rows.append(_to_row(run, difference))
    if not rows or first is None:
        return PairedTest(0, (), tuple(notes))
    own = PairedRow(first.name, *_format_top1(first))
    return PairedTest(first.result.images, (own, *rows), tuple(notes))


def _advise(paths: RunPaths) -> str:
    run = RunConfig().override({"run": {"name": paths.name, "output_dir": paths.output_dir}}).run
    return (
        f"Not compared image by image: {paths.name} has no evaluation of its present weights; "
        f"run imgnet-mini evaluate{run_flags(run)}"
    )


def _difference(first: Evaluation, second: Evaluation) -> PairedDifference | str:
    """Return the difference, or why there is none."""
    views = (first.result.views, second.result.views)
    if views[0] != views[1]:
        return (
            f"{first.name} was evaluated with {VIEW_NAMES[views[0]]}, and {second.name} with "
            f"{VIEW_NAMES[views[1]]}; evaluate both alike"
        )
    found = compare_predictions(first.predictions, second.predictions)
    return found or f"{second.name} was evaluated on other images or classes than {first.name}"


def _to_row(run: Evaluation, difference: PairedDifference) -> PairedRow:
    return PairedRow(
        run.name,
        *_format_top1(run),
        f"{difference.points:+.2f} points",
        difference.interval_text,
        "may be noise" if difference.is_noise else "more than noise",
    )


def _format_top1(run: Evaluation) -> tuple[str, str]:
    """Return top-1 and balanced top-1."""
    balanced = balanced_top1(run.predictions.targets, run.predictions.top[:, 0])
    return f"{format_fixed(run.result.top1)} %", f"{format_fixed(balanced)} %"
