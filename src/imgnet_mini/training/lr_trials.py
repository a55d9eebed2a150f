"""Short trainings by the engine that trains, at the rates that the finder asks for."""

import copy
import math
from collections.abc import Generator, Sequence
from dataclasses import replace
from itertools import chain, count, islice, takewhile
from typing import Final

import torch
from torch import Tensor

from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.data.loaders import Loader
from imgnet_mini.data.rng import hash_seed
from imgnet_mini.errors import ConfigError, DivergedError
from imgnet_mini.lr_finder.trials import Trials, search_peak
from imgnet_mini.runs.logger import NullLogger
from imgnet_mini.training.build import build_trainer
from imgnet_mini.training.optim import linear_scaling_lr
from imgnet_mini.training.setup import Setup
from imgnet_mini.utils.console import print_lines
from imgnet_mini.utils.signals import StopRequest

_LENGTHENINGS: Final = 2
_FACTOR: Final = 3

_RNG: Final = 7
"""What is drawn at random inside the network comes from a stream of its own, in each trial."""


def run_lr_trials(config: RunConfig, setup: Setup, stop: StopRequest) -> Trials:
    """Train a copy of the fresh network at each of a few peak rates.

    Deep networks learn next to nothing in their first hundred steps: where no trial has learnt
    enough, longer ones are made, twice at the most.

    Raises:
        StopRequestedError: a signal has come.
    """
    steps = config.finder.trial_steps
    trials = _try_for(steps, config, setup, stop)
    for _ in range(_LENGTHENINGS):
        if trials.have_learnt or trials.best.loss == math.inf:
            break
        print_lines(_describe_longer(steps, config, setup))
        steps *= _FACTOR
        trials = _try_for(steps, config, setup, stop)
    return trials


def _describe_longer(steps: int, config: RunConfig, setup: Setup) -> str:
    longer, most = _FACTOR * steps, config.finder.trials
    epochs = most * longer / len(setup.train_loader)
    return (
        f"No trial of {steps} steps has learnt enough for peaks to be compared; making up to "
        f"{most} of {longer}: {epochs:.2g} epochs in all"
    )


def _try_for(steps: int, config: RunConfig, setup: Setup, stop: StopRequest) -> Trials:
    batches = _FirstSteps(setup.train_loader, steps, config.data.grad_accum_steps)

    def train(lr: float) -> Sequence[float]:
        own = replace(setup, model=copy.deepcopy(setup.model))
        at_rate = config.override({"optimizer": {"ema_decay": 0.0}}).resolve(lr)
        trainer = build_trainer(at_rate, own, total_steps=steps)
        torch.manual_seed(hash_seed(config.runtime.seed, _RNG, setup.distributed.rank))
        losses = _Losses()
        try:
            trainer.train_epoch(batches, losses, stop, label=f"trial at {lr:.2g}")
        except DivergedError:
            return [*takewhile(math.isfinite, losses.values), math.inf]
        return losses.values

    return search_peak(
        train,
        first=linear_scaling_lr(config.data.batch_size),
        most=config.finder.trials,
        steps=steps,
        chance=math.log(len(setup.images.train.classes)),
    )


def check_trial_steps(config: RunConfig) -> None:
    """Say before all work what the schedule of a trial would say.

    Raises:
        ConfigError: the rate would rise for a step or less.
    """
    steps, share = config.finder.trial_steps, config.schedule.pct_start
    if config.finder.trials and steps * share <= 1:
        raise ConfigError(
            f"--trial-steps {steps} is too few for a one-cycle schedule that rises for {share:g} "
            f"of it: use more than {1 / share:.0f}, or --trials 0"
        )


class _FirstSteps:
    """The same first steps of a loader, as one epoch."""

    def __init__(self, loader: Loader, steps: int, grad_accum_steps: int) -> None:
        self._loader = loader
        self._steps = steps
        self._parts = grad_accum_steps
        self.images_per_step = loader.images_per_step

    def __len__(self) -> int:
        return self._steps

    def epoch(self, epoch: int, *, start: int = 0) -> Generator[tuple[Tensor, Tensor]]:
        """Through as many epochs of the loader as it takes."""
        batches = chain.from_iterable(map(self._loader.epoch, count(epoch)))
        yield from islice(batches, start * self._parts, self._steps * self._parts)


class _Losses(NullLogger):
    """Keeps the loss of each step, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[float] = []

    def log_steps(self, first_step: int, losses: Sequence[float], lrs: Sequence[float]) -> None:
        """Take them."""
        super().log_steps(first_step, losses, lrs)
        self.values += losses
