"""Remarks on the results of a run, and commands to run next."""

import shlex
from dataclasses import dataclass
from typing import Final

from imgnet_mini.config.run_config import run_flags
from imgnet_mini.config.run_settings import RunSection
from imgnet_mini.reporting.format import format_fixed, format_lr
from imgnet_mini.reporting.run_view import PICTURES, RunView

SMALL_CLASS: Final = 100
"""Training images per class below which a network trained from scratch lacks data."""


@dataclass(frozen=True)
class Step:
    """Something to do next, and its command."""

    what: str
    command: str


def remarks(run: RunView) -> list[str]:
    """Return sentences on the numbers of the run."""
    found = [_compare_best_and_last(run)]
    if run.final_train is not None:
        gap = run.final_train.top1 - run.final.top1
        relation = "above" if gap >= 0 else "below"
        found.append(
            "In the final epoch, top-1 on the training images is "
            f"{format_fixed(run.final_train.top1)} %, {format_fixed(abs(gap), 1)} points "
            f"{relation} validation. It is measured on augmented images, while the weights change."
        )
    images, classes = run.environment.train_images, run.environment.classes
    if images and classes and images / classes < SMALL_CLASS:
        found.append(
            f"{images / classes:.3g} training images per class are few for a network trained "
            "from scratch."
        )
    if run.best.phase == "ema":
        found.append(
            "Validation results are those of the EMA weights, which are also saved as the best "
            "weights."
        )
    if run.config.optimizer.class_weights:
        found.append(
            "Training losses are weighted by class (--class-weights), validation losses are not."
        )
    smoothing = run.config.optimizer.label_smoothing
    if smoothing:
        found.append(
            f"Losses include label smoothing of {format_lr(smoothing)}, so even perfect "
            "predictions have a loss above 0."
        )
    return found


def next_steps(run: RunView) -> list[Step]:
    """Return commands that add what the run lacks, or try what its results suggest."""
    steps = []
    settings = f"--config {shlex.quote((run.folder / 'out' / run.name / 'config.toml').as_posix())}"
    if run.finder is None:
        steps.append(Step("Find a learning rate", f"imgnet-mini find-lr {settings}"))
    if not run.evaluation.report or len(run.pictures) < len(PICTURES):
        flags = run_flags(RunSection(name=run.name, output_dir=run.folder))
        steps.append(Step("Draw the plots and evaluate each class", f"imgnet-mini report{flags}"))
    again = f"imgnet-mini train {settings} --name {run.name[:56]}"
    if run.finder and run.peak_lr and not 0.5 < run.peak_lr / run.finder.lr < 2:
        suggested = format_lr(run.finder.lr)
        steps.append(Step("Try the suggested peak", f"{again}-lr --max-lr {suggested}"))
    epochs = 2 * run.config.schedule.epochs
    steps.append(Step("Train for twice as many epochs", f"{again}-long --epochs {epochs}"))
    return steps


def _compare_best_and_last(run: RunView) -> str:
    behind = run.final.epoch - run.best.epoch
    if behind == 0:
        return "The last epoch is the best: longer training may improve it further."
    return (
        f"The best epoch is {behind} before the last, which is "
        f"{format_fixed(run.best.top1 - run.final.top1)} points lower."
    )
