"""Short trainings at a few peak rates, and the peak that they suggest."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

Train = Callable[[float], Sequence[float]]
"""From a peak rate to the loss of each step; one that is not finite is the last."""

_LEAST_FALL: Final = 0.1
"""How far below the loss of chance, as a share of it, a trial has learnt enough to judge its rate.

Before that, the lowest loss goes to what destroys the least: of ResNet-50's trials of 100 steps
with the recipe `mini`, which came down by 2 %, to a twelfth of a good peak."""

_FIRST: Final = (0, 2, 4)
"""What is tried first, in doublings of the lowest; then the neighbours of the best."""

_DECLINE: Final = 1 / 3
"""The best peak falls with this power of the number of steps.

That it falls as a power of it is Bjorck et al. 2024 (arXiv:2409.19913). Measured here: 0.37 from
trials of 300 steps to trainings of 1,744 (a small ResNet), 0.4 and more from 900 to 3,597
(ResNet-50). A peak that is too low costs less than one that is as much too high."""

_JUDGED: Final = 0.25
"""The share of a trial's steps, its last ones, whose mean loss is compared."""


@dataclass(frozen=True)
class Trial:
    """One short training.

    lr: its peak rate.
    losses: one a step, the mean over its batch; only the last may be infinite or NaN.
    """

    lr: float
    losses: tuple[float, ...]

    @property
    def loss(self) -> float:
        """The mean over the last steps, whose batches are the same in each trial; or infinite."""
        selection_records = self.losses[-math.ceil(_JUDGED * len(self.losses)) :]
        mean = math.fsum(selection_records) / len(selection_records)
        return mean if math.isfinite(mean) else math.inf


@dataclass(frozen=True)
class Trials:
    """Short trainings on the same batches from the same weights.

    steps: of each that did not diverge.
    runs: by rising rate.
    chance: the loss of a network that has learnt nothing.
    """

    steps: int
    runs: tuple[Trial, ...]
    chance: float = math.inf

    @property
    def best(self) -> Trial:
        """The one with the lowest loss; of equal ones, that of the lowest rate."""
        return min(self.runs, key=lambda trial: trial.loss)

    @property
    def have_learnt(self) -> bool:
        """Whether one of them has learnt enough for the rates to be compared."""
        return _has_learnt(self.best, self.chance)

    @property
    def lr(self) -> float | None:
        """The peak with which trials end lowest; None where none has learnt enough."""
        return self._vertex[0] if self.have_learnt else None

    def lr_for(self, steps: int) -> float | None:
        """The peak for a training of so many steps: lower, where that is longer than a trial."""
        times = max(1.0, steps / self.steps)
        return None if self.lr is None else self.lr / times**_DECLINE

    @property
    def lowest(self) -> float:
        """The loss at `lr`."""
        return self._vertex[1]

    @property
    def _vertex(self) -> tuple[float, float]:
        """Of the parabola, loss over log rate, through the best trial and its neighbours.

        The best trial itself where it has no such neighbours.
        """
        best = self.best
        place = self.runs.index(best)
        if not 0 < place < len(self.runs) - 1:
            return best.lr, best.loss
        below, above = self.runs[place - 1], self.runs[place + 1]
        left, right = math.log(best.lr / below.lr), math.log(above.lr / best.lr)
        fall, rise = (below.loss - best.loss) / left, (above.loss - best.loss) / right
        bend = (fall + rise) / (left + right)
        if not 0 < bend < math.inf:
            return best.lr, best.loss
        slope = rise - bend * right
        return best.lr * math.exp(-slope / bend / 2), best.loss - slope**2 / bend / 4


def search_peak(
    train: Train, *, first: float, most: int, steps: int, chance: float = math.inf
) -> Trials:
    """Try rates until the best lies between two that are half and double, and worse.

    It ends early where none of the first ones has learnt enough, and not all have diverged.

    first: the lowest of those that are tried in any case.
    most: trials.
    chance: see `Trials`.
    """
    runs: dict[int, Trial] = {}
    while len(runs) < most:
        power = _next(runs, chance)
        if power is None:
            break
        lr = first * 2.0**power
        runs[power] = Trial(lr, tuple(train(lr)))
    return Trials(steps, tuple(runs[power] for power in sorted(runs)), chance)


def _next(runs: dict[int, Trial], chance: float) -> int | None:
    """What to try next, in doublings; None where the search is over."""
    for power in _FIRST:
        if power not in runs:
            return power
    best = min(runs, key=lambda power: (runs[power].loss, power))
    if runs[best].loss == math.inf:
        around: tuple[int, ...] = (best - 1,)
    else:
        around = (best + 1, best - 1) if _has_learnt(runs[best], chance) else ()
    return next((power for power in around if power not in runs), None)


def _has_learnt(trial: Trial, chance: float) -> bool:
    return trial.loss < (1 - _LEAST_FALL) * chance
