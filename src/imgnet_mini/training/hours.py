"""`--hours`: the number of epochs that fit into a time, from measured speed."""

import copy
import math
import time
from bisect import bisect_right
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Final

import torch
from torch import Tensor

from imgnet_mini.config.data_settings import DataConfig
from imgnet_mini.config.run_config import ResolvedConfig, RunConfig
from imgnet_mini.data.loaders import BatchLoader, Loader, build_eval_loader, build_train_loader
from imgnet_mini.data.sampler import build_progressive_resize
from imgnet_mini.errors import ConfigError
from imgnet_mini.reporting.format import format_duration
from imgnet_mini.runs.logger import NullLogger
from imgnet_mini.training.device import wait_for_device
from imgnet_mini.training.setup import Setup, build_trainer
from imgnet_mini.training.train_state import random_state, set_random_state
from imgnet_mini.utils.console import print_lines
from imgnet_mini.utils.signals import StopRequest, StopRequestedError

_FEW_STEPS: Final = 3
_MOST_STEPS: Final = 200
_VALIDATION_BATCHES: Final = 5
_MAX_SECONDS: Final = 20.0
_MAX_SHARE: Final = 0.01
"""Of the time, for the longer measurement of a training step."""
_ENDLESS: Final = 10**9


@dataclass
class TimePlan:
    """Speed and time of a run with `--hours`; part of its checkpoint.

    small_step, full_step: seconds of a training step at the smallest and the largest image size.
    validation: seconds of a validation.
    elapsed: seconds of this run in earlier processes, and in this one before `began`.
    replanned: whether the number of epochs has been corrected.
    """

    small_step: float
    full_step: float
    validation: float
    elapsed: float = 0.0
    replanned: bool = False

    def __post_init__(self) -> None:
        self._began = time.perf_counter() - self.elapsed

    def update(self) -> float:
        """Bring `elapsed` up to date, and return it."""
        self.elapsed = time.perf_counter() - self._began
        return self.elapsed

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for a checkpoint."""
        self.update()
        return asdict(self)

    def epoch_seconds(self, data: DataConfig, epoch: int, *, epochs: int, steps: int) -> float:
        """Return the seconds of one of `epochs` epochs, from the number of pixels of its images."""
        sizes = build_progressive_resize(data, epochs)
        first, last = sizes.first**2, sizes.last**2
        share = (sizes.size_at(epoch) ** 2 - first) / (last - first) if last > first else 1.0
        step = self.small_step + share * (self.full_step - self.small_step)
        return steps * step + self.validation

    def epochs_within(
        self, seconds: float, data: DataConfig, *, steps: int, done: int = 0, factor: float = 1.0
    ) -> int:
        """Return the most epochs, with the `done` first ones, whose others end in this time.

        factor: measured seconds of an epoch as a fraction of the expected ones.
        """
        shortest = factor * (steps * self.small_step + self.validation)

        def needed(epochs: int) -> float:
            if data.progressive is None:
                return (epochs - done) * shortest
            return factor * math.fsum(
                self.epoch_seconds(data, epoch, epochs=epochs, steps=steps)
                for epoch in range(done, epochs)
            )

        candidates = range(done, done + max(0, math.floor(seconds / shortest)) + 2)
        return candidates[max(1, bisect_right(candidates, seconds, key=needed)) - 1]

    def replan_after(self, config: ResolvedConfig) -> int | None:
        """Return the number of epochs after which to correct the plan, before the peak.

        Two if possible: the first one is slow, where files and kernels are not yet cached. None if
        that is done, or if the learning rate rises for less than an epoch.
        """
        before_peak = math.ceil(config.schedule.pct_start * config.schedule.epochs) - 1
        return None if self.replanned or before_peak < 1 else min(2, before_peak)

    def replan(
        self, config: ResolvedConfig, *, done: int, steps: int, seconds: float
    ) -> tuple[ResolvedConfig, str]:
        """Return the settings with the epochs that fit after `done` ones, and a line on it.

        seconds: duration of the last epoch.
        """
        hours, epochs = config.schedule.hours or math.inf, config.schedule.epochs
        expected = self.epoch_seconds(config.data, done - 1, epochs=epochs, steps=steps)
        left = 3600 * hours - self.update()
        fitting = self.epochs_within(
            left, config.data, steps=steps, done=done, factor=seconds / expected
        )
        shortest = math.floor(1 / (config.schedule.pct_start * steps)) + 1  # of a schedule
        new = max(done + 1, shortest, fitting)
        self.replanned = True
        change = "as planned" if new == epochs else f"instead of {epochs}"
        line = (
            f"--hours {hours:g}: {new} epochs, {change}. The last epoch took "
            f"{format_duration(seconds)} (expected: {format_duration(expected)})"
        )
        schedule = {"epochs": new, "hours": hours}
        return config.override({"schedule": schedule}), line


def plan_hours(
    config: RunConfig, setup: Setup, *, max_lr: float, elapsed: float
) -> tuple[RunConfig, TimePlan]:
    """Measure the speed, and return the settings with the number of epochs that fit.

    max_lr: peak learning rate.
    elapsed: seconds of this run so far.

    Raises:
        ConfigError: the time is too short for one epoch.
        StoppedError: a signal arrived.
    """
    began, hours = time.perf_counter() - elapsed, config.schedule.hours or math.inf
    data, steps, distributed = config.data, len(setup.train_loader), setup.distributed
    print_lines(f"Measuring the speed of the training for --hours {hours:g}")
    rng = random_state()
    plan = _measure(config.resolve(max_lr, steps=_ENDLESS), setup)
    set_random_state([rng], 0, fallback=0)
    plan, epochs = distributed.broadcast_from_rank0(
        lambda: _fit_epochs(plan, 3600 * hours, data, steps, time.perf_counter() - began)
    )
    if not epochs:
        needed = plan.elapsed + plan.epoch_seconds(data, 0, epochs=1, steps=steps)
        raise ConfigError(
            f"--hours {hours:g} is too short for one epoch: that takes about "
            f"{format_duration(needed)} with what comes before; use --hours "
            f"{math.ceil(110 * needed / 3600) / 100:g} or more"
        )
    setup.train_loader.resize_progressively(build_progressive_resize(data, epochs))
    seconds = plan.epoch_seconds(data, epochs - 1, epochs=epochs, steps=steps)
    print_lines(
        f"--hours {hours:g}: {epochs} epochs fit, of about {format_duration(seconds)} each"
        + ("" if data.progressive is None else " at full size")
    )
    return config.override({"schedule": {"epochs": epochs, "hours": hours}}), plan


def _fit_epochs(
    plan: TimePlan, seconds: float, data: DataConfig, steps: int, elapsed: float
) -> tuple[TimePlan, int]:
    plan = replace(plan, elapsed=elapsed)
    return plan, plan.epochs_within(seconds - elapsed, data, steps=steps)


def _measure(config: ResolvedConfig, setup: Setup) -> TimePlan:
    sizes = build_progressive_resize(config.data, 2)
    with StopRequest(
        lambda name: f"train stopped by {name} before it began; nothing was written",
        distributed=setup.distributed.world_size > 1,
    ) as stop:
        full = _step_seconds(config, setup, sizes.last, stop)
        small = full
        if sizes.first < sizes.last:
            small = _step_seconds(config, setup, sizes.first, stop)
        plan = TimePlan(min(small, full), full, _validation_seconds(config, setup))
        for received in filter(None, setup.distributed.all_gather(stop.received)):
            raise StopRequestedError(received)
    return plan


def _step_seconds(config: ResolvedConfig, setup: Setup, size: int, stop: StopRequest) -> float:
    """Return the seconds of a training step with loading, of a copy of the network."""
    at_size = config.override({"data": {"progressive": None, "img_size": size}}).data
    copied = replace(setup, model=copy.deepcopy(setup.model))
    trainer = build_trainer(config, copied, total_steps=_ENDLESS)
    limit = min(_MAX_SECONDS, _MAX_SHARE * 3600 * (config.schedule.hours or math.inf))
    steps = _FEW_STEPS
    with closing(
        build_train_loader(
            at_size,
            setup.images,
            seed=config.runtime.seed,
            device=setup.device,
            distributed=setup.distributed,
        )
    ) as loader:
        while True:
            timed = _TimedSteps(loader, at_size, steps)
            trainer.train_epoch(timed, NullLogger(), stop)
            trainer.state.finish_epoch(0.0)
            seconds = setup.distributed.broadcast_from_rank0(lambda: timed.seconds)  # noqa: B023
            more = min(_MOST_STEPS, int(limit / seconds))
            if steps > _FEW_STEPS or more <= steps:
                return seconds
            steps = more


class _TimedSteps(BatchLoader):
    """Some steps of a loader; times them after some more that use up what is prefetched.

    seconds: of a timed step.
    """

    def __init__(self, loader: Loader, data: DataConfig, steps: int) -> None:
        self.images_per_step = loader.images_per_step
        self.seconds = math.nan
        self._loader = loader
        self._steps = steps
        self._micro_batches = data.grad_accum_steps
        self._warm_up = 2 if steps == _FEW_STEPS else 2 + 2 * data.workers // data.grad_accum_steps

    def __len__(self) -> int:
        return self._warm_up + self._steps

    def epoch(self, epoch: int, *, start: int = 0) -> Generator[tuple[Tensor, Tensor]]:
        """Yield the micro-batches of the steps, of as many epochs of the loader as needed."""
        del epoch, start
        batches = self._loader.endless()
        yield from islice(batches, self._warm_up * self._micro_batches)
        wait_for_device()
        began = time.perf_counter()
        yield from islice(batches, self._steps * self._micro_batches)
        wait_for_device()
        self.seconds = (time.perf_counter() - began) / self._steps


def _validation_seconds(config: ResolvedConfig, setup: Setup) -> float:
    """Estimate the seconds of a validation from its first batches."""
    networks = 2 if config.optimizer.ema_decay else 1
    precision, model, done = setup.precision.for_validation, setup.model.eval(), 0
    with (
        closing(
            build_eval_loader(
                config.data, setup.images, device=setup.device, distributed=setup.distributed
            )
        ) as loader,
        torch.no_grad(),
        closing(loader.epoch(0)) as batches,
    ):
        began = time.perf_counter()
        for images, _ in islice(batches, _VALIDATION_BATCHES):
            with precision.autocast():
                model(images)
            if not done and len(loader) > 1:  # workers and kernels are started with the first
                wait_for_device()
                began = time.perf_counter()
            done += 1
        wait_for_device()
        seconds = time.perf_counter() - began
        model.train()
        return networks * len(loader) * seconds / max(1, done - 1)
