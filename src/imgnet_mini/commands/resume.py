"""Continue a run from its newest checkpoint, with the settings it was started with."""

from pathlib import Path

from imgnet_mini.checkpoint.schema import RunCheckpoint
from imgnet_mini.checkpoint.store import CheckpointStore, LoadedCheckpoint
from imgnet_mini.commands.train import train, writing
from imgnet_mini.config.flags import run_flags
from imgnet_mini.config.run_config import ResolvedConfig, RunConfig
from imgnet_mini.data.folder import fingerprint
from imgnet_mini.distributed.context import SINGLE_PROCESS, DistributedContext
from imgnet_mini.errors import CheckpointError, DataError
from imgnet_mini.runs.cleanup import clean_run
from imgnet_mini.runs.logger import RunLogger, write_logs
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.runs.records import EpochRecord
from imgnet_mini.training.resume_policy import (
    check_world_size,
    describe_changes,
    describe_new_schedule,
    merge_resume_config,
)
from imgnet_mini.training.run import TrainingRun
from imgnet_mini.training.setup import Setup, build_setup, build_trainer, describe_environment
from imgnet_mini.training.trainer import Trainer
from imgnet_mini.utils.console import print_lines


def has_checkpoint(overrides: RunConfig) -> bool:
    """Tell whether the run has a checkpoint."""
    paths = RunPaths(overrides.run.output_dir, overrides.run.name)
    return paths.checkpoint.exists() or bool(paths.earlier_checkpoints())


def run(
    overrides: RunConfig,
    *,
    checkpoint: Path | None = None,
    replan: bool = False,
    allow_world_size_change: bool = False,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> None:
    """Continue a run; `overrides` holds the settings of the command line.

    checkpoint: the file to go on from; else the newest that is whole.
    replan: let the schedule be another one.
    other_ranks: let the number of ranks be another one.

    Raises:
        CheckpointError: there is no checkpoint, none is whole, or it does not fit.
        ConfigError: a setting was typed that would make it another run.
        DataError: the images are not those the run was started on.
        InUseError: another process is at it.
    """
    paths = overrides.run.paths()
    if distributed.is_main_process and not has_checkpoint(overrides):
        restart = " --overwrite" if paths.best.exists() or paths.train_log.exists() else ""
        raise CheckpointError(
            f"there is nothing to resume: {paths.checkpoint} does not exist. Start the run with\n"
            f"  imgnet-mini train{run_flags(overrides.run)}{restart}"
        )
    with writing(paths, distributed):
        store = CheckpointStore(paths, keep=overrides.checkpoint.keep)
        taken = distributed.broadcast_from_rank0(lambda: _take_up(paths, store, checkpoint))
        print_lines(*(f"Note: {note}" for note in taken.notes))
        config = merge_resume_config(
            taken.checkpoint,
            overrides,
            replan=replan,
            allow_world_size_change=allow_world_size_change,
        )
        check_world_size(taken.checkpoint, distributed, allowed=allow_world_size_change)
        if taken.checkpoint.state.epoch < config.schedule.epochs:
            _go_on(config, paths, store, taken, replan=replan, distributed=distributed)
        elif distributed.is_main_process:
            _finish(config, paths, taken)


def _take_up(paths: RunPaths, store: CheckpointStore, checkpoint: Path | None) -> LoadedCheckpoint:
    unfinished = clean_run(paths)
    if unfinished:
        print_lines(f"Removed {unfinished} unfinished file(s) of a process that was killed")
    return store.load_latest() if checkpoint is None else store.load_file(checkpoint)


def _go_on(
    config: ResolvedConfig,
    paths: RunPaths,
    store: CheckpointStore,
    taken: LoadedCheckpoint,
    *,
    replan: bool,
    distributed: DistributedContext,
) -> None:
    saved = taken.checkpoint
    setup = build_setup(config, skipped=saved.skipped, distributed=distributed)
    if distributed.is_main_process:
        _check_same_images(saved, setup, config.run.pack)
    saved.check_position(taken.path, steps=len(setup.train_loader))
    trainer = build_trainer(config, setup)
    trainer.load_state_dict(saved.to_dict(), replan=replan)
    store.keep = config.checkpoint.keep
    logger: RunLogger | None = None
    if distributed.is_main_process:
        records = [EpochRecord(**record.model_dump()) for record in saved.records]
        _announce(config, paths, taken, trainer, setup, replan=replan)
        best_epoch = trainer.state.best_epoch
        if best_epoch >= 0 and not store.has_best():
            trainer.state.best_top1, trainer.state.best_epoch = -1.0, -1
            print_lines(
                f"Note: {paths.best} is missing or damaged, or not what this state had saved after "
                f"epoch {best_epoch:03d}; it will be the best of the epochs to come"
            )
        logger = RunLogger(paths, records, step=trainer.state.step)
    train(TrainingRun(config, paths, setup, trainer, logger, store), new_plan=replan)


def _announce(
    config: ResolvedConfig,
    paths: RunPaths,
    taken: LoadedCheckpoint,
    trainer: Trainer,
    setup: Setup,
    *,
    replan: bool,
) -> None:
    saved, state, steps = taken.checkpoint, trainer.state, len(setup.train_loader)
    print_lines(
        *setup.images.notes,
        f"Resuming {paths.name} at step {state.step} of {config.schedule.epochs * steps} "
        f"(epoch {state.epoch} of {config.schedule.epochs}, batch {state.batch} of {steps})",
        *describe_changes(saved, describe_environment(setup)),
    )
    if replan:
        print_lines(*describe_new_schedule(saved, config, trainer.lr))


def _finish(config: ResolvedConfig, paths: RunPaths, taken: LoadedCheckpoint) -> None:
    """All epochs are done; a process that was killed may have left the log behind them.

    Raises:
        CheckpointError: they are those of another run, or the run has gone on since.
    """
    if not taken.is_newest:
        raise CheckpointError(
            f"{taken.path} is of a finished run, and not the newest state of {paths.name}: there "
            "is nothing to go on with. Leave --checkpoint out, or name more --epochs with --replan"
        )
    records = [EpochRecord(**record.model_dump()) for record in taken.checkpoint.records]
    write_logs(paths, records)
    epochs = config.schedule.epochs
    print_lines(
        f"{paths.name} is finished: all its {epochs} epochs are done. For more of them, on a new "
        f"plan: imgnet-mini resume{run_flags(config.run)} --epochs {2 * epochs} --replan"
    )


def _check_same_images(saved: RunCheckpoint, setup: Setup, pack_dir: Path) -> None:
    classes = setup.images.train.classes
    if list(classes) != saved.classes:
        raise DataError(
            f"{setup.images.train.root} has {len(classes)} classes, and the run was started on "
            f"{len(saved.classes)}, or on others: name its images with --data-root"
        )
    pack = setup.images.pack
    if (pack.manifest.id if pack is not None else None) != saved.pack:
        raise DataError(
            f"the pack in {pack_dir} is not the one the run was started on: prepare it with the "
            "--pack-size, --img-size and --eval-size of that one, or start a new run under another "
            "--name"
        )
    train, val = setup.images.train, setup.images.val
    if fingerprint(train, val) != saved.images:
        raise DataError(
            f"the images in {train.root.parent} are not those the run was started on: some were "
            "added, removed, renamed or changed. Restore them, or start a new run under another "
            "--name"
        )
