"""Peak learning rates suggested by a range test and trial runs, or why there is none."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import Field

from imgnet_mini.lr_finder.curve import (
    MIN_DROP,
    MIN_STEPS,
    Curve,
    CurveFeatures,
    FloatArray,
    cut_after_hump,
    extract_features,
    has_clear_hump,
)
from imgnet_mini.lr_finder.trials import TrialRuns
from imgnet_mini.utils.json_file import JsonModel

Method = Literal["trials", "ramp", "default", "turn", "steepest", "valley", "minimum_over_10"]
LrRange = Annotated[tuple[float, float], Field(strict=False)]

METHOD_NAMES: Final[dict[Method, str]] = {
    "trials": "trial runs",
    "ramp": "half the start of divergence",
    "default": "train without --max-lr",
    "turn": "start of divergence",
    "steepest": "steepest descent",
    "valley": "valley",
    "minimum_over_10": "minimum / 10",
}
"""Methods by their key in result files; one of the first three is recommended.

With these, complete trainings of small networks came near the best of a grid; the last three are
far too low (benchmarks/lr_advice.py)."""

_STANDARD_ERRORS: Final = 3.0
"""A drop counts from here on. 2 to 5 in 100 flat curves of 20 to 500 noisy steps seem to drop by
more, since the minimum is the lowest of many points (simulated with Gaussian noise). A higher bar
would refuse true drops: seven of ResNet-18 and -50, untrained, at 35 images a class and 100 steps,
were 2.4 to 4.7 standard errors."""


_CLEARLY_HIGHER: Final = 1.15
"""A loss this many times the first ones has diverged, even if it has never fallen."""


class Regions(JsonModel):
    """Lowest and highest learning rate of each part of the curve; None if it has no such part.

    flat: before the loss has come down by a tenth of its drop.
    falling: from there to the minimum.
    diverging: from where the loss has risen by half of its drop, for good, or is not finite.
    """

    flat: LrRange | None = None
    falling: LrRange | None = None
    diverging: LrRange | None = None


@dataclass(frozen=True)
class Suggestions:
    """Peak learning rates of each method; None if a method gives none.

    trials: from the best of the trial runs, for a training of `steps` steps.
    ramp: half of `turn`.
    default: the peak of train without --max-lr; lower if all trial runs diverged.
    turn: where the loss of the range test has risen again by half of its drop, or has clearly
        risen without having fallen.
    steepest: where the smoothed loss falls fastest over the logarithm of the rate.
    valley: middle of the longest fall.
    minimum_over_10: a tenth of the rate with the lowest smoothed loss; None if the loss is
        still falling at the last rate.
    problem: why the curve suggests nothing and what to change, in a sentence or two.
    limit: what ended the search early, in a sentence.
    steps: of the training that the suggestions are for; 0: not longer than a trial run.
    """

    trials: float | None = None
    ramp: float | None = None
    default: float | None = None
    turn: float | None = None
    steepest: float | None = None
    valley: float | None = None
    minimum_over_10: float | None = None
    problem: str | None = None
    limit: str = ""
    steps: int = 0
    regions: Regions = field(default_factory=Regions)

    @property
    def lrs(self) -> dict[Method, float | None]:
        """The suggestion of each method."""
        return {method: getattr(self, method) for method in METHOD_NAMES}

    @property
    def recommended(self) -> Method | None:
        """The trial runs; else the higher one of range test and default.

        The range test is too cautious on an untrained network, so it only raises the default.
        """
        if self.trials is not None:
            return "trials"
        if self.ramp is not None and self.ramp > (self.default or 0):
            return "ramp"
        return None if self.default is None else "default"

    @property
    def lr(self) -> float | None:
        """The suggestion of the recommended method."""
        return None if self.recommended is None else self.lrs[self.recommended]


def suggest(
    curve: Curve,
    trials: TrialRuns | None = None,
    *,
    steps: int = 0,
    default: float | None = None,
    limit: str = "",
) -> Suggestions:
    """Derive suggestions from a curve, or say why it gives none, and from trial runs.

    steps: of the training that the suggestions are for.
    default: the peak of train without --max-lr.
    limit: what ended the search early, in a sentence.
    """
    found = Suggestions(steps=steps, default=default, limit=limit)
    if trials is not None:
        found = replace(found, trials=trials.peak_lr_for(steps))
        if trials.all_diverged and default is not None:
            found = replace(found, default=min(default, trials.runs[0].peak_lr / 4))
    if curve.finite_steps < MIN_STEPS:
        return replace(found, problem=_describe_too_short(curve))
    last_lr = float(curve.lrs[-1])
    curve = cut_after_hump(curve)
    features = extract_features(curve)
    problem = _find_problem(curve, features)
    regions = _find_rise(curve, features) if problem else _find_regions(curve, features)
    if regions.diverging:
        regions = regions.model_copy(update={"diverging": (regions.diverging[0], last_lr)})
    turn = regions.diverging[0] if regions.diverging else None
    found = replace(found, ramp=turn and turn / 2, turn=turn, regions=regions)
    if problem:
        return replace(found, problem=problem)
    minimum = float(curve.lrs[features.minimum])
    return replace(
        found,
        steepest=float(curve.lrs[features.steepest]),
        valley=float(curve.lrs[features.valley]),
        minimum_over_10=None if features.minimum_at_end else minimum / 10,
    )


def explain(suggestions: Suggestions, trials: TrialRuns | None) -> str:
    """Say in a few sentences why the recommended rate is; empty if there is none."""
    method, lr = suggestions.recommended, suggestions.lr
    if method is None or lr is None:
        return ""
    name = "the peak of train without --max-lr" if method == "default" else METHOD_NAMES[method]
    sentences = [f"Recommended: {name}.", suggestions.limit, _describe_trials(suggestions, trials)]
    if method == "default" and suggestions.problem:
        sentences.append(f"The range test does not tell either. {suggestions.problem}")
    elif method == "default" and suggestions.turn is not None:
        sentences.append(
            "The range test is no reason to leave it: on an untrained network it is too cautious, "
            "so it may raise the peak, and not lower it."
        )
    diverging = suggestions.regions.diverging
    if diverging and lr >= diverging[0]:
        sentences.append(
            f"The range test diverges from {diverging[0]:.3g} on; training, with its slow "
            "warm-up, bears higher rates."
        )
    return " ".join(filter(None, sentences))


def _describe_trials(suggestions: Suggestions, trials: TrialRuns | None) -> str:
    """Say what the trial runs have shown; empty without any."""
    if trials is None:
        return ""
    if trials.all_diverged:
        return f"All trial runs diverged, down to peak lr {trials.runs[0].peak_lr:.3g}."
    if suggestions.trials is None:
        return (
            f"No trial run of {trials.steps} steps has learned enough to compare peaks; a larger "
            "--budget makes them longer."
        )
    text = _describe_best(trials)
    if trials.peak_lr == suggestions.trials:
        return text
    return (
        f"{text} For a training of {suggestions.steps} steps the peak is lowered to "
        f"{suggestions.trials:.3g}, by the cube root of the ratio of lengths."
    )


def _describe_best(trials: TrialRuns) -> str:
    lrs = [run.peak_lr for run in trials.runs]
    best = trials.best.peak_lr
    text = (
        f"Of {len(lrs)} run{'s' if len(lrs) > 1 else ''} of {trials.steps} steps, from the same "
        f"weights on the same images, peak lr {best:.3g} had the lowest final loss"
    )
    if best in (lrs[0], lrs[-1]):
        end = "lowest" if best == lrs[0] else "highest"
        return f"{text}. It is the {end} that was tried: a larger --budget searches further."
    if trials.peak_lr == best:
        return f"{text}."
    return (
        f"{text}; a parabola through it and its neighbors has its minimum at {trials.peak_lr:.3g}."
    )


def _find_problem(curve: Curve, features: CurveFeatures) -> str | None:
    """Say why the curve gives no suggestion, and the cure; None if it gives one."""
    initial, drop = features.initial_loss, features.drop
    needed = max(_STANDARD_ERRORS * features.drop_error, MIN_DROP * abs(initial))
    if drop <= needed:
        rises = curve.stopped != "end" or curve.smoothed[-1] > initial + needed
        cure = "--num-iter" if rises else "--num-iter or --end-lr"
        return (
            f"The loss never falls clearly: from {initial:.4g} by {max(drop, 0):.2g} at most, and "
            f"up to {needed:.2g} may be noise. Use a higher {cure}."
        )
    if features.steepest_at_start:
        return (
            f"The loss falls fastest at the first learning rates, from {curve.lrs[0]:.3g} on. "
            "Use a lower --start-lr."
        )
    if features.steepest_at_end:
        return (
            f"The loss still falls fastest at the last learning rates, up to "
            f"{curve.lrs[-1]:.3g}. Use a higher --end-lr."
        )
    return None


def _describe_too_short(curve: Curve) -> str:
    steps = f"{curve.finite_steps} step{'' if curve.finite_steps == 1 else 's'}"
    if curve.stopped == "end":
        cure = "Use a higher --budget or --num-iter."
        return f"The test had only {steps}, and needs {MIN_STEPS}. {cure}"
    event = "diverged" if curve.stopped == "diverged" else f"became {curve.losses[-1]}"
    return (
        f"The loss {event} at learning rate {curve.lrs[-1]:.3g}, after only {steps} of the "
        f"{MIN_STEPS} needed. Use a lower --start-lr or a higher --budget; if that does not "
        "help, check the images and labels."
    )


def _find_regions(curve: Curve, features: CurveFeatures) -> Regions:
    """Find the parts of a curve.

    Losses that explode are clipped and smoothed, so the smoothed curve rises later than they do:
    the loss diverges from where either it or the median of three losses is high for good.
    """
    lrs, smoothed = curve.lrs, curve.smoothed[: curve.finite_steps]
    level = features.initial_loss - 0.5 * features.drop
    low = [np.flatnonzero(values < level) for values in (smoothed, _medians(curve))]
    diverges = min(int(steps[-1]) + 1 for steps in low if steps.size)
    if curve.stopped != "end":
        diverges = min(diverges, lrs.size - 1)
    start = float(lrs[features.drop_start])
    minimum = max(features.drop_start, min(features.minimum, diverges))
    return Regions(
        flat=(float(lrs[0]), start) if features.drop_start else None,
        falling=(start, float(lrs[minimum])),
        diverging=(float(lrs[diverges]), float(lrs[-1])) if diverges < lrs.size else None,
    )


def _find_rise(curve: Curve, features: CurveFeatures) -> Regions:
    """Find where a curve that does not fall clearly is clearly too high, or has risen by half."""
    losses, level = _medians(curve), _CLEARLY_HIGHER * features.initial_loss
    top = len(losses)
    if not losses[-1] > level:
        if not has_clear_hump(curve):
            return Regions()
        losses = curve.smoothed[: curve.finite_steps]
        top = int(np.argmax(losses))
        level = (losses[top] + losses[:top].min()) / 2
    low = np.flatnonzero(losses[:top] < level)
    start = int(low[-1]) + 1 if low.size else 0
    if curve.stopped != "end":
        start = min(start, curve.lrs.size - 1)
    first, turn, last = (float(curve.lrs[step]) for step in (0, start, -1))
    return Regions(flat=(first, turn) if start else None, diverging=(turn, last))


def _medians(curve: Curve) -> FloatArray:
    """Return the medians of each finite loss and its neighbors."""
    losses = np.pad(curve.losses[: curve.finite_steps], 1, mode="edge")
    medians: FloatArray = np.median(np.stack([losses[:-2], losses[1:-1], losses[2:]]), axis=0)
    return medians
