"""Peak learning rates suggested by a range test and trial runs, or why there is none."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import Field

from imgnet_mini.lr_finder.curve import MIN_STEPS, Curve, CurveFeatures, extract_features
from imgnet_mini.lr_finder.trials import TrialRuns
from imgnet_mini.utils.json_file import JsonModel

Method = Literal["trials", "default", "turn", "steepest", "valley", "minimum_over_10"]
LrRange = Annotated[tuple[float, float], Field(strict=False)]

METHOD_NAMES: Final[dict[Method, str]] = {
    "trials": "trial runs",
    "default": "train without --max-lr",
    "turn": "start of divergence",
    "steepest": "steepest descent",
    "valley": "valley",
    "minimum_over_10": "minimum / 10",
}
"""Methods by their key in result files, best first: the first that gives a rate is recommended.

With the peak of the trial runs, complete trainings of a small network came within a point of the
best of a grid; of the range test's methods only `turn` did (benchmarks/lr_advice.py)."""

_STANDARD_ERRORS: Final = 3.0
"""A drop counts from here on. 2 to 5 in 100 flat curves of 20 to 500 noisy steps seem to drop by
more, since the minimum is the lowest of many points (simulated with Gaussian noise). A higher bar
would refuse true drops: seven of ResNet-18 and -50, untrained, at 35 images a class and 100 steps,
were 2.4 to 4.7 standard errors."""

_MIN_DROP: Final = 1e-3
"""A smaller share of the first loss is not a drop either, however quiet the curve."""


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
    """Peak learning rates of six methods; None if a method gives none.

    trials: from the best of the trial runs, for a training of `steps` steps.
    default: the peak of train without --max-lr, if the trial runs have learned too little.
    turn: where the smoothed loss has risen again by half of its drop.
    steepest: where the smoothed loss falls fastest over the logarithm of the rate.
    valley: middle of the longest fall.
    minimum_over_10: a tenth of the rate with the lowest smoothed loss; None if the loss is
        still falling at the last rate.
    problem: why the curve suggests nothing and what to change, in a sentence or two.
    steps: of the training that the suggestions are for; 0: not longer than a trial run.
    """

    trials: float | None = None
    default: float | None = None
    turn: float | None = None
    steepest: float | None = None
    valley: float | None = None
    minimum_over_10: float | None = None
    problem: str | None = None
    steps: int = 0
    regions: Regions = field(default_factory=Regions)

    @property
    def lrs(self) -> dict[Method, float | None]:
        """The suggestion of each method."""
        return {method: getattr(self, method) for method in METHOD_NAMES}

    @property
    def recommended(self) -> Method | None:
        """The first method of `METHOD_NAMES` that gives a rate."""
        return next((method for method, lr in self.lrs.items() if lr is not None), None)

    @property
    def lr(self) -> float | None:
        """The suggestion of the recommended method."""
        return None if self.recommended is None else self.lrs[self.recommended]


def suggest(
    curve: Curve, trials: TrialRuns | None = None, *, steps: int = 0, default: float | None = None
) -> Suggestions:
    """Derive suggestions from a curve, or say why it gives none, and from trial runs.

    steps: of the training that the suggestions are for.
    default: the peak of train without --max-lr.
    """
    found = Suggestions(steps=steps)
    if trials is not None:
        found = replace(found, trials=trials.peak_lr_for(steps))
        if not trials.has_learned and not trials.all_diverged:
            found = replace(found, default=default)
    if curve.finite_steps < MIN_STEPS:
        return replace(found, problem=_describe_too_short(curve))
    features = extract_features(curve)
    problem = _find_problem(curve, features)
    if problem:
        return replace(found, problem=problem)
    regions = _find_regions(curve, features)
    minimum = float(curve.lrs[features.minimum])
    return replace(
        found,
        turn=regions.diverging[0] if regions.diverging else None,
        steepest=float(curve.lrs[features.steepest]),
        valley=float(curve.lrs[features.valley]),
        minimum_over_10=None if features.minimum_at_end else minimum / 10,
        regions=regions,
    )


def explain(suggestions: Suggestions, trials: TrialRuns | None) -> str:
    """Say in a sentence or two why the recommended rate is; empty if there is none."""
    if suggestions.recommended is None:
        return ""
    if suggestions.default is not None and trials is not None:
        return (
            f"Recommended: the default of train. No trial run of {trials.steps} steps has learned "
            "enough to compare peaks, and the range test is far too cautious on an untrained "
            f"network. Longer trial runs may help: --trial-steps {3 * trials.steps}."
        )
    if suggestions.trials is None or trials is None:
        return (
            f"Recommended: {METHOD_NAMES[suggestions.recommended]} of the range test, which is "
            "cautious on an untrained network: a higher peak, such as the default of train, may "
            "well end better." + ("" if trials else " Trial runs (--trials 6) compare peaks.")
        )
    text = f"Recommended: trial runs. {_describe_best(trials)}"
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
        f"Of {len(lrs)} runs of {trials.steps} steps, from the same weights on the same images, "
        f"peak lr {best:.3g} had the lowest final loss"
    )
    if best in (lrs[0], lrs[-1]):
        end = "lowest" if best == lrs[0] else "highest"
        return f"{text}. It is the {end} that was tried: more --trials search further."
    if trials.peak_lr == best:
        return f"{text}."
    return (
        f"{text}; a parabola through it and its neighbors has its minimum at {trials.peak_lr:.3g}."
    )


def _find_problem(curve: Curve, features: CurveFeatures) -> str | None:
    """Say why the curve gives no suggestion, and the cure; None if it gives one."""
    initial, drop = features.initial_loss, features.drop
    needed = max(_STANDARD_ERRORS * features.drop_error, _MIN_DROP * abs(initial))
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
        return f"The test had only {steps}, and needs {MIN_STEPS}. Use a higher --num-iter."
    event = "diverged" if curve.stopped == "diverged" else f"became {curve.losses[-1]}"
    return (
        f"The loss {event} at learning rate {curve.lrs[-1]:.3g}, after only {steps} of the "
        f"{MIN_STEPS} needed. Use a lower --start-lr or a higher --num-iter; if that does not "
        "help, check the images and labels."
    )


def _find_regions(curve: Curve, features: CurveFeatures) -> Regions:
    lrs, smoothed = curve.lrs, curve.smoothed[: curve.finite_steps]
    low = np.flatnonzero(smoothed < features.initial_loss - 0.5 * features.drop)
    diverges = int(low[-1]) + 1
    if curve.stopped != "end":
        diverges = min(diverges, lrs.size - 1)
    start = float(lrs[features.drop_start])
    return Regions(
        flat=(float(lrs[0]), start) if features.drop_start else None,
        falling=(start, float(lrs[features.minimum])),
        diverging=(float(lrs[diverges]), float(lrs[-1])) if diverges < lrs.size else None,
    )
