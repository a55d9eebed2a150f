"""Paths of all files of a run, and removal of unfinished ones."""

import hashlib
import re
from pathlib import Path
from typing import Final

from imgnet_mini.errors import ConfigError
from imgnet_mini.utils.atomic_file import remove_temporary_files
from imgnet_mini.utils.console import join_names

_MAX_NAME_LENGTH: Final = 200
"""Maximum length of a folder name in characters; file systems allow 255 bytes."""

_REPORT_FILES: Final = (
    *("metrics.json", "predictions.csv", "report.json", "classification_report.txt"),
    *("loss_curve.png", "accuracy_curve.png", "lr_curve.png", "class_accuracy.csv"),
    *("confusion_matrix.csv", "confusion_matrix.png", "confused_pairs.csv"),
    *("samples.png", "network.png", "skipped_images.txt", "index.html"),
)
"""Names of the files that `evaluate` and `report` write."""

_MIN_AGE: Final = 3600
"""Seconds; longer than any write takes."""


class RunPaths:
    """Paths of one run, under the output folder."""

    def __init__(self, output_dir: Path, name: str) -> None:
        self.output_dir = output_dir
        self.name = name
        self.checkpoint_dir = output_dir / "checkpoints" / name
        self.log_dir = output_dir / "out" / name
        self.event_dir = output_dir / "runs" / name  # of TensorBoard
        self.report_dir = output_dir / "reports" / name
        self.export_dir = output_dir / "exports" / name
        self.finder_dir = output_dir / "lr_finder_plots"  # shared by all runs
        self.training_dirs = (self.checkpoint_dir, self.log_dir, self.event_dir)

        self.checkpoint = self.checkpoint_dir / "checkpoint.pth"  # latest state
        self.best = self.checkpoint_dir / "best.pth"  # weights with the best validation top-1
        self.manifest = self.checkpoint_dir / "manifest.json"  # digests of all checkpoints
        self.damaged = self.checkpoint_dir / "checkpoint.pth.damaged"  # its digest did not match
        self.lock = self.checkpoint_dir / ".lock"

        self.config = self.log_dir / "config.toml"  # resolved settings
        self.environment = self.log_dir / "environment.json"  # see `RunEnvironment`
        self.images = self.log_dir / "images.npy"  # names and sizes at the start of the run
        self.train_log = self.log_dir / "train_log.csv"
        self.markdown_log = self.log_dir / "logs.md"

        self.metrics = self.report_dir / "metrics.json"  # see `EvaluationResult`
        self.predictions = self.report_dir / "predictions.csv"  # see `Predictions`
        self.class_report = self.report_dir / "report.json"
        self.page = self.report_dir / "index.html"
        self.model_summary = self.report_dir / "model_summary.txt"
        self.skipped_images = self.report_dir / "skipped_images.txt"  # unusable files, with reasons
        self.report_files = [self.report_dir / file for file in _REPORT_FILES]

    def checkpoint_at(self, step: int) -> Path:
        """Return the path of an earlier state, kept as a fallback."""
        return self.checkpoint_dir / f"checkpoint-{step}.pth"

    def earlier_checkpoints(self) -> list[Path]:
        """Return the existing earlier states, the latest first."""
        found = {
            path: int(match[1])
            for path in self.checkpoint_dir.glob("*.pth")
            if (match := re.fullmatch(r"checkpoint-(\d+)\.pth", path.name)) and path.is_file()
        }
        return sorted(found, key=lambda path: (path.stat().st_mtime_ns, found[path]), reverse=True)

    def has_checkpoint(self) -> bool:
        """Return whether a state exists to resume from."""
        return self.checkpoint.exists() or bool(self.earlier_checkpoints())

    def checkpoint_files(self) -> list[Path]:
        """Return all files of the checkpoints, the latest state last: deleted in this order."""
        others = (self.manifest, self.damaged, self.best)
        return [*others, *reversed(self.earlier_checkpoints()), self.checkpoint]

    def check_links(self) -> None:
        """Refuse folders that are links to elsewhere.

        Raises:
            ConfigError: a folder of the run leads out of the output folder.
        """
        for path in (*self.training_dirs, self.report_dir, self.export_dir):
            check_inside(path)

    def clean(self) -> int:
        """Remove unfinished files of killed processes from a locked run; return their number."""
        return remove_temporary_files(*self.training_dirs) + self.clean_reports()

    def clean_reports(self) -> int:
        """Remove unfinished files from the reports; return their number.

        Reports are written without the lock, so only files older than an hour are removed.
        """
        return remove_temporary_files(self.report_dir, older_than=_MIN_AGE)


class ComparisonPaths:
    """Paths of a comparison of runs, under the output folder.

    folder: `reports/<name>+<name>`; a run name cannot contain `+`. Too many names are shortened to
        the number of the others and a digest of all.
    """

    def __init__(self, output_dir: Path, names: tuple[str, ...]) -> None:
        name = all_names = "+".join(names)
        kept = len(names)
        digest = hashlib.sha256(all_names.encode()).hexdigest()[:8]
        while len(name) > _MAX_NAME_LENGTH:
            kept -= 1
            name = "+".join([*names[:kept], f"{len(names) - kept}-more-{digest}"])
        self.folder = output_dir / "reports" / name
        self.page = self.folder / "index.html"


def describe_runs(output_dir: Path) -> str:
    """Return a sentence without its end on the runs in an output folder."""
    names = sorted(path.parent.name for path in (output_dir / "out").glob("*/train_log.csv"))
    return f"Runs in {output_dir.absolute()}: {join_names(names) or 'none'}"


def check_inside(folder: Path) -> None:
    """Refuse a folder that is a symlink out of its parent folder.

    Raises:
        ConfigError: the folder resolves to a place outside its parent.
    """
    if not folder.resolve().is_relative_to(folder.parent.resolve()):
        raise ConfigError(
            f"{folder} is a link out of {folder.parent}, to {folder.resolve()}: use that folder "
            "with --output-dir, or remove the link"
        )
