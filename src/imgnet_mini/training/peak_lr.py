"""The peak learning rate of a run: set, default, or suggested by the trial runs of find-lr."""

import copy
import math
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from itertools import chain, count, islice, takewhile
from typing import Any, Final

import torch
from torch import Tensor

from imgnet_mini.config.run_config import RunConfig, config_flags
from imgnet_mini.data.augment.registry import enabled_augmentations
from imgnet_mini.data.loaders import BatchLoader, Loader
from imgnet_mini.data.rng import hash_seed
from imgnet_mini.errors import ConfigError, DivergedError
from imgnet_mini.lr_finder.budget import Plan
from imgnet_mini.lr_finder.results import SavedSuggestion, latest_suggestion
from imgnet_mini.lr_finder.trials import TrialRuns, search_peak_lr
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.training.optim import OPTIMIZERS
from imgnet_mini.training.setup import Setup, build_trainer
from imgnet_mini.training.trial_limits import Limits
from imgnet_mini.utils.console import print_lines

FINDER_SECTIONS: Final = ("run", "data", "model", "optimizer", "schedule", "runtime")
"""Sections of the settings that both find-lr and train take."""

_DECISIVE: Final = ("arch", "batch_size", "img_size", "optimizer")
"""Settings whose change makes a suggested learning rate invalid."""


_OTHER_DATA_SETTINGS: Final = ("fit", "crop_scale_min", "flip", "grad_accum_steps", "progressive")


def find_max_lr(config: RunConfig, paths: RunPaths) -> float:
    """Return the peak learning rate of a run.

    Raises:
        ConfigError: `max_lr` is `auto`, and find-lr has saved no suggestion for this run, or only
            for another architecture, batch size or image size.
    """
    if config.schedule.max_lr != "auto":
        return default_lr(config)
    found = latest_suggestion(paths.finder_dir, paths.name)
    if found is None:
        raise ConfigError(
            f"--max-lr auto: find-lr has saved no suggestion for {paths.name} in "
            f"{paths.finder_dir}; run first\n"
            f"  imgnet-mini find-lr{config_flags(config, *FINDER_SECTIONS, leave_out=('max_lr',))}"
        )
    _compare_settings(found, config)
    return found.lr


def default_lr(config: RunConfig) -> float:
    """Return the peak learning rate of training without find-lr: that set, or the default."""
    max_lr = config.schedule.max_lr
    if max_lr is None or max_lr == "auto":
        return OPTIMIZERS[config.optimizer.optimizer].default_lr(config.data.batch_size)
    return max_lr


def has_fixed_lr(config: RunConfig) -> bool:
    """Return whether the settings name the peak learning rate."""
    return config.schedule.max_lr not in (None, "auto")


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Return the settings that a suggested learning rate depends on, as JSON values."""
    data, optimizer = config.data, config.optimizer.in_use()
    flags = [flag for entry in enabled_augmentations(data) for flag in entry.flags(data)]
    return {
        "arch": config.model.arch,
        "batch_size": data.batch_size,
        "img_size": data.img_size,
        # besides crop and flip, such as `trivial-augment, mixup 0.2`
        "augmentation": ", ".join(flag.removeprefix("--") for flag in flags) or "standard",
        **{name: value for name, value in optimizer.items() if name != "ema_decay"},
        "zero_init_residual": config.model.zero_init_residual,
        "blur_pool": config.model.blur_pool,
        "dropout": config.model.dropout,
        **{name: getattr(data, name) for name in _OTHER_DATA_SETTINGS},
        **{name: getattr(config.schedule, name) for name in ("epochs", "pct_start", "div_factor")},
        "data_root": config.run.data_root.as_posix(),
    }


def facts_of(setup: Setup) -> dict[str, Any]:
    """Return what else a suggested learning rate depends on, as JSON values."""
    images = setup.images.train
    return {
        "classes": len(images.classes),
        "train_images": len(images),
        "precision": setup.precision.name,
        "world_size": setup.distributed.world_size,
    }


def note_other_images(config: RunConfig, setup: Setup, paths: RunPaths) -> None:
    """Print a note if the suggestion for `--max-lr auto` is for other images or processes."""
    if config.schedule.max_lr != "auto":
        return
    found = latest_suggestion(paths.finder_dir, paths.name)
    differences = [] if found is None else list(_compare(found.settings, facts_of(setup)).values())
    if found is not None and differences:
        _note_differences(found, differences)


def _compare(saved: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """Return a text on each difference; what the file does not name is not compared."""
    return {
        name: f"{name} {saved[name]} instead of {value}"
        for name, value in now.items()
        if name in saved and saved[name] != value
    }


def _note_differences(found: SavedSuggestion, differences: Sequence[str]) -> None:
    print_lines(
        f"Note: --max-lr auto takes {found.lr:.3g} from {found.path}, which was made with "
        f"{'; '.join(differences)}. Unless only a path changed, run find-lr again"
    )


def _compare_settings(found: SavedSuggestion, config: RunConfig) -> None:
    """Refuse a suggestion for another network or batch; note other differences."""
    saved = {"optimizer": "sgd"} | found.settings  # the only one of earlier versions
    differences = _compare(saved, settings_of(config))
    decisive = [text for name, text in differences.items() if name in _DECISIVE]
    if decisive:
        raise ConfigError(
            f"--max-lr auto: {found.path} was made with {'; '.join(decisive)}. Run find-lr with "
            "the settings of this run first, or set --max-lr to a number"
        )
    if differences:
        _note_differences(found, list(differences.values()))


_RNG: Final = 7
"""Random stream of dropout and the like, restarted for each trial run."""


def run_lr_trials(
    config: RunConfig, setup: Setup, plan: Plan, limits: Limits, *, first: float
) -> TrialRuns | None:
    """Train copies of the untrained network at several peak learning rates.

    first: the first peak. None if a limit came before the end of the first run.

    Raises:
        StopRequestedError: SIGTERM arrived.
    """
    steps = plan.trial_steps
    without_ema = config.override({"optimizer": {"ema_decay": 0.0}})
    batches = _FirstSteps(setup.train_loader, steps, config.data.grad_accum_steps)
    peaks = count(1)

    def train_at(peak_lr: float) -> Sequence[float]:
        seconds_left = limits.seconds_left()
        fresh = replace(setup, model=copy.deepcopy(setup.model))
        resolved = without_ema.resolve(peak_lr, steps=plan.training_steps)
        trainer = build_trainer(resolved, fresh, total_steps=steps)
        torch.manual_seed(hash_seed(config.runtime.seed, _RNG, setup.distributed.rank))
        logger = _LossLogger()
        with limits.ending_search():
            try:
                trainer.train_epoch(
                    batches,
                    logger,
                    limits.stop,
                    save=limits.end_search,
                    save_seconds=seconds_left,
                    label=f"trial run {next(peaks)} of up to {plan.trials}, peak lr {peak_lr:.2g}",
                )
            except DivergedError:
                return [*takewhile(math.isfinite, logger.losses), math.inf]
        return [*filter(math.isfinite, logger.losses)]  # the others, of fp16, were skipped

    return search_peak_lr(
        train_at,
        first=first,
        max_runs=plan.trials,
        steps=steps,
        chance_loss=math.log(len(setup.images.train.classes)),
    )


def check_trial_steps(config: RunConfig) -> None:
    """Check that the schedule of a trial run is possible, before any work.

    Raises:
        ConfigError: its learning rate would rise for one step or less.
    """
    steps, share = config.finder.trial_steps, config.schedule.pct_start
    if config.finder.trials and steps and steps * share <= 1:
        raise ConfigError(
            f"--trial-steps {steps} is too few for a one-cycle schedule with --pct-start "
            f"{share:g}: use more than {1 / share:.0f}, or --trials 0"
        )


def estimate_step_seconds(config: RunConfig, setup: Setup) -> tuple[int, float]:
    """Estimate the time of a training step, without loading, by two passes of a micro-batch.

    Returns the number of images that took, and the seconds.
    """
    data, device = config.data, setup.device
    size = data.batch_size // (setup.distributed.world_size * data.grad_accum_steps)
    if device.type == "cpu":
        size = min(size, 8)
    images = torch.rand(size, 3, data.img_size, data.img_size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    targets = torch.zeros(size, dtype=torch.int64, device=device)
    network = setup.model.eval()  # leaves the statistics of batch norms as they are
    seconds = math.inf
    for _ in range(2):  # the first one is slow
        began = time.perf_counter()
        with setup.precision.autocast():
            loss = setup.criterion(network(images), targets)
        torch.autograd.backward(loss)
        loss.item()  # blocking
        seconds = time.perf_counter() - began
    setup.model.train().zero_grad(set_to_none=True)
    return 2 * size, seconds * data.batch_size / setup.distributed.world_size / size


class _FirstSteps(BatchLoader):
    """The first steps of a loader, as one epoch."""

    def __init__(self, loader: Loader, steps: int, grad_accum_steps: int) -> None:
        self._loader = loader
        self._steps = steps
        self._grad_accum_steps = grad_accum_steps
        self.images_per_step = loader.images_per_step

    def __len__(self) -> int:
        return self._steps

    @property
    def can_free_memory(self) -> bool:
        """Return whether `free_memory` would free device memory."""
        return self._loader.can_free_memory

    def free_memory(self) -> bool:
        """Free device memory that the batches can do without; return whether there was any."""
        return self._loader.free_memory()

    def epoch(self, epoch: int, *, start: int = 0) -> Generator[tuple[Tensor, Tensor]]:
        """Iterate over as many epochs of the loader as needed."""
        finished, begun = divmod(start, len(self._loader))
        first = epoch + finished
        later = chain.from_iterable(map(self._loader.epoch, count(first + 1)))
        batches = chain(self._loader.epoch(first, start=begun), later)
        yield from islice(batches, (self._steps - start) * self._grad_accum_steps)


class _LossLogger:
    """A logger that keeps the loss of each training step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def log_steps(self, first_step: int, losses: Sequence[float], lrs: Sequence[float]) -> None:
        del first_step, lrs
        self.losses += losses
