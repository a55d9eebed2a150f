"""Continue a run from its newest checkpoint, with the settings it was started with."""

from pathlib import Path
from typing import Any

from imgnet_mini.checkpoint.reader import Content
from imgnet_mini.checkpoint.store import load_checkpoint
from imgnet_mini.commands.setup import (
    Setup,
    describe_environment,
    fingerprint,
    run_options,
    set_up,
)
from imgnet_mini.commands.train import build_trainer, train
from imgnet_mini.config import RunConfig
from imgnet_mini.console import say
from imgnet_mini.errors import CheckpointError, ConfigError, DataError
from imgnet_mini.history import History
from imgnet_mini.records import EpochRecord
from imgnet_mini.run_paths import RunPaths

MAY_CHANGE = {
    "run": {"data_root", "pack_dir", "name", "output_dir"},
    "data": {"workers", "pack_on_device"},
    "runtime": {"device", "compile"},
}
"""Settings that say where and how the run goes on; all others say what it computes."""

NEEDED = {
    *("optimizer", "scheduler", "scaler", "state", "rng", "records"),
    *("config", "classes", "train_fingerprint", "environment"),
}
"""What a checkpoint must hold besides the weights."""


OTHER_CROPS = (
    "Note: this run was started by an older version: its images will follow in the same order, but "
    "their random crops will be others than it would have drawn"
)
"""What to know of a checkpoint from before crops were a hash of seed, epoch and image."""


def has_checkpoint(given: RunConfig) -> bool:
    """Whether there is a run to continue."""
    return RunPaths(given.run.output_dir, given.run.name).checkpoint.exists()


def run(given: RunConfig) -> None:
    """Continue a run; `given` holds what was typed.

    Raises:
        CheckpointError: there is no checkpoint, it is damaged, or does not fit.
        ConfigError: a setting was typed that would make it another run.
        DataError: the images are not those the run was started on.
    """
    paths = RunPaths(given.run.output_dir, given.run.name)
    if not paths.checkpoint.exists():
        raise CheckpointError(
            f"there is nothing to resume: {paths.checkpoint} does not exist. Start the run with\n"
            f"  imgnet-mini train{run_options(given.run)}"
        )
    content = load_checkpoint(paths.checkpoint)
    missing = NEEDED - content.keys()
    if missing:
        raise CheckpointError(
            f"{paths.checkpoint} cannot be resumed: it lacks {', '.join(sorted(missing))}. Only "
            "checkpoint.pth holds a run; best.pth holds weights"
        )
    config = _continued(content, given)
    epochs = config.schedule.epochs
    if content["state"]["epoch"] >= epochs:
        say(f"{paths.name} is finished: all its {epochs} epochs are done")
        return
    setup = set_up(config)
    _refuse_other_images(content, setup, config.run.pack)
    trainer = build_trainer(config, setup)
    trainer.load_state_dict(content)
    records = [EpochRecord(**record) for record in content["records"]]
    history = History(paths, records, step=trainer.state.step)
    state = trainer.state
    say(
        *setup.images.notes,
        f"Resuming {paths.name} at epoch {state.epoch} of {epochs}, batch {state.batch} of "
        f"{len(setup.train_loader)} (step {state.step})",
        *_differences(content["environment"], describe_environment(setup)),
        *(() if "pack" in content else (OTHER_CROPS,)),
    )
    train(config, paths, setup, trainer, history)


def _continued(content: Content, given: RunConfig) -> RunConfig:
    """The run's own configuration, with what may change taken from the command line."""
    saved = RunConfig().override({"data": {"loader": "folder"}}).override(content["config"])
    changes = {
        section: {name: value for name, value in values.items() if value != "auto"}
        for section, values in given.given().items()
        if section != "finder"
    }
    for section, values in changes.items():
        for name, value in values.items():
            before = getattr(getattr(saved, section), name)
            if name not in MAY_CHANGE.get(section, ()) and value != before:
                raise ConfigError(_refusal(name, before, value))
    return saved.override(changes)


def _refusal(name: str, before: Any, after: Any) -> str:
    flag = f"--{name.replace('_', '-')}"
    return (
        f"{flag} {after}: this run was started with {before}, and going on with another one would "
        "not be the same run: its learning-rate schedule, its weights and its order of images "
        f"depend on it. Leave {flag} out to go on, or start a new run under another --name"
    )


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
    if fingerprint(setup.images.train) != content["train_fingerprint"]:
        raise DataError(
            f"the images in {setup.images.train.root} are not those the run was started on: some "
            "were added, removed or renamed. Restore them, or start a new run under another --name"
        )


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    changed = [f"{key} {value} -> {now[key]}" for key, value in before.items() if value != now[key]]
    if not changed:
        return []
    return [f"Note: {', '.join(changed)}: the same images will follow, but not the same bits"]
