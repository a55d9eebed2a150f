"""find-lr: suggest a peak learning rate by a range test and trial runs."""

import sys
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from imgnet_mini.config.run_config import ResolvedConfig, RunConfig, config_flags
from imgnet_mini.config.training_settings import ResolvedFinder
from imgnet_mini.distributed.context import SINGLE_PROCESS, DistributedContext
from imgnet_mini.lr_finder.budget import Plan, plan_steps
from imgnet_mini.lr_finder.curve import Curve, build_curve
from imgnet_mini.lr_finder.range_test import run_range_test
from imgnet_mini.lr_finder.results import SavedResult, save_result
from imgnet_mini.lr_finder.suggestions import METHOD_NAMES, Suggestions, suggest
from imgnet_mini.lr_finder.trials import TrialRuns
from imgnet_mini.reporting.format import format_duration
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.training.device import describe_device, less_memory, translate_torch_errors
from imgnet_mini.training.optim import OPTIMIZERS, build_optimizer
from imgnet_mini.training.peak_lr import (
    FINDER_SECTIONS,
    check_trial_steps,
    default_lr,
    estimate_step_seconds,
    facts_of,
    has_fixed_lr,
    run_lr_trials,
    settings_of,
)
from imgnet_mini.training.setup import Setup, build_setup
from imgnet_mini.training.step_undo import repeat_with_more_memory
from imgnet_mini.training.trial_limits import Limits
from imgnet_mini.utils.atomic_file import check_writable
from imgnet_mini.utils.console import print_lines, show_table
from imgnet_mini.utils.progress import progress_bar
from imgnet_mini.utils.signals import StopRequest

_CLEARLY_HIGHER = 3.0
"""A peak this many times the recommended one is not merely the same within the error."""


@dataclass(frozen=True)
class Search:
    """Measurements of find-lr.

    finder: the settings with the range test as it was planned.
    limit: what ended the search early, in a sentence.
    """

    finder: ResolvedFinder
    plan: Plan
    curve: Curve
    trials: TrialRuns | None
    limit: str


def run(config: RunConfig, *, distributed: DistributedContext = SINGLE_PROCESS) -> None:
    """Run range test and trial runs, save the result, and print the train command to use.

    Raises:
        StoppedError: SIGTERM arrived; Ctrl-C ends the search with the best answer so far.
    """
    config = distributed.broadcast_from_rank0(lambda: config)
    paths = RunPaths(config.run.output_dir, config.run.name)
    check_trial_steps(config)
    distributed.broadcast_from_rank0(lambda: check_writable(paths.finder_dir))
    setup = build_setup(config, growing=False, distributed=distributed)
    search = _search(config, setup)
    if not distributed.is_main_process:
        return
    max_lr = default_lr(config)
    suggestions = suggest(
        search.curve,
        search.trials,
        steps=search.plan.training_steps,
        default=max_lr,
        limit=search.limit,
    )
    saved = _save(config, setup, search, suggestions)
    _show(config, suggestions, search.trials)
    plot = saved.path.with_suffix(".png")
    print_lines(
        f"Wrote {plot}, with .csv{', _trials.csv' if search.trials else ''} and .json beside it",
        "Train with",
        f"  {saved.train_command}",
        saved.reason,
    )
    is_lower = saved.recommended == "trials" and max_lr >= _CLEARLY_HIGHER * (saved.lr or max_lr)
    if has_fixed_lr(config) and is_lower:
        print_lines(
            f"Note: the settings have a much higher peak, max_lr = {max_lr:g}, which train uses "
            "without --max-lr. The first steps of a deep network favor lower peaks: if yours comes "
            "from complete trainings, as that of a recipe does, keep it."
        )


def _search(config: RunConfig, setup: Setup) -> Search:
    distributed = setup.distributed
    with (
        StopRequest(
            lambda name: f"find-lr stopped by {name}; nothing was written",
            distributed=distributed.world_size > 1,
        ) as stop,
        translate_torch_errors(
            config.data.batch_size,
            less_memory=lambda: less_memory(config, distributed.world_size),
        ),
        closing(setup.train_loader),
    ):
        limits = Limits(stop, distributed, minutes=config.finder.max_minutes)
        plan, seconds = distributed.broadcast_from_rank0(lambda: _plan(config, setup))
        resolved = config.resolve(default_lr(config), steps=plan.training_steps)
        rule = OPTIMIZERS[config.optimizer.optimizer].default_lr
        finder = config.finder.resolve(rule(config.data.batch_size), plan.range_steps)
        if distributed.is_main_process:
            _announce(config, setup, plan, finder, seconds)
            if config.optimizer.weight_decay == "auto":
                print_lines(
                    f"Weight decay {resolved.optimizer.weight_decay:.3g} in the range test; in a "
                    "trial run, that of a training at its peak (auto)"
                )
        curve = _test_range(resolved, setup, finder, limits)
        trials = _run_trials(config, setup, plan, curve, limits)
    return Search(finder, plan, curve, trials, limits.reached or _describe_shortage(config, plan))


def _plan(config: RunConfig, setup: Setup) -> tuple[Plan, float]:
    """Divide the budget; also return the estimated seconds per step."""
    used, seconds = estimate_step_seconds(config, setup)
    plan = plan_steps(
        config.finder,
        training_steps=config.schedule.epochs * len(setup.train_loader),
        used=used / config.data.batch_size,
        pct_start=config.schedule.pct_start,
        seconds_per_step=seconds,
    )
    return plan, seconds


def _run_trials(
    config: RunConfig, setup: Setup, plan: Plan, curve: Curve, limits: Limits
) -> TrialRuns | None:
    """Compare peaks from the one on that would be recommended without trial runs."""
    first = suggest(curve, default=default_lr(config)).lr
    if not plan.trials or limits.reached or first is None:
        return None
    return run_lr_trials(config, setup, plan, limits, first=first)


def _describe_shortage(config: RunConfig, plan: Plan) -> str:
    """Say why there are no trial runs; empty if there are, or if none were asked for."""
    if plan.trials or not config.finder.trials:
        return ""
    return (
        f"The budget of {plan.budget} steps is too small for trial runs, which take "
        f"{plan.needed}: --budget {plan.needed_budget:g}."
    )


def _save(config: RunConfig, setup: Setup, search: Search, suggestions: Suggestions) -> SavedResult:
    others = {  # recorded, but not compared by train
        "seed": config.runtime.seed,
        "steps_per_epoch": len(setup.train_loader),
    }
    return save_result(
        RunPaths(config.run.output_dir, config.run.name).finder_dir,
        datetime.now().astimezone(),
        name=config.run.name,
        finder=search.finder,
        curve=search.curve,
        suggestions=suggestions,
        trials=search.trials,
        settings=settings_of(config) | facts_of(setup) | others,
        command=("imgnet-mini", *sys.argv[1:]),
        options=config_flags(config, *FINDER_SECTIONS, leave_out=("max_lr",)),
    )


def _announce(
    config: RunConfig, setup: Setup, plan: Plan, finder: ResolvedFinder, seconds: float
) -> None:
    batch = config.data.batch_size
    if not plan.total:
        print_lines(
            *setup.images.notes,
            f"find-lr of {config.model.arch}: {_describe_no_step(config, plan, seconds)}, "
            "so nothing is measured",
        )
        return
    trials = (
        f", then up to {plan.trials} trial runs of {plan.trial_steps} steps" if plan.trials else ""
    )
    print_lines(
        *setup.images.notes,
        f"find-lr of {config.model.arch} on {describe_device(setup.device)} in "
        f"{setup.precision.name}: at most {plan.total * batch} images, {100 * plan.share:.2g} % "
        f"of the {plan.training_steps * batch} of the training (--budget, --max-minutes), in about "
        f"{format_duration(plan.total * seconds)} and what loading adds",
        f"Range test of {finder.num_iter} steps, batch size {batch}, lr {finder.start_lr:.3g} to "
        f"{finder.end_lr:.3g}{trials}. Ctrl-C ends the search with the best answer so far.",
    )


def _describe_no_step(config: RunConfig, plan: Plan, seconds: float) -> str:
    """Say which limit leaves no step."""
    finder = config.finder
    if finder.max_minutes is not None and 60 * finder.max_minutes < 2 * seconds:
        return f"--max-minutes {finder.max_minutes:g} is less than two steps take"
    training = f"{100 * finder.budget:g} % of the {plan.training_steps} steps of the training"
    return f"{training} (--budget) is less than two steps and the estimate of their time"


def _test_range(
    config: ResolvedConfig, setup: Setup, finder: ResolvedFinder, limits: Limits
) -> Curve:
    if not finder.num_iter:
        return build_curve([], [], "end", num_iter=0)
    precision, clip_grad = setup.precision, config.optimizer.clip_grad
    mixed = precision.dtype is not None
    autocast = {"device_type": precision.device_type, "dtype": precision.dtype, "enabled": mixed}
    distributed = setup.distributed
    with progress_bar("range test", finder.num_iter) as bar:

        def on_step(done: int, loss: float) -> None:
            bar.show(done, f"loss {loss:.3f}")
            limits.check_step()

        def test() -> Curve:
            return run_range_test(
                distributed.wrap_ddp(setup.model),
                build_optimizer(config.optimizer, setup.model, lr=finder.start_lr),
                setup.criterion,
                setup.train_loader.endless(),
                finder,
                device=setup.device,
                # LRFinder uses the gradient scaler only with autocast.
                autocast=autocast if mixed or clip_grad else None,
                scaler=precision.build_scaler(clip_grad),
                grad_accum_steps=config.data.grad_accum_steps,
                all_reduce=lambda loss: (
                    distributed.all_reduce_sum([loss])[0] / distributed.world_size
                ),
                on_step=on_step,
            )

        return repeat_with_more_memory(test, setup.train_loader, distributed)


def _show(config: RunConfig, suggestions: Suggestions, trials: TrialRuns | None) -> None:
    if trials:
        rows = [[f"{run.peak_lr:.2e}", f"{run.final_loss:.4f}"] for run in trials.runs]
        show_table(f"Trial runs of {trials.steps} steps", ["peak lr", "final loss"], rows)
    rule = OPTIMIZERS[config.optimizer.optimizer].lr_rule
    origin = "max_lr of the settings" if has_fixed_lr(config) else rule
    names = METHOD_NAMES | {"default": f"{METHOD_NAMES['default']} ({origin})"}
    rows = [
        [
            names[method] + (" *" if method == suggestions.recommended else ""),
            "none" if lr is None else f"{lr:.2e}",
        ]
        for method, lr in suggestions.lrs.items()
    ]
    show_table("Suggested peak learning rates (* recommended)", ["method", "peak lr"], rows)
