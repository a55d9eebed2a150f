"""train_log.csv, logs.md, TensorBoard and a tracker, from one stream of epoch records."""

import struct
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.metadata import (
    EXPERIMENT_TAG,
    SESSION_END_INFO_TAG,
    SESSION_START_INFO_TAG,
)
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.runs.records import EpochRecord, Phase, tagged_values, to_csv, to_markdown
from imgnet_mini.runs.tracking import Tracker
from imgnet_mini.utils.atomic_file import atomic_write, translate_write_errors, write_text
from imgnet_mini.utils.console import escape_control_chars

STEP_TAGS = ("train/loss_step", "train/lr")
"""Tags counted in optimizer steps; all others are counted in epochs."""

METRICS = ("val/top1", "val/top5", "val/loss", "train/loss", "val/best_top1")
"""Tags whose last values TensorBoard shows beside the hyper-parameters."""

_EVENT_FILES = "events.out.tfevents.*"

_LOGGED_ANEW = (
    *(EXPERIMENT_TAG, SESSION_START_INFO_TAG, SESSION_END_INFO_TAG),
    "settings/text_summary",
)
"""Tags of `log_hparams` and `log_end`, which a resumed run logs again."""


class RunLogger:
    """Logs a run to TensorBoard, train_log.csv and logs.md, and to a tracker if there is one.

    The text files are small; each epoch rewrites them. Every method but `close` raises a
    `WriteError` if a file cannot be written.
    """

    def __init__(
        self,
        paths: RunPaths,
        records: Sequence[EpochRecord],
        *,
        step: int,
        tracker: Tracker | None = None,
    ) -> None:
        """Start at a step, after whole epochs; events logged beyond it are dropped."""
        self._paths = paths
        self.tracker = tracker
        self.records = list(records)
        with translate_write_errors(paths.event_dir):
            epochs = len({record.epoch for record in self.records})
            _drop_events_beyond(paths.event_dir, step=step, epoch=epochs)
            self._events = _open_events(paths.event_dir)

    @property
    def tracking(self) -> str | None:
        """The tracker's record of the run, as text for a checkpoint."""
        return None if self.tracker is None else str(self.tracker.record)

    def log_steps(self, first_step: int, losses: Sequence[float], lrs: Sequence[float]) -> None:
        """Log the loss and the learning rate of consecutive steps."""
        with translate_write_errors(self._paths.event_dir):
            for offset, (loss, lr) in enumerate(zip(losses, lrs, strict=True)):
                self._events.add_scalar("train/loss_step", loss, first_step + offset)
                self._events.add_scalar("train/lr", lr, first_step + offset)
                if self.tracker is not None:
                    values = {"train/loss_step": loss, "train/lr": lr}
                    self.tracker.log_step(first_step + offset, values)

    def log_epoch(self, *phases: EpochRecord) -> None:
        """Log an epoch to TensorBoard; `write` updates the text files."""
        with translate_write_errors(self._paths.event_dir):
            for record in phases:
                values = tagged_values(record)
                for tag, value in values.items():
                    self._events.add_scalar(tag, value, record.epoch)
                if self.tracker is not None:
                    self.tracker.log_epoch({"epoch": record.epoch, **values})
                self.records.append(record)
        self.flush()

    def log_balanced_top1(self, phase: Phase, value: float, epoch: int) -> None:
        """Log the balanced top-1 of an epoch to TensorBoard, before `log_epoch`."""
        with translate_write_errors(self._paths.event_dir):
            self._events.add_scalar(f"{phase}/balanced_top1", value, epoch)
        if self.tracker is not None:
            self.tracker.log_epoch({f"{phase}/balanced_top1": value})

    def log_hparams(self, settings: Mapping[str, float | str], text: str) -> None:
        """Log the hyper-parameters, and the settings file as text; open the tracker's record."""
        if self.tracker is not None:
            self.tracker.start(settings)
        experiment, start, _ = hparams(dict(settings), dict.fromkeys(METRICS, 0))
        with translate_write_errors(self._paths.event_dir):
            self._events._get_file_writer().add_summary(experiment, 0)
            self._events._get_file_writer().add_summary(start, 0)
            self._events.add_text("settings", f"```toml\n{escape_control_chars(text)}```", 0)

    def log_image(self, tag: str, png: bytes, epoch: int) -> None:
        """Log an image."""
        width, height = struct.unpack(">II", png[16:24])
        image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
        with translate_write_errors(self._paths.event_dir):
            summary = Summary(value=[Summary.Value(tag=tag, image=image)])
            self._events._get_file_writer().add_summary(summary, epoch)

    def log_end(self, best_top1: float, epoch: int) -> None:
        """Log the end of the run, after its last epoch."""
        _, _, end = hparams({}, {})
        with translate_write_errors(self._paths.event_dir):
            self._events.add_scalar("val/best_top1", best_top1, epoch)
            if self.tracker is not None:
                self.tracker.log_epoch({"val/best_top1": best_top1})
            self._events._get_file_writer().add_summary(end, epoch)

    def write(self) -> None:
        """Write the text files."""
        write_logs(self._paths, self.records)

    def flush(self) -> None:
        """Write all events to the file, before a checkpoint counts them as logged."""
        if self.tracker is not None:
            self.tracker.flush()
        with translate_write_errors(self._paths.event_dir):
            self._events.flush()

    def close(self) -> None:
        """Close the event file and the tracker's record."""
        with suppress(OSError):  # reported before, by the call that failed
            self._events.close()
        if self.tracker is not None:
            self.tracker.close()


class NullLogger:
    """A logger of training steps that discards them, such as on all ranks but the main process."""

    def log_steps(self, first_step: int, losses: Sequence[float], lrs: Sequence[float]) -> None:
        """Do nothing."""


def write_logs(paths: RunPaths, records: Sequence[EpochRecord]) -> None:
    """Write `train_log.csv` and `logs.md`.

    Raises:
        WriteError: one of them cannot be written.
    """
    write_text(paths.train_log, to_csv(records))
    write_text(paths.markdown_log, to_markdown(records))


def _open_events(event_dir: Path) -> SummaryWriter:
    """Create an event file whose name sorts after those of all others, as TensorBoard requires.

    A name ends in second, host, process and number of the writer, so that within a second number 10
    sorts before number 9; the next second solves that.
    """
    others = sorted(event_dir.glob(_EVENT_FILES))
    writer = SummaryWriter(str(event_dir))
    if not others:
        return writer
    created = set(event_dir.glob(_EVENT_FILES)).difference(others)
    if created and min(created) > others[-1]:
        return writer
    writer.close()
    if len(created) == 1:
        created.pop().unlink()
    time.sleep(1)
    return SummaryWriter(str(event_dir))


def _drop_events_beyond(event_dir: Path, *, step: int, epoch: int) -> None:
    """Replace the event files by one with the values before a step and an epoch.

    A killed process leaves values that the resumed run logs again. The new file has a new name and
    starts with marks that make a running TensorBoard discard what it has read: one of its readers
    takes the first mark that it sees for the start of the run.
    """
    found = sorted(event_dir.glob(_EVENT_FILES))
    for path in found:
        if path.is_symlink():  # its target belongs to others
            path.unlink()
    old_files = [path for path in found if path.is_file()]
    if not old_files:
        return
    header = Event(file_version="brain.Event:2")
    restart = Event(step=0, session_log=SessionLog(status=SessionLog.START))
    with atomic_write(old_files[-1].with_name(f"{old_files[-1].name}.kept")) as file:
        writer = RecordWriter(file)
        for event in (header, restart, restart, *_events_before(old_files, step=step, epoch=epoch)):
            writer.write(event.SerializeToString())
    for path in old_files:
        if path.stat().st_size:
            path.write_bytes(b"")  # a TensorBoard that reads it would hang if it were removed
        else:
            path.unlink()


def _events_before(files: list[Path], *, step: int, epoch: int) -> list[Event]:
    """Return the events before a step and an epoch, each once, without those logged again."""
    kept: dict[tuple[str, int], Event] = {}
    for path in files:
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:  # a header has none
                limit = step if value.tag in STEP_TAGS else epoch
                if event.step < limit and value.tag not in _LOGGED_ANEW:
                    kept[value.tag, event.step] = event
    return list(kept.values())
