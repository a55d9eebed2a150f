"""What the records of a run suggest to its author."""

from dataclasses import dataclass

from imgnet_mini.reporting.readme.markdown import fixed, rate
from imgnet_mini.reporting.readme.run_view import PICTURES, RunView

SMALL_CLASS = 100
"""Training images a class below which a network that starts from random weights lacks data."""


@dataclass(frozen=True)
class Step:
    """Something to do next, and the command that does it."""

    what: str
    command: str


def remarks(run: RunView) -> list[str]:
    """Sentences about the numbers of the run."""
    found = [_best_epoch(run)]
    if run.final_train is not None:
        gap = run.final_train.top1 - run.final.top1
        relation = "above" if gap >= 0 else "below"
        found.append(
            f"In the final epoch top-1 is {fixed(run.final_train.top1)} % on the training images, "
            f"{fixed(abs(gap), 1)} points {relation} validation. Training images are counted as "
            "augmented, and while the weights still change."
        )
    images, classes = run.environment.train_images, run.environment.classes
    if images and classes and images / classes < SMALL_CLASS:
        found.append(
            f"With {images / classes:.3g} training images a class, data are scarce for a network "
            "that starts from random weights."
        )
    if run.best.phase == "ema":
        found.append(
            "The figures of validation are those of the averaged weights (EMA), and so are the "
            "weights that are kept as the best."
        )
    smoothing = run.config.optimizer.label_smoothing
    if smoothing:
        found.append(
            f"The losses include label smoothing of {rate(smoothing)}: even perfect answers do not "
            "bring them to 0."
        )
    return found


def next_steps(run: RunView) -> list[Step]:
    """Commands that add what this run lacks, or try what its results call for."""
    steps = []
    if run.finder is None:
        steps.append(Step("Look for a learning rate", f"imgnet-mini find-lr --name {run.name}"))
    if not run.evaluation.overall or len(run.pictures) < len(PICTURES):
        steps.append(
            Step(
                "Draw the pictures and measure each class", f"imgnet-mini report --name {run.name}"
            )
        )
    again = f"imgnet-mini train --config out/{run.name}/config.toml --name {run.name[:56]}"
    if run.finder and run.peak_lr and not 0.5 < run.peak_lr / run.finder.lr < 2:
        suggested = rate(run.finder.lr)
        steps.append(Step("Try the suggested peak", f"{again}-lr --max-lr {suggested}"))
    epochs = 2 * run.config.schedule.epochs
    steps.append(Step("Train for twice as long", f"{again}-long --epochs {epochs}"))
    return steps


def _best_epoch(run: RunView) -> str:
    behind = run.final.epoch - run.best.epoch
    if behind == 0:
        return "The last epoch is the best one: longer training may still add to it."
    return (
        f"The best epoch lies {behind} before the last one, which is "
        f"{fixed(run.best.top1 - run.final.top1)} points lower."
    )
