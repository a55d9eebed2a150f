"""find-lr: suggest a peak learning rate by a range test and trial runs."""

import sys
from contextlib import closing
from datetime import datetime

from imgnet_mini.config.run_config import RunConfig, config_flags
from imgnet_mini.distributed.context import SINGLE_PROCESS, DistributedContext
from imgnet_mini.distributed.rank_sync import RankSync
from imgnet_mini.errors import ConfigError, DivergedError
from imgnet_mini.lr_finder.curve import Curve
from imgnet_mini.lr_finder.range_test import run_range_test
from imgnet_mini.lr_finder.results import SavedResult, save_result
from imgnet_mini.lr_finder.suggestions import METHOD_NAMES, Suggestions, suggest
from imgnet_mini.lr_finder.trials import TrialRuns
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.training.device import describe_device, translate_torch_errors
from imgnet_mini.training.optim import OPTIMIZERS, build_optimizer
from imgnet_mini.training.peak_lr import (
    check_trial_steps,
    default_lr,
    has_fixed_lr,
    run_lr_trials,
    settings_of,
)
from imgnet_mini.training.setup import Setup, build_setup
from imgnet_mini.utils.atomic_file import check_writable
from imgnet_mini.utils.console import print_lines, show_table
from imgnet_mini.utils.progress import progress_bar
from imgnet_mini.utils.signals import StopRequest

TRAINING_SECTIONS = ("run", "data", "model", "optimizer", "schedule", "runtime")

_CLEARLY_HIGHER = 3.0
"""A peak this many times the recommended one is not merely the same within the error."""


def run(config: RunConfig, *, distributed: DistributedContext = SINGLE_PROCESS) -> None:
    """Run range test and trial runs, save the result, and print the train command to use.

    Raises:
        ConfigError: neither the curve nor the trial runs suggest a learning rate.
        DivergedError: nor was the loss finite for long.
    """
    paths = RunPaths(config.run.output_dir, config.run.name)
    check_trial_steps(config)
    distributed.broadcast_from_rank0(lambda: check_writable(paths.finder_dir))
    setup = build_setup(config, growing=False, distributed=distributed)
    _announce(config, setup)
    curve, trials = _measure(config, setup)
    if not distributed.is_main_process:
        return
    steps = config.schedule.epochs * len(setup.train_loader)
    suggestions = suggest(curve, trials, steps=steps, default=default_lr(config))
    saved = _save(config, setup, curve, suggestions, trials)
    plot = saved.path.with_suffix(".png")
    if suggestions.lr is None:
        kind = DivergedError if curve.stopped == "nan" else ConfigError
        raise kind(f"{suggestions.problem}\nThe curve is in {plot}")
    _show(config, suggestions, trials)
    print_lines(
        f"Wrote {plot}, with .csv{', _trials.csv' if trials else ''} and .json beside it",
        "Train with",
        f"  {saved.train_command}",
        saved.reason,
    )
    max_lr = default_lr(config)
    if has_fixed_lr(config) and max_lr >= _CLEARLY_HIGHER * suggestions.lr:
        print_lines(
            f"Note: the settings have a much higher peak, max_lr = {max_lr:g}, which train uses "
            "without --max-lr. The first steps of a deep network favor lower peaks: if yours comes "
            "from complete trainings, as that of a recipe does, keep it."
        )


def _save(
    config: RunConfig,
    setup: Setup,
    curve: Curve,
    suggestions: Suggestions,
    trials: TrialRuns | None,
) -> SavedResult:
    facts = {  # recorded, but not compared by train
        "precision": setup.precision.name,
        "seed": config.runtime.seed,
        "classes": len(setup.images.train.classes),
        "train_images": len(setup.images.train),
        "steps_per_epoch": len(setup.train_loader),
    }
    return save_result(
        RunPaths(config.run.output_dir, config.run.name).finder_dir,
        datetime.now().astimezone(),
        name=config.run.name,
        finder=config.finder,
        curve=curve,
        suggestions=suggestions,
        trials=trials,
        settings=settings_of(config) | facts,
        command=("imgnet-mini", *sys.argv[1:]),
        options=config_flags(config, *TRAINING_SECTIONS, leave_out=("max_lr",)),
    )


def _announce(config: RunConfig, setup: Setup) -> None:
    finder, epoch = config.finder, len(setup.train_loader)
    lines = [
        f"Range test of {config.model.arch} on {describe_device(setup.device)} in "
        f"{setup.precision.name}: {finder.num_iter} steps, batch size {config.data.batch_size}, "
        f"lr {finder.start_lr:g} to {finder.end_lr:g}"
    ]
    if finder.trials:
        steps = finder.trials * finder.trial_steps
        lines.append(
            f"Then up to {finder.trials} trial runs of {finder.trial_steps} steps: "
            f"{steps / epoch:.2g} epochs in all (--trials 0: none), and longer ones if none of "
            "them learns enough"
        )
    print_lines(*setup.images.notes, *lines)


def _measure(config: RunConfig, setup: Setup) -> tuple[Curve, TrialRuns | None]:
    with (
        StopRequest(
            lambda name: f"find-lr stopped by {name}; nothing was written",
            distributed=setup.distributed.world_size > 1,
        ) as stop,
        translate_torch_errors(config.data.batch_size),
        closing(setup.train_loader),
    ):
        curve = _test_range(config, setup, stop)
        return curve, run_lr_trials(config, setup, stop) if config.finder.trials else None


def _test_range(config: RunConfig, setup: Setup, stop: StopRequest) -> Curve:
    precision, clip_grad = setup.precision, config.optimizer.clip_grad
    mixed = precision.dtype is not None
    autocast = {"device_type": precision.device_type, "dtype": precision.dtype, "enabled": mixed}
    distributed = setup.distributed
    rank_sync = RankSync(distributed, stop, max_steps=1)
    with progress_bar("find-lr", config.finder.num_iter) as bar:

        def on_step(done: int, loss: float) -> None:
            bar.show(done, f"loss {loss:.3f}")
            rank_sync.sync()
            rank_sync.check()

        return run_range_test(
            distributed.wrap_ddp(setup.model),
            build_optimizer(config.optimizer, setup.model, lr=config.finder.start_lr),
            setup.criterion,
            setup.train_loader.endless(),
            config.finder,
            device=setup.device,
            # LRFinder uses the gradient scaler only with autocast.
            autocast=autocast if mixed or clip_grad else None,
            scaler=precision.build_scaler(clip_grad),
            grad_accum_steps=config.data.grad_accum_steps,
            all_reduce=lambda loss: distributed.all_reduce_sum([loss])[0] / distributed.world_size,
            on_step=on_step,
        )


def _show(config: RunConfig, suggestions: Suggestions, trials: TrialRuns | None) -> None:
    if trials:
        rows = [[f"{run.peak_lr:.2e}", f"{run.final_loss:.4f}"] for run in trials.runs]
        show_table(f"Trial runs of {trials.steps} steps", ["peak lr", "final loss"], rows)
    rule = OPTIMIZERS[config.optimizer.optimizer].lr_rule
    origin = "max_lr of the settings" if has_fixed_lr(config) else rule
    lrs = dict(suggestions.lrs)
    del lrs["default"]
    lrs["default"] = default_lr(config)  # shown last, also if it is not suggested
    names = METHOD_NAMES | {"default": f"{METHOD_NAMES['default']} ({origin})"}
    rows = [
        [
            names[method] + (" *" if method == suggestions.recommended else ""),
            "none" if lr is None else f"{lr:.2e}",
        ]
        for method, lr in lrs.items()
    ]
    show_table("Suggested peak learning rates (* recommended)", ["method", "peak lr"], rows)
