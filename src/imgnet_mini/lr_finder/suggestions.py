"""What a range test and trials suggest as the peak learning rate, or why they suggest nothing."""

import math
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from imgnet_mini.lr_finder.curve import Curve
from imgnet_mini.lr_finder.features import MIN_STEPS, CurveFeatures
from imgnet_mini.lr_finder.trials import Trials

Method = Literal["trials", "default", "turn", "steepest", "valley", "minimum_over_10"]
Range = tuple[float, float]

METHOD_NAMES: Final[dict[Method, str]] = {
    "trials": "trials",
    "default": "train without --max-lr",
    "turn": "turn",
    "steepest": "steepest descent",
    "valley": "valley",
    "minimum_over_10": "minimum / 10",
}
"""Every method and its name, best first: of those that give a rate, the first is recommended.

At the rate of the trials, a small network's training to the end came within a point of the best
rate of a grid; of the range test's own methods only the turn did (benchmarks/lr_advice.py).
"""

_STANDARD_ERRORS: Final = 3.0
"""A fall counts from here on. 2 to 5 in 100 flat curves of 20 to 500 noisy steps seem to fall by
more, since the minimum is the lowest of many points (simulated with Gaussian noise). A higher bar
would refuse true falls: seven of ResNet-18 and -50, untrained, at 35 images a class and 100 steps,
were 2.4 to 4.7 of these."""

_LEAST_FALL: Final = 1e-3
"""A smaller share of the first loss is no fall either, however quiet the curve."""


@dataclass(frozen=True)
class Regions:
    """Lowest and highest learning rate of each part of the curve; None where it has no such part.

    flat: before the loss has come down by a tenth of its fall.
    falling: from there to its minimum.
    diverging: from where it has climbed back by half of its fall, for good, or is not finite.
    """

    flat: Range | None = None
    falling: Range | None = None
    diverging: Range | None = None


@dataclass(frozen=True)
class Suggestions:
    """Peak learning rates by six methods; None where one does not give a rate.

    trials: from the best of a few short trainings, for one of `steps` steps.
    default: what train takes by itself, where those have learnt too little.
    turn: where the smoothed loss has climbed back by half of its fall.
    steepest: where, in its fall, the smoothed loss falls fastest against the rate's logarithm.
    valley: the middle of the longest fall.
    minimum_over_10: a tenth of the rate with the lowest smoothed loss; None where the loss is
        still falling at the last rate.
    problem: why the curve suggests nothing and what to change, in a sentence or two.
    steps: of the training that all this is for; 0 where it is not longer than a trial.
    """

    trials: float | None = None
    default: float | None = None
    turn: float | None = None
    steepest: float | None = None
    valley: float | None = None
    minimum_over_10: float | None = None
    problem: str | None = None
    steps: int = 0
    regions: Regions = Regions()

    @property
    def rates(self) -> dict[Method, float | None]:
        """Every method and what it suggests."""
        return {method: getattr(self, method) for method in METHOD_NAMES}

    @property
    def recommended(self) -> Method | None:
        """The first method of `METHOD_NAMES` that gives a rate."""
        return next((method for method, rate in self.rates.items() if rate is not None), None)

    @property
    def lr(self) -> float | None:
        """The suggestion of the recommended method."""
        return None if self.recommended is None else self.rates[self.recommended]


def suggest(
    curve: Curve, trials: Trials | None = None, *, steps: int = 0, default: float | None = None
) -> Suggestions:
    """Read the curve, or say why it cannot be read; and take what trials say.

    steps: of the training that the peak is for.
    default: what train takes by itself, the peak of its settings or that of the linear rule.
    """
    tried = None if trials is None else trials.lr_for(steps)
    too_short = trials is not None and tried is None and trials.best.loss < math.inf
    of_trials = Suggestions(trials=tried, default=default if too_short else None, steps=steps)
    if curve.usable < MIN_STEPS:
        return replace(of_trials, problem=_too_short(curve))
    shape = CurveFeatures.of(curve)
    problem = _problem(curve, shape)
    if problem:
        return replace(of_trials, problem=problem)
    regions = _regions(curve, shape)
    return replace(
        of_trials,
        turn=regions.diverging[0] if regions.diverging else None,
        steepest=float(curve.lrs[shape.steepest]),
        valley=float(curve.lrs[shape.valley]),
        minimum_over_10=None if shape.falls_to_the_end else float(curve.lrs[shape.lowest]) / 10,
        regions=regions,
    )


def explain(suggestions: Suggestions, trials: Trials | None) -> str:
    """Why the recommended rate is recommended, in a sentence or two; empty where none is."""
    if suggestions.recommended is None:
        return ""
    if suggestions.default is not None and trials is not None:
        return (
            f"Recommended is what train takes by itself: no trial of {trials.steps} steps has "
            "learnt enough for peaks to be compared, and the range test is far too cautious on a "
            f"network that has learnt nothing. Longer trials may: --trial-steps {3 * trials.steps}."
        )
    if suggestions.trials is None or trials is None:
        return (
            f"Recommended by the {METHOD_NAMES[suggestions.recommended]} of the range test, which "
            "is cautious on a network that has learnt nothing yet: a higher peak, such as that of "
            "train without --max-lr, may well end better."
            + ("" if trials else " Trials (--trials 6) compare peaks.")
        )
    text = f"Recommended by trials: {_describe_best(trials)}"
    if trials.lr == suggestions.trials:
        return text
    return (
        f"{text} A training of {suggestions.steps} steps favours a lower peak: "
        f"{suggestions.trials:.3g}, by the cube root of how many times as long it is."
    )


def _describe_best(trials: Trials) -> str:
    rates = [trial.lr for trial in trials.runs]
    best = trials.best.lr
    text = (
        f"of {len(rates)} trainings of {trials.steps} steps, from the same weights on the same "
        f"images, the one with a peak of {best:.3g} ended with the lowest loss"
    )
    if best in (rates[0], rates[-1]):
        end = "lowest" if best == rates[0] else "highest"
        return f"{text}. It is the {end} that was tried: more --trials look further."
    if trials.lr == best:
        return f"{text}."
    return f"{text}, and a parabola through it and its neighbours is lowest at {trials.lr:.3g}."


def _problem(curve: Curve, shape: CurveFeatures) -> str | None:
    """What keeps the curve from being read."""
    needed = max(_STANDARD_ERRORS * shape.fall_error, _LEAST_FALL * abs(shape.first))
    if shape.fall <= needed:
        rises = curve.stopped != "end" or curve.smoothed[-1] > shape.first + needed
        higher = "--num-iter" if rises else "--num-iter or --end-lr"
        return (
            f"The loss never falls clearly: from {shape.first:.4g} it comes down by "
            f"{max(shape.fall, 0):.2g} at most, and up to {needed:.2g} may be chance. "
            f"Use a higher {higher}."
        )
    if shape.falls_from_the_start:
        return (
            f"The loss falls fastest at the first learning rates, from {curve.lrs[0]:.3g} on. "
            "Use a lower --start-lr."
        )
    if shape.steepens_to_the_end:
        return (
            f"The loss still falls fastest at the last learning rates, up to "
            f"{curve.lrs[-1]:.3g}. Use a higher --end-lr."
        )
    return None


def _too_short(curve: Curve) -> str:
    steps = f"{curve.usable} step{'' if curve.usable == 1 else 's'}"
    if curve.stopped == "end":
        return f"The test had only {steps}, and needs {MIN_STEPS}. Use a higher --num-iter."
    what = "diverged" if curve.stopped == "diverged" else f"became {curve.losses[-1]}"
    return (
        f"The loss {what} at a learning rate of {curve.lrs[-1]:.3g}, after only {steps} of the "
        f"{MIN_STEPS} that are needed. Use a lower --start-lr or a higher --num-iter; if it ends "
        "like this again, look at the images and labels."
    )


def _regions(curve: Curve, shape: CurveFeatures) -> Regions:
    lrs, smoothed = curve.lrs, curve.smoothed[: curve.usable]
    low = np.flatnonzero(smoothed < shape.first - 0.5 * shape.fall)
    diverges = int(low[-1]) + 1
    if curve.stopped != "end":
        diverges = min(diverges, lrs.size - 1)
    return Regions(
        flat=(float(lrs[0]), float(lrs[shape.begins])) if shape.begins else None,
        falling=(float(lrs[shape.begins]), float(lrs[shape.lowest])),
        diverging=(float(lrs[diverges]), float(lrs[-1])) if diverges < lrs.size else None,
    )
