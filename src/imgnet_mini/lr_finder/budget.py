"""Division of the budget of find-lr between the range test and the trial runs."""

import math
from dataclasses import dataclass
from typing import Final

from imgnet_mini.config.training_settings import FinderConfig

_MIN_TRIALS: Final = 3
"""With fewer, the best trial run has no worse one on each side."""

_MIN_TRIAL_STEPS: Final = 40
"""Shorter ones learn too little to compare, and their steps serve the range test better."""

_MIN_RANGE_STEPS: Final = 60
"""Before there are trial runs: with 31 steps, range tests on 50 classes showed nothing, and with
42 on 100 classes most did (benchmarks/lr_advice.py)."""

_FEWEST_STEPS: Final = 2
"""Of a range test; torch-lr-finder takes no single step."""

_RANGE_TEST_SHARE: Final = 1 / 3
"""Of a budget that allows trial runs: they begin at the peak that the range test suggests."""


@dataclass(frozen=True)
class Plan:
    """Training steps that find-lr may take.

    training_steps: of the training that it advises.
    budget: steps that it may take.
    range_steps: of the range test.
    trials: number of trial runs, at most; 0 if the budget allows none that tell anything.
    trial_steps: of each.
    needed: total steps from which on there are trial runs.
    """

    training_steps: int
    budget: int
    range_steps: int
    trials: int
    trial_steps: int
    needed: int

    @property
    def total(self) -> int:
        """Steps of the range test and all trial runs."""
        return self.range_steps + self.trials * self.trial_steps

    @property
    def share(self) -> float:
        """The total as a fraction of the training."""
        return self.total / self.training_steps

    @property
    def needed_budget(self) -> float:
        """The budget from which on there are trial runs, as a fraction, rounded up to 1 %."""
        return math.ceil(100 * self.needed / self.training_steps) / 100


def plan_steps(
    finder: FinderConfig,
    *,
    training_steps: int,
    used: float = 0.0,
    pct_start: float,
    seconds_per_step: float,
) -> Plan:
    """Divide the budget; the range test alone gets one that is too small for trial runs.

    used: steps of the budget already taken.
    pct_start: fraction of a schedule in which the learning rate rises, for more than one step.
    seconds_per_step: estimated, for the time limit.
    """
    total = max(0, math.floor(finder.budget * training_steps - used + 1e-9))
    if finder.max_minutes is not None:
        total = min(total, math.floor(60 * finder.max_minutes / seconds_per_step))
    if total < _FEWEST_STEPS:
        total = 0
    shortest = finder.trial_steps or max(_MIN_TRIAL_STEPS, math.floor(1 / pct_start) + 1)
    fewest = min(_MIN_TRIALS, finder.trials)
    least = min(finder.num_iter, _MIN_RANGE_STEPS)
    needed = least + fewest * shortest
    if not finder.trials or total < needed:
        range_steps = min(finder.num_iter, total)
        return Plan(training_steps, total, range_steps, 0, 0, needed)
    share = max(least, math.floor(_RANGE_TEST_SHARE * total))
    range_steps = min(finder.num_iter, share, total - fewest * shortest)
    trials = min(finder.trials, (total - range_steps) // shortest)
    steps = finder.trial_steps or (total - range_steps) // trials
    return Plan(training_steps, total, range_steps, trials, steps, needed)
