"""Trial runs: short trainings at a few peak learning rates, and the peak that they suggest."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

TrainAt = Callable[[float], Sequence[float]]
"""Trains at a peak learning rate and returns the loss of each step; a non-finite one is last."""

_MIN_LEARNED: Final = 0.1
"""Drop below the loss of chance, as a share of it, from which a trial run counts.

Before that, the lowest loss only shows the smallest damage: of ResNet-50's trial runs of 100 steps
with the recipe `mini`, whose loss fell by 2 %, it was at a twelfth of a good peak."""

_MAX_UNLEARNED: Final = 2
"""Runs after which the search ends if none of them has learned enough."""

_LENGTH_EXPONENT: Final = 1 / 3
"""The best peak falls with this power of the number of steps.

A power law as in Bjorck et al. 2024 (arXiv:2409.19913). Measured here: 0.37 from trial runs of 300
steps to trainings of 1,744 (a small ResNet), 0.4 and more from 900 to 3,597 (ResNet-50). A peak
that is too low costs less than one that is too high by as much."""

_FINAL_SHARE: Final = 0.25
"""Share of a trial run's steps, its last, whose mean loss is compared."""


@dataclass(frozen=True)
class TrialRun:
    """One short training.

    losses: mean loss of each batch; only the last may be infinite or NaN.
    """

    peak_lr: float
    losses: tuple[float, ...]

    @property
    def final_loss(self) -> float:
        """Mean loss of the last quarter of the steps; infinite if not finite."""
        last = self.losses[-math.ceil(_FINAL_SHARE * len(self.losses)) :]
        mean = math.fsum(last) / len(last)
        return mean if math.isfinite(mean) else math.inf

    def has_learned(self, chance_loss: float) -> bool:
        """Return whether the loss has fallen far enough to compare learning rates."""
        return self.final_loss < (1 - _MIN_LEARNED) * chance_loss


@dataclass(frozen=True)
class TrialRuns:
    """Short trainings on the same batches, from the same weights.

    steps: of each that did not diverge.
    runs: sorted by peak learning rate.
    chance_loss: loss of a network that has learned nothing.
    """

    steps: int
    runs: tuple[TrialRun, ...]
    chance_loss: float = math.inf

    @property
    def best(self) -> TrialRun:
        """The run with the lowest final loss; of equal ones, that with the lowest peak."""
        return min(self.runs, key=lambda run: run.final_loss)

    @property
    def has_learned(self) -> bool:
        """True if the best run has learned enough to compare learning rates."""
        return self.best.has_learned(self.chance_loss)

    @property
    def all_diverged(self) -> bool:
        """True if no run ended with a finite loss."""
        return self.best.final_loss == math.inf

    @property
    def peak_lr(self) -> float | None:
        """The peak with the lowest final loss; None if no run has learned enough."""
        return self._fit_minimum()[0] if self.has_learned else None

    @property
    def min_loss(self) -> float:
        """The final loss expected at `peak_lr`."""
        return self._fit_minimum()[1]

    def peak_lr_for(self, steps: int) -> float | None:
        """Return the peak for a training of `steps` steps: lower if it is longer than a run."""
        ratio = max(1.0, steps / self.steps)
        return None if self.peak_lr is None else self.peak_lr / ratio**_LENGTH_EXPONENT

    def _fit_minimum(self) -> tuple[float, float]:
        """Fit a parabola, loss over log lr, to the best run and its neighbors.

        Returns the lr and loss of its minimum; those of the best run if a neighbor is missing.
        """
        best = self.best
        index = self.runs.index(best)
        if not 0 < index < len(self.runs) - 1:
            return best.peak_lr, best.final_loss
        below, above = self.runs[index - 1], self.runs[index + 1]
        left, right = math.log(best.peak_lr / below.peak_lr), math.log(above.peak_lr / best.peak_lr)
        fall = (below.final_loss - best.final_loss) / left
        rise = (above.final_loss - best.final_loss) / right
        curvature = (fall + rise) / (left + right)
        if not 0 < curvature < math.inf:
            return best.peak_lr, best.final_loss
        slope = rise - curvature * right
        lr = best.peak_lr * math.exp(-slope / curvature / 2)
        return lr, best.final_loss - slope**2 / curvature / 4


class SearchEndedError(Exception):
    """Raised by a `TrainAt` to end the search, with what the finished runs have shown."""


def search_peak_lr(
    train_at: TrainAt, *, first: float, max_runs: int, steps: int, chance_loss: float = math.inf
) -> TrialRuns | None:
    """Train at peaks a factor of 2 apart until the best has a worse one on each side.

    Ends early if the first runs have not learned enough and not all have diverged. None without a
    finished run.

    first: the first peak.
    """
    runs: dict[int, TrialRun] = {}
    while len(runs) < max_runs:
        doublings = _next_doublings(runs, chance_loss)
        if doublings is None:
            break
        peak_lr = first * 2.0**doublings
        try:
            runs[doublings] = TrialRun(peak_lr, tuple(train_at(peak_lr)))
        except SearchEndedError:
            break
    return TrialRuns(steps, tuple(runs[key] for key in sorted(runs)), chance_loss) if runs else None


def _next_doublings(runs: dict[int, TrialRun], chance_loss: float) -> int | None:
    """Return the next peak to try, in doublings of the first; None if the search is over."""
    if not runs:
        return 0
    best = min(runs, key=lambda key: (runs[key].final_loss, key))
    if runs[best].final_loss == math.inf:
        return best - 1
    if len(runs) >= _MAX_UNLEARNED and not runs[best].has_learned(chance_loss):
        return None
    return next((key for key in (best + 1, best - 1) if key not in runs), None)
