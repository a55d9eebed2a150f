"""The name of every file of a run."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from imgnet_mini.errors import ConfigError

_LONGEST = 200
"""Characters of a folder's name; file systems take 255 bytes."""


@dataclass(frozen=True)
class RunPaths:
    """Where one run keeps its files, under the output folder."""

    output_dir: Path
    name: str

    @property
    def checkpoint_dir(self) -> Path:
        """`checkpoints/<name>`."""
        return self.output_dir / "checkpoints" / self.name

    @property
    def checkpoint(self) -> Path:
        """The state after the newest epoch, or after the step at which the run was stopped."""
        return self.checkpoint_dir / "checkpoint.pth"

    def checkpoint_at(self, step: int) -> Path:
        """An earlier state, kept beside the newest to fall back on."""
        return self.checkpoint_dir / f"checkpoint-{step}.pth"

    def earlier_checkpoints(self) -> list[Path]:
        """All that is kept of earlier states, the latest written first."""
        found = {
            path: int(match[1])
            for path in self.checkpoint_dir.glob("*.pth")
            if (match := re.fullmatch(r"checkpoint-(\d+)\.pth", path.name)) and path.is_file()
        }
        return sorted(found, key=lambda path: (path.stat().st_mtime_ns, found[path]), reverse=True)

    @property
    def best(self) -> Path:
        """The weights of the epoch with the best validation top-1."""
        return self.checkpoint_dir / "best.pth"

    def checkpoint_files(self) -> list[Path]:
        """Every file of the checkpoints, the newest last: while one is there, so is the run."""
        others = (self.manifest, self.damaged, self.best)
        return [*others, *reversed(self.earlier_checkpoints()), self.checkpoint]

    @property
    def manifest(self) -> Path:
        """The digests of all that was saved."""
        return self.checkpoint_dir / "manifest.json"

    @property
    def damaged(self) -> Path:
        """What a checkpoint that was not as it was saved is renamed to."""
        return self.checkpoint_dir / "checkpoint.pth.damaged"

    def training_dirs(self) -> tuple[Path, Path, Path]:
        """Where the process that trains writes, and no other."""
        return self.checkpoint_dir, self.log_dir, self.event_dir

    @property
    def lock(self) -> Path:
        """Held by the process that writes the run."""
        return self.checkpoint_dir / ".lock"

    @property
    def log_dir(self) -> Path:
        """`out/<name>`."""
        return self.output_dir / "out" / self.name

    @property
    def config(self) -> Path:
        """The settings of the run, resolved, as TOML."""
        return self.log_dir / "config.toml"

    @property
    def environment(self) -> Path:
        """The machine and the versions the run was made with, as JSON."""
        return self.log_dir / "environment.json"

    @property
    def train_log(self) -> Path:
        """One CSV row per epoch and phase."""
        return self.log_dir / "train_log.csv"

    @property
    def markdown_log(self) -> Path:
        """The same rows as lines in one fenced block."""
        return self.log_dir / "logs.md"

    @property
    def event_dir(self) -> Path:
        """`runs/<name>`, what TensorBoard reads."""
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
        """What `evaluate` measured."""
        return self.report_dir / "metrics.json"

    @property
    def page(self) -> Path:
        """The whole report, to be opened in a browser."""
        return self.report_dir / "index.html"

    @property
    def predictions(self) -> Path:
        """What `evaluate` predicted for each validation image."""
        return self.report_dir / "predictions.csv"

    @property
    def model_summary(self) -> Path:
        """The network layer by layer."""
        return self.report_dir / "model_summary.txt"

    @property
    def skipped_images(self) -> Path:
        """What was wrong with each image file that the run went without."""
        return self.report_dir / "skipped_images.txt"

    @property
    def report_files(self) -> list[Path]:
        """What `evaluate` and `report` write."""
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
        """`lr_finder_plots`, shared by all runs; each result carries its run's name."""
        return self.output_dir / "lr_finder_plots"


@dataclass(frozen=True)
class ComparisonPaths:
    """Where a comparison of runs is kept, under the output folder."""

    output_dir: Path
    names: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """`reports/<name>+<name>`, which no run can be called.

        Names that are too many end in how many more there are, and in a digest of them all.
        """
        whole = "+".join(self.names)
        kept = len(self.names)
        name = whole
        while len(name) > _LONGEST:
            kept -= 1
            digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
            name = "+".join([*self.names[:kept], f"{len(self.names) - kept}-more-{digest}"])
        return self.output_dir / "reports" / name

    @property
    def page(self) -> Path:
        """The comparison, to be opened in a browser."""
        return self.folder / "index.html"


def check_inside(folder: Path) -> None:
    """Refuse a folder that is a link to elsewhere.

    Raises:
        ConfigError: it leads out of the folder that it lies in.
    """
    if not folder.resolve().is_relative_to(folder.parent.resolve()):
        raise ConfigError(
            f"{folder} is a link out of {folder.parent}, to {folder.resolve()}: name that "
            "place with --output-dir, or remove the link"
        )
