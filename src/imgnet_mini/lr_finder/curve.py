"""What a range test measured: the loss at each learning rate, raw and smoothed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Stopped = Literal["end", "diverged", "nan"]

_WIDTH = 0.05
"""Standard deviation of the smoothing window, as a share of the planned steps."""


@dataclass(frozen=True)
class Curve:
    """A range test, one entry a step taken.

    lrs: rising by the same factor from step to step.
    losses: the mean over each step's batch; only the last may be infinite or NaN.
    smoothed: see `smooth`; NaN where the loss is not finite.
    stopped: at the last planned step, or before it since the loss diverged or was not finite.
    """

    lrs: Floats
    losses: Floats
    smoothed: Floats
    stopped: Stopped

    @property
    def usable(self) -> int:
        """How many steps had a finite loss."""
        return int(np.isfinite(self.losses).sum())


def build_curve(
    lrs: Sequence[float], losses: Sequence[float], stopped: Stopped, *, num_iter: int
) -> Curve:
    """Add the smoothed losses; `num_iter`: how many steps were planned."""
    raw = np.asarray(losses, dtype=np.float64)
    finite = np.isfinite(raw)
    smoothed = np.full_like(raw, np.nan)
    smoothed[finite] = smooth(raw[finite], width=_width(num_iter))
    return Curve(np.asarray(lrs, dtype=np.float64), raw, smoothed, stopped)


def averaged_steps(num_iter: int) -> float:
    """How many losses each smoothed one is worth: it is as precise as the mean of so many."""
    return 2 * float(np.sqrt(np.pi)) * _width(num_iter)


def smooth(losses: Floats, *, width: float) -> Floats:
    """Local linear regression with Gaussian weights (Fan and Gijbels 1996, section 3).

    losses: finite.
    width: standard deviation of the weights, in steps.

    Unlike a running average it looks both ways, so that minimum and slope stay at their
    learning rates instead of moving to higher ones, and it is unbiased at both ends too. A loss
    that explodes is cut, half a fall above the first ones: its height must not bend the curve as
    far as the window reaches before it.
    """
    if losses.size < 2:
        return losses
    highest = losses[: max(5, losses.size // 5)].max()
    cut = np.minimum(losses, highest + 0.5 * (highest - losses.min()))
    reach = int(np.ceil(4 * width))
    offsets = np.arange(-reach, reach + 1, dtype=np.float64)
    weights = np.exp(-0.5 * (offsets / width) ** 2)

    def moment(values: Floats, power: int) -> Floats:
        """At each step the sum over its window of weight x offset^power x value."""
        kernel: Floats = weights * offsets**power
        summed: Floats = np.correlate(np.pad(values, reach), kernel, mode="valid")
        return summed

    ones = np.ones_like(cut)
    s0, s1, s2 = moment(ones, 0), moment(ones, 1), moment(ones, 2)
    determinant = s0 * s2 - s1**2
    fitted: Floats = (s2 * moment(cut, 0) - s1 * moment(cut, 1)) / determinant
    return fitted


def _width(num_iter: int) -> float:
    return max(1.0, _WIDTH * num_iter)
