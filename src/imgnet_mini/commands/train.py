"""Train a network from scratch, or continue a run. The one place that puts the parts together."""

import json
from contextlib import closing
from dataclasses import asdict
from typing import Any

from imgnet_mini.atomic_file import write_text
from imgnet_mini.checkpoint.reader import Content
from imgnet_mini.checkpoint.store import save_checkpoint
from imgnet_mini.commands.setup import (
    Setup,
    describe_environment,
    explaining_memory,
    fingerprint,
    run_options,
    set_up,
)
from imgnet_mini.config import RunConfig
from imgnet_mini.console import say
from imgnet_mini.data.loaders import build_eval_loader
from imgnet_mini.engine import Trainer, TrainState
from imgnet_mini.errors import ConfigError, StoppedError
from imgnet_mini.evaluation import Metrics
from imgnet_mini.finder.results import latest_suggestion
from imgnet_mini.history import History
from imgnet_mini.optim import build_optimizer, build_scheduler, linear_rule
from imgnet_mini.records import EpochRecord, Phase
from imgnet_mini.reporting.summary import summarise_model
from imgnet_mini.run_paths import RunPaths
from imgnet_mini.signals import StopRequest, StopRequestedError

RECORDED = ("imgnet_mini", "torch", "device", "threads")
"""What of the environment decides the bits of a result, besides the settings."""


def run(given: RunConfig, *, overwrite: bool) -> None:
    """Start a run.

    Raises:
        ConfigError: a run of this name exists and `overwrite` is off; see also `set_up`.
    """
    paths = RunPaths(given.run.output_dir, given.run.name)
    existing = [path for path in (paths.checkpoint, paths.best, paths.train_log) if path.exists()]
    if existing and not overwrite:
        options = run_options(given.run)
        raise ConfigError(
            f"a run named {given.run.name} exists ({existing[0]}). Continue it with\n"
            f"  imgnet-mini resume{options}\n"
            "or with train --resume, start another one under a new --name, or replace it with "
            "train --overwrite"
        )
    config = with_peak_rate(given, paths)
    setup = set_up(config)
    config = config.override({"data": {"loader": setup.images.loader}})
    trainer = build_trainer(config, setup)
    if existing:
        _remove_run(paths)
    write_text(paths.config, config.to_toml())
    write_text(paths.environment, json.dumps(describe_environment(setup), indent=2) + "\n")
    write_text(paths.model_summary, summarise_model(setup.model, config.data.img_size))
    _announce(config, paths, setup)
    train(config, paths, setup, trainer, History(paths, [], step=0))


def with_peak_rate(config: RunConfig, paths: RunPaths) -> RunConfig:
    """The configuration with its peak learning rate as a number.

    Raises:
        ConfigError: `auto` was asked for, and find-lr has suggested nothing for this name.
    """
    rate = config.schedule.max_lr
    if rate is None:
        rate = linear_rule(config.data.batch_size)
    elif rate == "auto":
        found = latest_suggestion(paths.finder_dir, paths.name)
        if found is None:
            raise ConfigError(
                f"--max-lr auto: find-lr has saved no suggestion for {paths.name} in "
                f"{paths.finder_dir}; run first\n  imgnet-mini find-lr{run_options(config.run)}"
            )
        rate = found.lr
    return config.override({"schedule": {"max_lr": rate}})


def build_trainer(config: RunConfig, setup: Setup) -> Trainer:
    """The engine before its first step; `config` has its peak rate resolved.

    Raises:
        ConfigError: the run is too short for its schedule.
    """
    max_lr = float(config.schedule.max_lr or 0.0)
    optimizer = build_optimizer(config.optimizer, setup.model, lr=max_lr)
    scheduler = build_scheduler(
        config.schedule,
        optimizer,
        max_lr=max_lr,
        total_steps=config.schedule.epochs * len(setup.train_loader),
    )
    return Trainer(
        setup.model,
        setup.criterion,
        optimizer,
        scheduler,
        setup.precision,
        compiled=config.runtime.compile,
    )


def train(
    config: RunConfig, paths: RunPaths, setup: Setup, trainer: Trainer, history: History
) -> None:
    """Take the epochs that remain, saving after each.

    Raises:
        StoppedError: a signal ended the run; its state is saved.
        DivergedError: a loss or a weight is not finite; the newest checkpoint is from before.
    """
    state = trainer.state
    identity = _identity(config, setup)
    history.write()
    with (
        closing(setup.train_loader) as train_loader,
        closing(build_eval_loader(config.data, setup.images, device=setup.device)) as val_loader,
        closing(history),
        explaining_memory(config.data.batch_size),
        StopRequest() as stop,
    ):
        try:
            while state.epoch < config.schedule.epochs:
                trained = trainer.train_epoch(train_loader, history, stop)
                validated = trainer.evaluate(val_loader, stop)
                records = (
                    _record(state, "train", trained),
                    _record(state, "val", validated),
                )
                history.add_epoch(*records)
                is_best = state.finish_epoch(validated.top1)
                content = _content(trainer, history, identity)
                if is_best:  # first: a run killed between the two makes this epoch again
                    best = {"model": content["model"], "epoch": state.best_epoch}
                    save_checkpoint(paths.best, best | {"metrics": asdict(validated)} | identity)
                save_checkpoint(paths.checkpoint, content)
                history.write()
                say(*(record.to_line() for record in records))
        except StopRequestedError as error:
            history.flush()
            save_checkpoint(paths.checkpoint, _content(trainer, history, identity))
            raise StoppedError(
                f"stopped by {error} and saved: epoch {state.epoch}, batch {state.batch} of "
                f"{len(train_loader)}. Continue with\n"
                f"  imgnet-mini resume{run_options(config.run)}",
                error.signal_number,
            ) from error
    say(
        f"Done: best top-1 {state.best_top1:.2f}% after epoch {state.best_epoch:03d}, "
        f"in {paths.best}",
        f"Next: imgnet-mini report{run_options(config.run)}",
    )


def _record(state: TrainState, phase: Phase, metrics: Metrics) -> EpochRecord:
    return EpochRecord(
        epoch=state.epoch,
        phase=phase,
        loss=metrics.loss,
        top1=metrics.top1,
        top5=metrics.top5,
        lr=state.rate,
        imgs_per_sec=metrics.imgs_per_sec,
    )


def _identity(config: RunConfig, setup: Setup) -> Content:
    """What a checkpoint belongs to."""
    environment = describe_environment(setup)
    return {
        "config": config.model_dump(mode="json"),
        "classes": list(setup.images.train.classes),
        "train_fingerprint": fingerprint(setup.images.train),
        "pack": setup.images.pack.manifest.id if setup.images.pack is not None else None,
        "environment": {name: environment[name] for name in RECORDED},
    }


def _content(trainer: Trainer, history: History, identity: Content) -> Content:
    records: list[dict[str, Any]] = [asdict(record) for record in history.records]
    return trainer.state_dict() | identity | {"records": records}


def _remove_run(paths: RunPaths) -> None:
    """Remove the files that the run of this name has made, and no others."""
    written = [paths.checkpoint, paths.best, paths.train_log, paths.markdown_log]
    written += [*paths.pictures_and_tables, *paths.event_dir.glob("events.out.tfevents.*")]
    for path in written:
        path.unlink(missing_ok=True)


def _announce(config: RunConfig, paths: RunPaths, setup: Setup) -> None:
    environment = describe_environment(setup)
    steps = len(setup.train_loader)
    say(
        *setup.images.notes,
        f"{config.model.arch}: {environment['parameters'] / 1e6:.1f} M parameters, "
        f"{environment['classes']} classes, on {environment['device']} in {setup.precision.name}",
        f"{len(setup.images.train)} training and {len(setup.images.val)} validation images from "
        f"{config.run.data_root} ({environment['loader']})",
        f"{config.schedule.epochs} epochs of {steps} steps of {config.data.batch_size} images, "
        f"learning rate up to {config.schedule.max_lr:.3g}",
        f"Writing {paths.checkpoint_dir}, {paths.log_dir}, {paths.event_dir}",
        f"Watch with: tensorboard --logdir {paths.event_dir.parent}",
    )
