"""Continue a run from its newest checkpoint, with the settings it was started with."""

from pathlib import Path
from typing import Any

from imgnet_mini.atomic_file import sweep
from imgnet_mini.checkpoint.reader import Content
from imgnet_mini.checkpoint.store import CheckpointStore, TakenUp
from imgnet_mini.commands.setup import (
    Setup,
    describe_environment,
    names_fingerprint,
    paths_of,
    run_options,
    set_up,
)
from imgnet_mini.commands.train import build_trainer, train
from imgnet_mini.commands.training_run import TrainingRun
from imgnet_mini.config import RunConfig, fields_of
from imgnet_mini.console import say
from imgnet_mini.data.folder import fingerprint
from imgnet_mini.errors import CheckpointError, ConfigError, DataError
from imgnet_mini.history import History, write_logs
from imgnet_mini.records import EpochRecord
from imgnet_mini.run_lock import locked_run
from imgnet_mini.run_paths import RunPaths

MAY_CHANGE = {
    "run": {"data_root", "pack_dir", "name", "output_dir"},
    "data": {"workers", "pack_on_device"},
    "checkpoint": {"keep", "save_minutes"},
    "runtime": {"device", "compile"},
}
"""Settings that say where and how the run goes on; all others say what it computes."""

OTHER_CROPS = (
    "Note: this run was started by an older version: its images will follow in the same order, but "
    "their random crops will be others than it would have drawn"
)
"""What to know of a checkpoint from before crops were a hash of seed, epoch and image."""


def has_checkpoint(given: RunConfig) -> bool:
    """Whether there is a run to continue."""
    paths = RunPaths(given.run.output_dir, given.run.name)
    return paths.checkpoint.exists() or bool(paths.earlier_checkpoints())


def run(given: RunConfig, *, checkpoint: Path | None = None, replan: bool = False) -> None:
    """Continue a run; `given` holds what was typed.

    checkpoint: the file to go on from; else the newest that is whole.
    replan: let the schedule be another one.

    Raises:
        CheckpointError: there is no checkpoint, none is whole, or it does not fit.
        ConfigError: a setting was typed that would make it another run.
        DataError: the images are not those the run was started on.
        InUseError: another process is at it.
    """
    paths = paths_of(given.run)
    if not has_checkpoint(given):
        raise CheckpointError(
            f"there is nothing to resume: {paths.checkpoint} does not exist. Start the run with\n"
            f"  imgnet-mini train{run_options(given.run)}"
        )
    with locked_run(paths.name, paths.lock):
        unfinished = sweep(*paths.written_folders())
        if unfinished:
            say(f"Removed {unfinished} unfinished file(s) of a process that was killed")
        store = CheckpointStore(paths, keep=given.checkpoint.keep)
        taken = store.take_up() if checkpoint is None else store.take_up_from(checkpoint)
        say(*(f"Note: {note}" for note in taken.notes))
        config = _continued(taken.content, given, replan=replan)
        if taken.content["state"]["epoch"] < config.schedule.epochs:
            _go_on(config, paths, store, taken, replan=replan)
        else:
            _finish(config, paths, taken)


def _go_on(
    config: RunConfig, paths: RunPaths, store: CheckpointStore, taken: TakenUp, *, replan: bool
) -> None:
    content = taken.content
    setup = set_up(config, skipped=content.get("skipped"))
    _refuse_other_images(content, setup, config.run.pack)
    trainer = build_trainer(config, setup)
    trainer.load_state_dict(content, replan=replan)
    records = [EpochRecord(**record) for record in content["records"]]
    state, steps = trainer.state, len(setup.train_loader)
    say(
        *setup.images.notes,
        f"Resuming {paths.name} at step {state.step} of {config.schedule.epochs * steps} "
        f"(epoch {state.epoch} of {config.schedule.epochs}, batch {state.batch} of {steps})",
        *_differences(content["environment"], describe_environment(setup)),
        *(() if "pack" in content else (OTHER_CROPS,)),
    )
    if replan:
        say(*_new_plan(content, config, trainer.rate))
    if state.best_epoch >= 0 and not store.has_best():
        state.best_top1, state.best_epoch = -1.0, -1
        say(f"Note: {paths.best} is missing or damaged; it will be the best of the epochs to come")
    store.keep = config.checkpoint.keep
    history = History(paths, records, step=state.step)
    train(TrainingRun(config, paths, setup, trainer, history, store), new_plan=replan)


def _finish(config: RunConfig, paths: RunPaths, taken: TakenUp) -> None:
    """All epochs are done; a process that was killed may have left the log behind them."""
    records = [EpochRecord(**record) for record in taken.content["records"]]
    write_logs(paths, records)
    epochs = config.schedule.epochs
    say(
        f"{paths.name} is finished: all its {epochs} epochs are done. For more of them, on a new "
        f"plan: imgnet-mini resume{run_options(config.run)} --epochs {2 * epochs} --replan"
    )


def _continued(content: Content, given: RunConfig, *, replan: bool) -> RunConfig:
    """The run's own configuration, with what may change taken from the command line."""
    try:
        saved = RunConfig().override({"data": {"loader": "folder"}}).override(content["config"])
    except ConfigError as error:
        raise CheckpointError(
            f"the checkpoint's settings are not of this version: {error}"
        ) from error
    changes = {
        section: {name: value for name, value in values.items() if value != "auto"}
        for section, values in given.given().items()
        if section != "finder"
    }
    may_change = MAY_CHANGE | ({"schedule": set(fields_of("schedule"))} if replan else {})
    for section, values in changes.items():
        for name, value in values.items():
            before = getattr(getattr(saved, section), name)
            if name not in may_change.get(section, ()) and value != before:
                raise ConfigError(_refusal(section, name, before, value))
    continued = saved.override(changes)
    if replan and continued.schedule == saved.schedule:
        raise ConfigError(
            "--replan: the schedule would stay as it is; name what is to be another, such as "
            f"--epochs {2 * saved.schedule.epochs}"
        )
    state, epochs = content["state"], continued.schedule.epochs
    if replan and epochs < state["epoch"] + (state["batch"] > 0):
        raise ConfigError(
            f"--epochs {epochs}: {state['epoch']} epochs and {state['batch']} steps of the next "
            "are done; name more"
        )
    return continued


def _refusal(section: str, name: str, before: Any, after: Any) -> str:
    flag = f"--{name.replace('_', '-')}"
    way_out = "add --replan to go on under a new schedule, " if section == "schedule" else ""
    return (
        f"{flag} {after}: this run was started with {before}, and going on with another one would "
        "not be the same run: its learning-rate schedule, its weights and its order of images "
        f"depend on it. Leave {flag} out to go on, {way_out}or start a new run under another --name"
    )


def _new_plan(content: Content, config: RunConfig, rate: float) -> list[str]:
    """What a new schedule does to the rate."""
    schedule = config.schedule
    peak = float(schedule.max_lr or 0.0)
    last = peak / schedule.div_factor / schedule.final_div_factor
    before = content["optimizer"]["param_groups"][0]["lr"]
    return [
        f"New plan: one cycle over {schedule.epochs} epochs, entered at the place where the run "
        f"is. The learning rate goes from {before:.3g} to {rate:.3g} at once, then along that "
        f"curve (peak {peak:.3g}) down to {last:.3g}",
    ]


def _refuse_other_images(content: Content, setup: Setup, pack_dir: Path) -> None:
    classes = setup.images.train.classes
    if list(classes) != content["classes"]:
        raise DataError(
            f"{setup.images.train.root} has {len(classes)} classes, and the run was started on "
            f"{len(content['classes'])}, or on others: name its images with --data-root"
        )
    pack = setup.images.pack
    if (pack.manifest.id if pack is not None else None) != content.get("pack"):
        raise DataError(
            f"the pack in {pack_dir} is not the one the run was started on: "
            "prepare it with the --pack-size and --img-size of that one, or start a new run under "
            "another --name"
        )
    train, val = setup.images.train, setup.images.val
    same = (
        fingerprint(train, val) == content["images"]
        if "images" in content
        else names_fingerprint(train) == content["train_fingerprint"]
    )
    if not same:
        raise DataError(
            f"the images in {train.root.parent} are not those the run was started on: some were "
            "added, removed, renamed or changed. Restore them, or start a new run under another "
            "--name"
        )


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    changed = [f"{key} {value} -> {now[key]}" for key, value in before.items() if value != now[key]]
    if not changed:
        return []
    return [f"Note: {', '.join(changed)}: the same images will follow, but not the same bits"]
