"""All that a template may show of one run, read from its files."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.config.settings import RunSection
from imgnet_mini.errors import DataError
from imgnet_mini.reporting.readme.evaluation import Evaluation, read_evaluation
from imgnet_mini.reporting.readme.finder import (
    Finder,
    peak_lr,
    peak_words,
    read_finder,
    was_suggested,
)
from imgnet_mini.reporting.readme.json_file import read_json_if_there
from imgnet_mini.reporting.readme.markdown import link
from imgnet_mini.reporting.readme.redact import last_component, recorded_command
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.runs.records import EpochRecord, read_csv, select_phase, selection_records
from imgnet_mini.utils.console import escape_line

PICTURES = (
    "loss_curve",
    "accuracy_curve",
    "lr_curve",
    "confusion_matrix",
    "samples",
    "network",
)
"""PNG files of the report's folder that a README shows."""


@dataclass(frozen=True)
class Environment:
    """The machine, the versions and the data of a run at its start; None: not recorded.

    loader: what the images were read from; skipped: what was wrong with each file left out, on
    one line.
    """

    device: str | None
    precision: str | None
    python: str | None
    torch: str | None
    torchvision: str | None
    imgnet_mini: str | None
    system: str | None
    started: str | None
    command: str | None
    classes: int | None
    train_images: int | None
    val_images: int | None
    parameters: int | None
    loader: str | None
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class RunView:
    """One run. No text in it is escaped; paths are cut to their last part; addresses are encoded.

    data_name: the folder of the images.
    records: of all its epochs, in their order.
    epochs: those that were validated.
    best: the first of the `selection_records` records of the highest top-1; final: the last one.
    final_train: the last training record.
    train_rate, val_rate: images per second, mean over the epochs.
    seconds: of all epochs, by their images and rates; None where the images were not counted.
    pictures: those of `PICTURES` that exist, name to address.
    peak_lr: the peak learning rate; peak: where it comes from, in a sentence;
        peak_was_suggested: by the finder.
    settings: `section.name` to value, of all that shaped the run.
    """

    name: str
    config: RunConfig
    data_name: str
    settings: dict[str, str]
    records: tuple[EpochRecord, ...]
    epochs: int
    best: EpochRecord
    final: EpochRecord
    final_train: EpochRecord | None
    train_rate: float | None
    val_rate: float | None
    seconds: float | None
    environment: Environment
    evaluation: Evaluation
    finder: Finder | None
    peak_lr: float | None
    peak: str
    peak_was_suggested: bool
    pictures: dict[str, str]
    log: str
    model_summary: str | None

    @property
    def selection_records(self) -> list[EpochRecord]:
        """The validation of each epoch: of the averaged weights, where the run has them."""
        return selection_records(self.records)


def read_run(paths: RunPaths, readme_dir: Path) -> RunView:
    """Read one run; links start at `readme_dir`.

    Raises:
        DataError: there is no such run, it has no validated epoch, or a file of it is damaged.
        ConfigError: its settings cannot be read.
    """
    if not paths.train_log.exists():
        raise DataError(
            f"there is no run {paths.name!r}: {paths.train_log} does not exist; "
            f"make it with `imgnet-mini train --name {paths.name}`, or give another --name"
        )
    records = read_csv(paths.train_log)
    val, train = selection_records(records), select_phase(records, "train")
    if not val:
        raise DataError(
            f"{paths.train_log} holds no validated epoch yet; "
            f"go on with `imgnet-mini resume --name {paths.name}`"
        )
    config = _without_folders(RunConfig.read(paths.config))
    finder = read_finder(paths.finder_dir, paths.name, readme_dir)
    environment = _environment(paths.environment)
    return RunView(
        name=paths.name,
        config=config,
        data_name=str(config.run.data_root),
        settings=settings_of(config),
        records=tuple(records),
        epochs=len(val),
        best=max(val, key=_order),
        final=val[-1],
        final_train=train[-1] if train else None,
        train_rate=_mean([record.imgs_per_sec for record in train]),
        val_rate=_mean([record.imgs_per_sec for record in val]),
        seconds=_seconds(records, environment, config.data.batch_size),
        environment=environment,
        evaluation=read_evaluation(paths),
        finder=finder,
        peak_lr=peak_lr(config),
        peak=peak_words(finder, config),
        peak_was_suggested=was_suggested(peak_lr(config), finder),
        pictures=_pictures(paths.report_dir, readme_dir),
        log=_log(paths.markdown_log, records),
        model_summary=_text(paths.model_summary),
    )


def _without_folders(config: RunConfig) -> RunConfig:
    """The settings without what they tell of the machine's folders."""
    data_root = Path(last_component(str(config.run.data_root)))
    return config.model_copy(update={"run": RunSection(name=config.run.name, data_root=data_root)})


def _order(record: EpochRecord) -> float:
    """Top-1, with NaN below all else."""
    return record.top1 if record.top1 == record.top1 else -1.0


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _seconds(records: list[EpochRecord], environment: Environment, batch_size: int) -> float | None:
    """What the epochs took; training leaves out what does not fill a batch."""
    if environment.train_images is None or environment.val_images is None:
        return None
    images = {
        "train": environment.train_images // batch_size * batch_size,
        "val": environment.val_images,
        "ema": environment.val_images,
    }
    return sum(images[one.phase] / one.imgs_per_sec for one in records if one.imgs_per_sec > 0)


def settings_of(config: RunConfig) -> dict[str, str]:
    """`section.name` to value, of what shapes a run; the finder's are those of another command."""
    tables: dict[str, dict[str, Any]] = config.model_dump(
        mode="json", exclude={"finder", "prepare"}
    )
    tables["run"] = {"data_root": str(config.run.data_root)}
    return {
        f"{section}.{name}": _setting(value)
        for section, values in tables.items()
        for name, value in values.items()
    }


def _setting(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _environment(path: Path) -> Environment:
    file = read_json_if_there(path)
    return Environment(
        device=file.text("device"),
        precision=file.text("precision"),
        python=file.text("python"),
        torch=file.text("torch"),
        torchvision=file.text("torchvision"),
        imgnet_mini=file.text("imgnet_mini"),
        system=file.text("system"),
        started=file.text("started"),
        command=recorded_command(file.values.get("command")),
        classes=file.count("classes"),
        train_images=file.count("train_images"),
        val_images=file.count("val_images"),
        parameters=file.count("parameters"),
        loader=file.text("loader"),
        skipped=tuple(escape_line(str(problem)) for problem in file.items("skipped")),
    )


def _pictures(folder: Path, readme_dir: Path) -> dict[str, str]:
    paths = {name: folder / f"{name}.png" for name in PICTURES}
    return {name: link(path, readme_dir) for name, path in paths.items() if path.is_file()}


def _log(path: Path, records: list[EpochRecord]) -> str:
    """The log without its own fence; made from the records where it is missing."""
    text = _text(path)
    if text is None:
        return "\n".join(record.to_line() for record in records)
    return re.sub(r"\A```\w*\n|\n```\s*\Z", "", text)


def _text(path: Path) -> str | None:
    """A text file for people to read; what is not UTF-8 in it is replaced."""
    try:
        return path.read_text("utf-8", errors="replace") if path.exists() else None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
