"""Where the parts of a range test's curve lie, and how high."""

import bisect
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from imgnet_mini.lr_finder.curve import Curve, Floats, averaged_steps

MIN_STEPS: Final = 20
"""With fewer, what is left of the noise after smoothing looks like a valley."""


@dataclass(frozen=True)
class CurveFeatures:
    """Levels of the loss, and steps by their index.

    first: the loss before it falls, the mean over the first half of the way to its minimum.
    fall: from there down to the lowest smoothed loss.
    fall_error: standard error of `fall`.
    begins: where the loss has come down for good by a tenth of `fall`.
    steepest: of the steps from `begins` to `lowest`, so that noise before the fall is left out.
    falls_from_the_start: it falls fastest at the first of the steps that are looked at.
    falls_to_the_end: the minimum is not passed.
    steepens_to_the_end: and it falls fastest at the last of the steps that are looked at.
    """

    first: float
    fall: float
    fall_error: float
    begins: int
    lowest: int
    steepest: int
    valley: int
    falls_from_the_start: bool
    falls_to_the_end: bool
    steepens_to_the_end: bool

    @classmethod
    def of(cls, curve: Curve) -> Self:
        """Measure a curve of at least `MIN_STEPS` usable steps."""
        steps = curve.usable
        losses, smoothed = curve.losses[:steps], curve.smoothed[:steps]
        skip = max(5, steps // 10)  # the ends are the noisiest part of a smoothed curve
        last = steps - 1 - (max(1, steps // 20) if curve.stopped == "end" else 0)
        lowest = skip + int(np.argmin(smoothed[skip:]))
        until = max(skip + 1, min(lowest, last))
        before = max(skip, lowest // 2)
        first = float(losses[:before].mean())
        fall = first - float(smoothed[lowest])
        high = np.flatnonzero(smoothed[:lowest] > first - 0.1 * fall)
        begins = int(high[-1]) + 1 if high.size else 0
        slope = np.gradient(smoothed, np.log(curve.lrs[:steps]))[: until + 1]
        steepest_from = min(max(skip, begins), until)
        steepest = steepest_from + int(np.argmin(slope[steepest_from:]))
        # A local line's variance is about four times as large at the end of the data.
        averaged = averaged_steps(steps) / (4 if lowest > last else 1)
        noise = _noise(losses[: max(lowest, steps // 2)])
        return cls(
            first=first,
            fall=fall,
            fall_error=noise * (1 / before + 1 / averaged) ** 0.5,
            begins=begins,
            lowest=lowest,
            steepest=steepest,
            valley=skip + _middle_of_longest_fall(smoothed[skip : until + 1]),
            falls_from_the_start=int(np.argmin(slope[skip:])) == 0,
            falls_to_the_end=lowest > last,
            steepens_to_the_end=lowest > last and steepest == until,
        )


def _noise(losses: Floats) -> float:
    """Standard deviation of a step's loss about the trend.

    From the median step between neighbours, which a slow fall or a sudden rise hardly moves;
    0.6745 is the median of |N(0, 1)|.
    """
    return float(np.median(np.abs(np.diff(losses))) / 0.6745 / np.sqrt(2))


def _middle_of_longest_fall(smoothed: Floats) -> int:
    """The middle of the longest strictly falling subsequence, found by patience sorting.

    The idea is fastai's `valley` (fastai/callback/schedule.py), which takes the middle of as
    many steps as that subsequence is long, before its end.
    """
    heights: list[float] = []  # negated loss that the best fall of each length ends with
    ends: list[int] = []  # and its step
    previous: list[int] = []
    for step, loss in enumerate(smoothed):
        length = bisect.bisect_left(heights, -loss)
        previous.append(ends[length - 1] if length else -1)
        heights[length : length + 1] = [-loss]
        ends[length : length + 1] = [step]
    step = ends[-1]
    for _ in range(len(ends) // 2):
        step = previous[step]
    return step
