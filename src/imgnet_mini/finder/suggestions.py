"""What the curve of a range test suggests as the peak learning rate, or why it suggests nothing."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from imgnet_mini.finder.curve import Curve
from imgnet_mini.finder.shape import MIN_STEPS, Shape

Method = Literal["steepest", "valley", "minimum_over_10"]
Range = tuple[float, float]

RECOMMENDED: Final[Method] = "steepest"

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
    """Peak learning rates by three methods; None where the curve does not give one.

    steepest: where, in its fall, the smoothed loss falls fastest against the rate's logarithm.
    valley: the middle of the longest fall.
    minimum_over_10: a tenth of the rate with the lowest smoothed loss; None where the loss is
        still falling at the last rate.
    problem: why nothing is suggested and what to change, in a sentence or two.
    """

    steepest: float | None = None
    valley: float | None = None
    minimum_over_10: float | None = None
    problem: str | None = None
    regions: Regions = Regions()
    recommended: Method = RECOMMENDED

    @property
    def rates(self) -> dict[Method, float | None]:
        """Every method and what it suggests."""
        return {
            "steepest": self.steepest,
            "valley": self.valley,
            "minimum_over_10": self.minimum_over_10,
        }

    @property
    def lr(self) -> float | None:
        """The suggestion of the recommended method."""
        return self.rates[self.recommended]


def suggest(curve: Curve) -> Suggestions:
    """Read the curve, or say why it cannot be read."""
    if curve.usable < MIN_STEPS:
        return Suggestions(problem=_too_short(curve))
    shape = Shape.of(curve)
    problem = _problem(curve, shape)
    if problem:
        return Suggestions(problem=problem)
    return Suggestions(
        steepest=float(curve.lrs[shape.steepest]),
        valley=float(curve.lrs[shape.valley]),
        minimum_over_10=None if shape.falls_to_the_end else float(curve.lrs[shape.lowest]) / 10,
        regions=_regions(curve, shape),
    )


def _problem(curve: Curve, shape: Shape) -> str | None:
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


def _regions(curve: Curve, shape: Shape) -> Regions:
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
