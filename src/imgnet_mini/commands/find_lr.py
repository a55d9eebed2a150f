"""The learning-rate range test on the network, loss, images and precision of training."""

import sys
from contextlib import closing
from datetime import datetime
from typing import Any

from imgnet_mini.atomic_file import refuse_unwritable
from imgnet_mini.commands.setup import Setup, explaining_device_errors, options_of, set_up
from imgnet_mini.config import RunConfig
from imgnet_mini.console import say, show_table
from imgnet_mini.device import describe_device
from imgnet_mini.distributed.ranks import ALONE, Ranks
from imgnet_mini.errors import ConfigError, DivergedError, StoppedError
from imgnet_mini.finder.curve import Curve
from imgnet_mini.finder.range_test import run_range_test
from imgnet_mini.finder.results import FinderResult, SavedPaths, save_result
from imgnet_mini.finder.suggestions import Suggestions, suggest
from imgnet_mini.lockstep import Lockstep
from imgnet_mini.optim import build_optimizer, linear_rule
from imgnet_mini.progress import show_bar
from imgnet_mini.run_paths import RunPaths
from imgnet_mini.sections import DataConfig
from imgnet_mini.signals import StopRequest, StopRequestedError

TRAINING_SECTIONS = ("run", "data", "model", "optimizer", "schedule", "runtime")


def run(given: RunConfig, *, ranks: Ranks = ALONE) -> None:
    """Make the test, save plot, curve and suggestions, and print the line that trains with them.

    Raises:
        ConfigError: the curve is too short or never falls, so that it suggests nothing.
        DivergedError: the loss was not finite from the start on.
    """
    paths = RunPaths(given.run.output_dir, given.run.name)
    ranks.from_first(lambda: refuse_unwritable(paths.finder_dir))
    setup = set_up(given, growing=False, ranks=ranks)
    say(
        *setup.images.notes,
        f"Range test of {given.model.arch} on {describe_device(setup.device)} in "
        f"{setup.precision.name}: {given.finder.num_iter} steps of {given.data.batch_size}, "
        f"{given.finder.start_lr:g} to {given.finder.end_lr:g}",
    )
    curve = _measure(given, setup)
    if not ranks.is_first:
        return
    suggestions = suggest(curve)
    result = FinderResult(
        name=given.run.name,
        finder=given.finder,
        curve=curve,
        suggestions=suggestions,
        settings=_settings(given, setup),
        command=("imgnet-mini", *sys.argv[1:]),
        options=options_of(given, *TRAINING_SECTIONS, leave_out=("max_lr",)),
    )
    saved = save_result(result, paths.finder_dir, datetime.now().astimezone())
    if suggestions.problem:
        kind = DivergedError if curve.stopped == "nan" else ConfigError
        raise kind(f"{suggestions.problem}\nThe curve is in {saved.plot}")
    _show(given, suggestions, saved)
    say(
        "Train with",
        f"  {result.train_command}",
        "On a network that has learnt nothing yet the test is cautious: a higher peak, such as "
        "that of train without --max-lr, may well end better.",
    )


def _measure(config: RunConfig, setup: Setup) -> Curve:
    steps = config.finder.num_iter
    precision, clip_norm = setup.precision, config.optimizer.clip_norm
    mixed = precision.dtype is not None
    autocast = {"device_type": precision.device_type, "dtype": precision.dtype, "enabled": mixed}
    with (
        StopRequest(with_ranks=setup.ranks.size > 1) as stop,
        explaining_device_errors(config.data.batch_size),
        closing(setup.train_loader) as loader,
        show_bar("find-lr", steps) as bar,
    ):
        lockstep = Lockstep(setup.ranks, stop, most=1)

        def on_step(done: int, loss: float) -> None:
            bar.show(done, f"loss {loss:.3f}")
            lockstep.look()
            lockstep.check()

        try:
            return run_range_test(
                setup.ranks.parallel(setup.model),
                build_optimizer(config.optimizer, setup.model, lr=config.finder.start_lr),
                setup.criterion,
                loader.endless(),
                config.finder,
                device=setup.device,
                autocast=autocast if mixed or clip_norm else None,  # the scaler comes with it
                scaler=precision.build_scaler(clip_norm),
                accumulate=config.data.accumulate,
                agree=lambda loss: setup.ranks.sum([loss])[0] / setup.ranks.size,
                on_step=on_step,
            )
        except StopRequestedError as error:
            raise StoppedError(
                f"range test stopped by {error}; nothing was written", error.signal_number
            ) from error


def _settings(config: RunConfig, setup: Setup) -> dict[str, Any]:
    return {
        "arch": config.model.arch,
        "batch_size": config.data.batch_size,
        "img_size": config.data.img_size,
        "augmentation": _describe_augmentation(config.data),
        "label_smoothing": config.optimizer.label_smoothing,
        "momentum": config.optimizer.momentum,
        "weight_decay": config.optimizer.weight_decay,
        "nesterov": config.optimizer.nesterov,
        "norm_decay": config.optimizer.norm_decay,
        "clip_norm": config.optimizer.clip_norm,
        "zero_init": config.model.zero_init,
        "precision": setup.precision.name,
        "seed": config.runtime.seed,
        "data_root": config.run.data_root.as_posix(),
    }


def _describe_augmentation(data: DataConfig) -> str:
    """What is done to images beyond crop and flip, such as `class-style, mixup 0.2`."""
    switches = {"class-style": data.use_class_style_aug, "trivial-augment": data.trivial_augment}
    found = [name for name, is_on in switches.items() if is_on]
    for name in ("random_erasing", "mixup", "cutmix"):
        value = getattr(data, name)
        found += [f"{name.replace('_', '-')} {value:g}"] if value else []
    return ", ".join(found) or "standard"


def _show(config: RunConfig, suggestions: Suggestions, saved: SavedPaths) -> None:
    rows = [
        [
            method.replace("_over_", " / ") + (" *" if method == suggestions.recommended else ""),
            "none" if rate is None else f"{rate:.2e}",
        ]
        for method, rate in suggestions.rates.items()
    ]
    rule = linear_rule(config.data.batch_size)
    rows.append(["train without --max-lr (0.1 x batch / 256)", f"{rule:.2e}"])
    show_table("Suggested peak learning rates (* recommended)", ["method", "rate"], rows)
    say(f"Wrote {saved.plot}, and .csv and .json beside it")
