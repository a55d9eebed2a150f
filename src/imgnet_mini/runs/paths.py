"""Paths of all files of a run."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from imgnet_mini.errors import ConfigError

_MAX_NAME_LENGTH = 200
"""Maximum length of a folder name in characters; file systems allow 255 bytes."""


@dataclass(frozen=True)
class RunPaths:
    """Paths of one run, under the output folder."""

    output_dir: Path
    name: str

    @property
    def checkpoint_dir(self) -> Path:
        """`checkpoints/<name>`."""
        return self.output_dir / "checkpoints" / self.name

    @property
    def checkpoint(self) -> Path:
        """Latest state: after an epoch, or after the step at which the run was stopped."""
        return self.checkpoint_dir / "checkpoint.pth"

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

    @property
    def best(self) -> Path:
        """Weights of the epoch with the best validation top-1."""
        return self.checkpoint_dir / "best.pth"

    def checkpoint_files(self) -> list[Path]:
        """Return all files of the checkpoints, the latest state last: deleted in this order."""
        others = (self.manifest, self.damaged, self.best)
        return [*others, *reversed(self.earlier_checkpoints()), self.checkpoint]

    @property
    def manifest(self) -> Path:
        """Digests of all saved checkpoints."""
        return self.checkpoint_dir / "manifest.json"

    @property
    def damaged(self) -> Path:
        """New name of a checkpoint whose digest does not match."""
        return self.checkpoint_dir / "checkpoint.pth.damaged"

    def training_dirs(self) -> tuple[Path, Path, Path]:
        """Return the folders that only a training process writes."""
        return self.checkpoint_dir, self.log_dir, self.event_dir

    @property
    def lock(self) -> Path:
        """File locked by the process that writes the run."""
        return self.checkpoint_dir / ".lock"

    @property
    def log_dir(self) -> Path:
        """`out/<name>`."""
        return self.output_dir / "out" / self.name

    @property
    def config(self) -> Path:
        """Resolved settings of the run, as TOML."""
        return self.log_dir / "config.toml"

    @property
    def environment(self) -> Path:
        """Machine and software versions of the run, as JSON."""
        return self.log_dir / "environment.json"

    @property
    def train_log(self) -> Path:
        """Metrics as CSV, one row per epoch and phase."""
        return self.log_dir / "train_log.csv"

    @property
    def markdown_log(self) -> Path:
        """Metrics as lines of one fenced block."""
        return self.log_dir / "logs.md"

    @property
    def event_dir(self) -> Path:
        """`runs/<name>`: TensorBoard events."""
        return self.output_dir / "runs" / self.name

    @property
    def report_dir(self) -> Path:
        """`reports/<name>`."""
        return self.output_dir / "reports" / self.name

    @property
    def export_dir(self) -> Path:
        """`exports/<name>`."""
        return self.output_dir / "exports" / self.name

    @property
    def metrics(self) -> Path:
        """Metrics from `evaluate`."""
        return self.report_dir / "metrics.json"

    @property
    def class_report(self) -> Path:
        """Averages, best and worst classes, and confused pairs."""
        return self.report_dir / "report.json"

    @property
    def page(self) -> Path:
        """Report as a web page."""
        return self.report_dir / "index.html"

    @property
    def predictions(self) -> Path:
        """Predictions of `evaluate` for each validation image."""
        return self.report_dir / "predictions.csv"

    @property
    def model_summary(self) -> Path:
        """Layers of the network."""
        return self.report_dir / "model_summary.txt"

    @property
    def skipped_images(self) -> Path:
        """Reasons why image files were left out."""
        return self.report_dir / "skipped_images.txt"

    @property
    def report_files(self) -> list[Path]:
        """Files that `evaluate` and `report` write."""
        names = (
            *("metrics.json", "predictions.csv", "report.json", "classification_report.txt"),
            *("loss_curve.png", "accuracy_curve.png", "lr_curve.png", "class_accuracy.csv"),
            *("confusion_matrix.csv", "confusion_matrix.png", "confused_pairs.csv"),
            *("samples.png", "network.png", "skipped_images.txt", "index.html"),
        )
        return [self.report_dir / name for name in names]

    def check_links(self) -> None:
        """Refuse folders that are links to elsewhere.

        Raises:
            ConfigError: a folder of the run leads out of the output folder.
        """
        dirs = (*self.training_dirs(), self.report_dir, self.export_dir)
        for path in dirs:
            check_inside(path)

    @property
    def finder_dir(self) -> Path:
        """`lr_finder_plots`, shared by all runs; each result contains the name of its run."""
        return self.output_dir / "lr_finder_plots"


@dataclass(frozen=True)
class ComparisonPaths:
    """Paths of a comparison of runs, under the output folder."""

    output_dir: Path
    names: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """`reports/<name>+<name>`; a run name cannot contain `+`.

        Too many names are shortened to the number of the others and a digest of all.
        """
        name = all_names = "+".join(self.names)
        kept = len(self.names)
        digest = hashlib.sha256(all_names.encode()).hexdigest()[:8]
        while len(name) > _MAX_NAME_LENGTH:
            kept -= 1
            name = "+".join([*self.names[:kept], f"{len(self.names) - kept}-more-{digest}"])
        return self.output_dir / "reports" / name

    @property
    def page(self) -> Path:
        """Comparison as a web page."""
        return self.folder / "index.html"


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
