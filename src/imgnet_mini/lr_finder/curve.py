"""The loss curve of a range test, raw and smoothed, and its features."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
StopReason = Literal["end", "diverged", "nan"]

MIN_STEPS: Final = 20
"""With fewer steps, the noise left after smoothing looks like a valley."""

MIN_DROP: Final = 1e-3
"""A smaller share of the first loss is no drop or rise, however quiet the curve."""

_CLEAR_HUMP: Final = 6.0
"""Rise from the lowest to the highest smoothed loss, in standard errors. Of curves of Gaussian
noise, 9 % (40 steps) and 11 % (100 steps) rise by more."""

_WINDOW: Final = 0.05
"""Standard deviation of the smoothing window, as a share of the planned steps."""


@dataclass(frozen=True)
class Curve:
    """The curve of a range test, one entry per training step.

    lrs: increasing by a constant factor.
    losses: mean loss of each batch; only the last may be infinite or NaN.
    smoothed: see `smooth`; NaN where the loss is not finite.
    stopped: at the last planned step (`end`), or early because of the loss.
    """

    lrs: FloatArray
    losses: FloatArray
    smoothed: FloatArray
    stopped: StopReason

    @property
    def finite_steps(self) -> int:
        """Number of steps with a finite loss."""
        return int(np.isfinite(self.losses).sum())


def build_curve(
    lrs: Sequence[float], losses: Sequence[float], stopped: StopReason, *, num_iter: int
) -> Curve:
    """Smooth the losses of a range test that was planned for `num_iter` steps."""
    raw = np.asarray(losses, dtype=np.float64)
    finite = np.isfinite(raw)
    smoothed = np.full_like(raw, np.nan)
    smoothed[finite] = smooth(raw[finite], std=_window_std(num_iter))
    return Curve(np.asarray(lrs, dtype=np.float64), raw, smoothed, stopped)


def averaged_steps(num_iter: int) -> float:
    """Return how many independent losses have a mean as precise as a smoothed loss."""
    return 2 * float(np.sqrt(np.pi)) * _window_std(num_iter)


def smooth(losses: FloatArray, *, std: float) -> FloatArray:
    """Smooth by local linear regression with Gaussian weights (Fan and Gijbels 1996, section 3).

    Unlike a running average it has no lag, so minimum and slope stay at their learning rates, and
    it is unbiased at both ends. An exploding loss is clipped at half the drop above the first
    losses, or it would bend the curve before it.

    losses: finite.
    std: standard deviation of the weights, in steps.
    """
    if losses.size < 2:
        return losses
    highest = losses[: max(5, losses.size // 5)].max()
    clipped = np.minimum(losses, highest + 0.5 * (highest - losses.min()))
    reach = int(np.ceil(4 * std))
    offsets = np.arange(-reach, reach + 1, dtype=np.float64)
    weights = np.exp(-0.5 * (offsets / std) ** 2)

    def moment(values: FloatArray, power: int) -> FloatArray:
        """Sum weight x offset^power x value over the window of each step."""
        kernel: FloatArray = weights * offsets**power
        summed: FloatArray = np.correlate(np.pad(values, reach), kernel, mode="valid")
        return summed

    ones = np.ones_like(clipped)
    s0, s1, s2 = moment(ones, 0), moment(ones, 1), moment(ones, 2)
    determinant = s0 * s2 - s1**2
    fitted: FloatArray = (s2 * moment(clipped, 0) - s1 * moment(clipped, 1)) / determinant
    return fitted


def has_clear_hump(curve: Curve) -> bool:
    """Return whether the smoothed loss falls to a low and rises to its highest, beyond noise."""
    if curve.finite_steps < MIN_STEPS:
        return False
    losses, smoothed = curve.losses[: curve.finite_steps], curve.smoothed[: curve.finite_steps]
    top = int(np.argmax(smoothed))
    error = _noise(losses[: max(top, losses.size // 2)]) / averaged_steps(losses.size) ** 0.5
    needed = max(_CLEAR_HUMP * error, MIN_DROP * abs(float(losses[0])))
    return top > 0 and bool(smoothed[top] - smoothed[:top].min() > needed)


def cut_after_hump(curve: Curve) -> Curve:
    """Return the curve up to its highest smoothed loss, if it has come back from there.

    With batch norms, a network whose loss has diverged may come back to chance at even higher
    learning rates: large weights make its steps small again.
    """
    if not has_clear_hump(curve):
        return curve
    smoothed = curve.smoothed[: curve.finite_steps]
    until = int(np.argmax(smoothed)) + 1
    middle = (smoothed.max() + smoothed[:until].min()) / 2
    if until < MIN_STEPS or smoothed[-1] > middle:
        return curve
    return Curve(curve.lrs[:until], curve.losses[:until], curve.smoothed[:until], "diverged")


@dataclass(frozen=True)
class CurveFeatures:
    """Losses of a curve, and steps by their index.

    initial_loss: mean over the first half of the way to the minimum.
    drop: from there to the lowest smoothed loss.
    drop_error: standard error of `drop`.
    drop_start: the first step after which the loss stays a tenth of `drop` below the initial one.
    minimum: step of the lowest smoothed loss.
    steepest: between `drop_start` and `minimum`, so that earlier noise does not count.
    valley: middle of the longest falling subsequence.
    steepest_at_start: the loss falls fastest at the first step considered.
    minimum_at_end: the loss is still falling at the last step.
    steepest_at_end: and fastest there.
    """

    initial_loss: float
    drop: float
    drop_error: float
    drop_start: int
    minimum: int
    steepest: int
    valley: int
    steepest_at_start: bool
    minimum_at_end: bool
    steepest_at_end: bool


def extract_features(curve: Curve) -> CurveFeatures:
    """Return the features of a curve of at least `MIN_STEPS` finite steps."""
    steps = curve.finite_steps
    losses, smoothed = curve.losses[:steps], curve.smoothed[:steps]
    skip = max(5, steps // 10)  # the ends are the noisiest part of a smoothed curve
    last = steps - 1 - (max(1, steps // 20) if curve.stopped == "end" else 0)
    minimum = skip + int(np.argmin(smoothed[skip:]))
    until = max(skip + 1, min(minimum, last))
    before = max(skip, minimum // 2)
    initial_loss = float(losses[:before].mean())
    drop = initial_loss - float(smoothed[minimum])
    high = np.flatnonzero(smoothed[:minimum] > initial_loss - 0.1 * drop)
    drop_start = int(high[-1]) + 1 if high.size else 0
    slope = np.gradient(smoothed, np.log(curve.lrs[:steps]))[: until + 1]
    steepest_from = min(max(skip, drop_start), until)
    steepest = steepest_from + int(np.argmin(slope[steepest_from:]))
    # The variance of a local line is about four times as large at the end of the data.
    averaged = averaged_steps(steps) / (4 if minimum > last else 1)
    noise = _noise(losses[: max(minimum, steps // 2)])
    return CurveFeatures(
        initial_loss=initial_loss,
        drop=drop,
        drop_error=noise * (1 / before + 1 / averaged) ** 0.5,
        drop_start=drop_start,
        minimum=minimum,
        steepest=steepest,
        valley=skip + _middle_of_longest_fall(smoothed[skip : until + 1]),
        steepest_at_start=int(np.argmin(slope[skip:])) == 0,
        minimum_at_end=minimum > last,
        steepest_at_end=minimum > last and steepest == until,
    )


def _window_std(num_iter: int) -> float:
    return max(1.0, _WINDOW * num_iter)


def _noise(losses: FloatArray) -> float:
    """Estimate the standard deviation of a loss about the trend.

    From the median difference of neighbors, which is robust to a slow fall or a sudden rise;
    0.6745 is the median of |N(0, 1)|.
    """
    return float(np.median(np.abs(np.diff(losses))) / 0.6745 / np.sqrt(2))


def _middle_of_longest_fall(smoothed: FloatArray) -> int:
    """Return the middle of the longest strictly falling subsequence, found by patience sorting.

    After `valley` of fastai (fastai/callback/schedule.py), which instead goes back from the end
    by half the length of the subsequence.
    """
    negated: list[float] = []  # last loss, negated, of the best subsequence of each length
    ends: list[int] = []  # its last step
    previous: list[int] = []
    for step, loss in enumerate(smoothed):
        length = bisect.bisect_left(negated, -loss)
        previous.append(ends[length - 1] if length else -1)
        negated[length : length + 1] = [-loss]
        ends[length : length + 1] = [step]
    step = ends[-1]
    for _ in range(len(ends) // 2):
        step = previous[step]
    return step
