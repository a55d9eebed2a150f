"""Everything that a page or a README shows of one run, read from its files."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from imgnet_mini.config.run_config import RunConfig, run_flags
from imgnet_mini.config.run_settings import RunSection
from imgnet_mini.errors import DataError
from imgnet_mini.reporting.class_report import ClassReport, ClassScore, ConfusedPair, OverallRow
from imgnet_mini.reporting.finder_view import (
    Finder,
    describe_peak_lr,
    peak_lr,
    read_finder,
    was_suggested,
)
from imgnet_mini.reporting.format import relative_url
from imgnet_mini.reporting.redact import join_command, last_component, redact_command
from imgnet_mini.runs.paths import RunPaths, describe_runs
from imgnet_mini.runs.records import (
    EpochRecord,
    best_record,
    read_csv,
    select_phase,
    selection_records,
)
from imgnet_mini.runs.results import EvaluationResult, RunEnvironment
from imgnet_mini.utils.console import escape_line

PICTURES: Final = (
    *("loss_curve", "accuracy_curve", "lr_curve", "confusion_matrix", "samples", "network"),
)
"""PNG files of the report's folder that a README shows."""


@dataclass(frozen=True)
class Evaluation:
    """Results of `evaluate` and `report`; None or empty until the command has run."""

    metrics: EvaluationResult | None
    report: ClassReport | None

    @property
    def balanced_top1(self) -> float | None:
        """Mean top-1 of the classes, in percent; of the report if the version had no other."""
        if self.metrics is not None and self.metrics.balanced_top1 is not None:
            return self.metrics.balanced_top1
        return self.report.balanced_top1 if self.report else None

    @property
    def overall(self) -> list[OverallRow]:
        """Accuracy, macro average and weighted average."""
        return self.report.overall if self.report else []

    @property
    def best_classes(self) -> tuple[ClassScore, ...]:
        """The classes with the highest accuracy."""
        return self.report.best if self.report else ()

    @property
    def worst_classes(self) -> tuple[ClassScore, ...]:
        """The classes with the lowest accuracy."""
        return self.report.worst if self.report else ()

    @property
    def confused(self) -> tuple[ConfusedPair, ...]:
        """The most confused pairs of classes."""
        return self.report.confused if self.report else ()


@dataclass(frozen=True)
class RunView:
    """One run. Texts are not escaped; paths are cut to their last part; addresses are encoded.

    folder: output folder, for commands; the current one if it is not below that.
    data_name: folder of the images.
    settings: `section.name` to value, of everything that defines the run.
    records: of all epochs, in order; epochs: number of validated ones.
    best: the first of `selection_records` with the highest top-1; final: the last of them.
    final_train: the last training record.
    train_rate, val_rate: images per second, mean over the epochs.
    seconds: duration of all epochs, from images and throughput; None if images were not counted.
    command: that started the run, without folders.
    peak_lr: the peak learning rate; peak: a sentence on its origin;
        peak_was_suggested: by the finder.
    pictures: those of `PICTURES` that exist, name to address.
    files: what else the run wrote and a README links, title to address.
    """

    name: str
    folder: Path
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
    environment: RunEnvironment
    command: str | None
    evaluation: Evaluation
    finder: Finder | None
    peak_lr: float | None
    peak: str
    peak_was_suggested: bool
    pictures: dict[str, str]
    files: dict[str, str]
    log: str
    model_summary: str | None

    @property
    def selection_records(self) -> list[EpochRecord]:
        """Validation records that select the best epoch: of the EMA weights if the run has them."""
        return selection_records(self.records)


def read_run(paths: RunPaths, page_dir: Path) -> RunView:
    """Read one run; addresses are relative to `page_dir`.

    Raises:
        DataError: the run does not exist, has no validated epoch, or one of its files is damaged.
        ConfigError: its settings cannot be read.
    """
    records = _read_log(paths)
    val, train = selection_records(records), select_phase(records, "train")
    best = best_record(val)
    if best is None:
        raise DataError(
            f"{paths.train_log} holds no validated epoch yet; continue with\n"
            f"  imgnet-mini resume{_run_flags(paths)}"
        )
    config = _redact_config(RunConfig.read_saved(paths.config))
    finder = read_finder(paths.finder_dir, paths.name, page_dir)
    environment = _read_environment(paths.environment)
    return RunView(
        name=paths.name,
        folder=_relative_folder(paths.output_dir),
        config=config,
        data_name=str(config.run.data_root),
        settings=format_settings(config),
        records=tuple(records),
        epochs=len(val),
        best=best,
        final=val[-1],
        final_train=train[-1] if train else None,
        train_rate=_mean([record.imgs_per_sec for record in train]),
        val_rate=_mean([record.imgs_per_sec for record in val]),
        seconds=_total_seconds(records, environment, config.data.batch_size),
        environment=environment,
        command=join_command(environment.command),
        evaluation=_read_evaluation(paths),
        finder=finder,
        peak_lr=peak_lr(config),
        peak=describe_peak_lr(finder, config),
        peak_was_suggested=was_suggested(peak_lr(config), finder),
        pictures=_find_pictures(paths.report_dir, page_dir),
        files=_find_files(paths, page_dir),
        log=_read_markdown_log(paths.markdown_log, records),
        model_summary=_read_text(paths.model_summary),
    )


def format_settings(config: RunConfig) -> dict[str, str]:
    """Return `section.name` to value, of the settings of a training run."""
    tables: dict[str, dict[str, Any]] = config.model_dump(
        mode="json", exclude={"finder", "prepare"}
    )
    tables["run"] = {"data_root": str(config.run.data_root)}
    return {
        f"{section}.{name}": _format_setting(value)
        for section, values in tables.items()
        for name, value in values.items()
    }


def _format_setting(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read_log(paths: RunPaths) -> list[EpochRecord]:
    if not paths.train_log.exists():
        raise DataError(
            f"there is no run {paths.name}: {paths.train_log} does not exist. "
            f"{describe_runs(paths.output_dir)}. Give another --name or --output-dir, or train it "
            "first"
        )
    return read_csv(paths.train_log)


def _relative_folder(output_dir: Path) -> Path:
    """Return the output folder for commands; the current one instead of a place on this machine."""
    is_inside = not output_dir.is_absolute() and ".." not in output_dir.parts
    return output_dir if is_inside else Path()


def _run_flags(paths: RunPaths) -> str:
    return run_flags(RunSection(name=paths.name, output_dir=paths.output_dir))


def _redact_config(config: RunConfig) -> RunConfig:
    data_root = Path(last_component(str(config.run.data_root)))
    run = RunSection(name=config.run.name, data_root=data_root)
    weights = config.optimizer.class_weights
    redacted = {"class_weights": None if weights is None else last_component(weights)}
    optimizer = config.optimizer.model_copy(update=redacted)
    return config.model_copy(update={"run": run, "optimizer": optimizer})


def _read_environment(path: Path) -> RunEnvironment:
    environment = RunEnvironment.read_if_exists(path) or RunEnvironment()
    redacted = {
        "command": redact_command(environment.command),
        "skipped": tuple(map(escape_line, environment.skipped)),
    }
    return environment.model_copy(update=redacted)


def _read_evaluation(paths: RunPaths) -> Evaluation:
    metrics = EvaluationResult.read_if_exists(paths.metrics)
    if metrics:
        metrics = metrics.model_copy(update={"checkpoint": last_component(metrics.checkpoint)})
    return Evaluation(metrics, ClassReport.read_if_exists(paths.class_report))


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _total_seconds(
    records: list[EpochRecord], environment: RunEnvironment, batch_size: int
) -> float | None:
    """Add up the epochs; training drops the last partial batch."""
    if environment.train_images is None or environment.val_images is None:
        return None
    images = {
        "train": environment.train_images // batch_size * batch_size,
        "val": environment.val_images,
        "ema": environment.val_images,
    }
    return sum(
        images[record.phase] / record.imgs_per_sec for record in records if record.imgs_per_sec > 0
    )


def _find_files(paths: RunPaths, page_dir: Path) -> dict[str, str]:
    found = {
        "report page": paths.page,
        "accuracy of each class": paths.report_dir / "class_accuracy.csv",
        "confused classes": paths.report_dir / "confused_pairs.csv",
        "network by layer": paths.model_summary,
        "log by epoch": paths.markdown_log,
        "all settings": paths.config,
        "versions and machine": paths.environment,
        "skipped images": paths.skipped_images,
    }
    return {name: relative_url(path, page_dir) for name, path in found.items() if path.is_file()}


def _find_pictures(folder: Path, page_dir: Path) -> dict[str, str]:
    paths = {name: folder / f"{name}.png" for name in PICTURES}
    return {name: relative_url(path, page_dir) for name, path in paths.items() if path.is_file()}


def _read_markdown_log(path: Path, records: list[EpochRecord]) -> str:
    """Return `logs.md` without its fence; made from the records if it is missing."""
    text = _read_text(path)
    if text is None:
        return "\n".join(record.to_line() for record in records)
    return re.sub(r"\A```\w*\n|\n```\s*\Z", "", text)


def _read_text(path: Path) -> str | None:
    """Read a text file, replacing what is not UTF-8; None if it does not exist."""
    try:
        return path.read_text("utf-8", errors="replace") if path.exists() else None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
