"""resume: continue a run from a checkpoint, with the settings it was started with."""

import shlex
from pathlib import Path

from imgnet_mini.checkpoint.schema import RunCheckpoint
from imgnet_mini.checkpoint.store import CheckpointStore, LoadedCheckpoint
from imgnet_mini.commands.train import train, writing
from imgnet_mini.config.run_config import ResolvedConfig, RunConfig, config_flags, run_flags
from imgnet_mini.data.run_images import ListedSplit, RunImages, read_image_list
from imgnet_mini.distributed.context import SINGLE_PROCESS, DistributedContext
from imgnet_mini.errors import CheckpointError, DataError
from imgnet_mini.runs.logger import RunLogger, write_logs
from imgnet_mini.runs.paths import RunPaths, describe_runs
from imgnet_mini.runs.records import EpochRecord
from imgnet_mini.runs.tracking import TrackerRecord, build_tracker, check_tracker
from imgnet_mini.training.hours import TimePlan
from imgnet_mini.training.resume_policy import (
    check_world_size,
    describe_changes,
    describe_new_schedule,
    merge_resume_config,
)
from imgnet_mini.training.run import TrainingRun
from imgnet_mini.training.setup import Setup, build_setup, build_trainer, describe_environment
from imgnet_mini.utils.console import print_lines

TRAINING_SECTIONS = ("run", "data", "model", "optimizer", "schedule", "checkpoint", "runtime")


def run(
    overrides: RunConfig,
    *,
    checkpoint: Path | None = None,
    replan: bool = False,
    allow_world_size_change: bool = False,
    allow_image_changes: bool = False,
    skip_bad: bool = False,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> None:
    """Continue a run; `overrides` holds the settings of the command line.

    checkpoint: the file to resume from; by default the newest intact one.
    replan: accept a new schedule.
    allow_world_size_change: accept another number of ranks.
    allow_image_changes: accept that image files were removed or changed.
    skip_bad: look for broken image files, and leave them out.

    Raises:
        CheckpointError: there is no intact checkpoint, or it does not fit.
        ConfigError: an explicit setting would change the results of the run.
        DataError: the images are not those that the run was started on.
        InUseError: another process is writing the run.
    """
    overrides = distributed.broadcast_from_rank0(lambda: overrides)
    paths = overrides.run.paths()
    if distributed.is_main_process and not paths.has_checkpoint():
        restart = " --overwrite" if paths.best.exists() or paths.train_log.exists() else ""
        flags = config_flags(overrides, *TRAINING_SECTIONS)
        if paths.config.exists():
            flags = f" --config {shlex.quote(str(paths.config))}{flags}"
        raise CheckpointError(
            f"there is nothing to resume: {paths.checkpoint} does not exist. "
            f"{describe_runs(paths.output_dir)}. Give another --name or --output-dir, or start the "
            f"run with\n  imgnet-mini train{flags}{restart}"
        )
    with writing(paths, distributed):
        continued = _continue(
            overrides,
            checkpoint,
            replan=replan,
            allow_world_size_change=allow_world_size_change,
            allow_image_changes=allow_image_changes,
            skip_bad=skip_bad,
            distributed=distributed,
        )
        if continued is not None:
            training, new_plan = continued
            train(training, new_plan=new_plan)


def _continue(
    overrides: RunConfig,
    checkpoint: Path | None,
    *,
    replan: bool,
    allow_world_size_change: bool,
    allow_image_changes: bool,
    skip_bad: bool,
    distributed: DistributedContext,
) -> tuple[TrainingRun, bool] | None:
    """Return the run in the state of its checkpoint, and the `new_plan` of `train`.

    None if the run is finished. The content of the checkpoint is not kept in memory.
    """
    paths = overrides.run.paths()
    store = CheckpointStore(paths, keep=overrides.checkpoint.keep)
    loaded, listed = distributed.broadcast_from_rank0(lambda: _load(paths, store, checkpoint))
    print_lines(*(f"Note: {note}" for note in loaded.notes))
    config = merge_resume_config(
        loaded.checkpoint,
        overrides,
        replan=replan,
        allow_world_size_change=allow_world_size_change,
    )
    check_world_size(loaded.checkpoint, distributed, allowed=allow_world_size_change)
    if loaded.checkpoint.state.epoch >= config.schedule.epochs:
        if distributed.is_main_process:
            _finish(config, paths, loaded)
        return None
    check_tracker(config.run.track)
    was_skipping = loaded.checkpoint.config["data"].get("skip_bad", False)
    images = RunImages(
        digest=loaded.checkpoint.images,
        skipped=loaded.checkpoint.skipped,
        dropped=loaded.checkpoint.dropped,
        changed=loaded.checkpoint.changed,
        listed=listed,
        allow_changes=allow_image_changes,
        skip_bad=skip_bad or (config.data.skip_bad and not was_skipping),
    )
    run = _restore(config, paths, store, loaded, images, replan=replan, distributed=distributed)
    resumed = run.setup.images.resumed
    return run, replan or (resumed is not None and resumed.has_new(images))


def _load(
    paths: RunPaths, store: CheckpointStore, checkpoint: Path | None
) -> tuple[LoadedCheckpoint, tuple[ListedSplit, ListedSplit] | None]:
    """Return the checkpoint, and the images at the start of the run, if they are known."""
    if unfinished := paths.clean():
        print_lines(f"Removed {unfinished} unfinished file(s) of a process that was killed")
    loaded = store.load_latest() if checkpoint is None else store.load_file(checkpoint)
    saved = loaded.checkpoint
    return loaded, read_image_list(paths.images, saved.classes, saved.images)


def _restore(
    config: ResolvedConfig,
    paths: RunPaths,
    store: CheckpointStore,
    loaded: LoadedCheckpoint,
    images: RunImages,
    *,
    replan: bool,
    distributed: DistributedContext,
) -> TrainingRun:
    saved = loaded.checkpoint
    setup = build_setup(
        config,
        resumed=images,
        class_weights=saved.class_weights,
        previous_precision=str(saved.environment.__pydantic_extra__.get("precision")),
        distributed=distributed,
    )
    if distributed.is_main_process:
        _check_same_images(saved, setup, config.run.pack)
    saved.check_position(loaded.path, steps=len(setup.train_loader))
    trainer = build_trainer(config, setup)
    trainer.load_state_dict(saved.to_dict(), replan=replan)
    store.keep = config.checkpoint.keep
    logger: RunLogger | None = None
    if distributed.is_main_process:
        records = [EpochRecord(**record.model_dump()) for record in saved.records]
        state, steps, epochs = trainer.state, len(setup.train_loader), config.schedule.epochs
        print_lines(
            *setup.images.notes,
            f"Resuming {paths.name} at step {state.step} of {epochs * steps} "
            f"(epoch {state.epoch} of {epochs}, batch {state.batch} of {steps})",
            *describe_changes(saved, describe_environment(setup)),
            *(describe_new_schedule(saved, config, trainer.lr) if replan else ()),
        )
        if state.best_epoch >= 0 and not store.has_best():
            print_lines(
                f"Note: {paths.best} is missing or damaged, or not what this state had saved after "
                f"epoch {state.best_epoch:03d}; it will be the best of the epochs to come"
            )
            state.best_top1, state.best_epoch = -1.0, -1
        tracker = build_tracker(
            config.run.track,
            paths,
            _tracker_record(loaded),
            step=state.step,
            steps_per_epoch=steps,
            records=records,
        )
        logger = RunLogger(paths, records, step=state.step, tracker=tracker)
    time_plan = None
    if saved.time_plan is not None and config.schedule.hours is not None:
        time_plan = TimePlan(**saved.time_plan.model_dump())
    return TrainingRun(config, paths, setup, trainer, logger, store, time_plan)


def _tracker_record(loaded: LoadedCheckpoint) -> TrackerRecord | None:
    """Return the tracker's record of the run; None if the run goes another way from here."""
    tracking = loaded.checkpoint.tracking
    if tracking is None or not loaded.is_newest:
        return None
    return TrackerRecord(*tracking.split(":"))


def _finish(config: ResolvedConfig, paths: RunPaths, loaded: LoadedCheckpoint) -> None:
    """Write the logs of a finished run, which a killed process may have left incomplete.

    Raises:
        CheckpointError: the checkpoint is not the newest of the run.
    """
    if not loaded.is_newest:
        raise CheckpointError(
            f"{loaded.path} is of a finished run, and not the newest state of {paths.name}: there "
            "is nothing to go on with. Leave --checkpoint out, or name more --epochs with --replan"
        )
    records = [EpochRecord(**record.model_dump()) for record in loaded.checkpoint.records]
    write_logs(paths, records)
    epochs = config.schedule.epochs
    print_lines(
        f"{paths.name} is finished: all its {epochs} epochs are done. For its results, or for more "
        "epochs under a new schedule:",
        f"  imgnet-mini report{run_flags(config.run)}",
        f"  imgnet-mini resume{run_flags(config.run)} --epochs {2 * epochs} --replan",
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
