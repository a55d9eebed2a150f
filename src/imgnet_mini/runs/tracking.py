"""Experiment trackers: trackio and wandb, through the three calls that both have."""

import math
import netrc
import os
import queue
import secrets
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.runs.records import EpochRecord, tagged_values
from imgnet_mini.utils.console import escape_line, print_warning
from imgnet_mini.utils.packages import require_packages

Metrics = Mapping[str, float]
Settings = Mapping[str, float | str]

PROJECT: Final = "imgnet-mini"

_START_SECONDS: Final = 30.0
_FINISH_SECONDS: Final = 30.0
"""Longest waits for a tracker, at the start and at the end of a run; during training, none."""
_MAX_WAITING: Final = 100_000
"""Rows that wait for a slow tracker, before tracking is given up."""


@dataclass(frozen=True)
class TrackerRecord:
    """The record of a run in a tracker; kept in the checkpoint.

    tracker: name of the package; id: unique in its project.
    """

    tracker: str
    id: str

    def __str__(self) -> str:
        """Return the record as text, such as `wandb:a-0123abcd`."""
        return f"{self.tracker}:{self.id}"


@dataclass(frozen=True)
class OpenRecord:
    """A record that takes rows.

    next_step: rows of earlier steps are in the record already.
    """

    log: Callable[..., object]
    finish: Callable[[], object]
    next_step: int


def _open_trackio(record: TrackerRecord, _: str, __: Path, settings: Settings) -> OpenRecord:
    import trackio

    run = trackio.init(
        PROJECT,
        name=record.id,  # trackio finds a record by its name alone
        config=dict(settings),
        resume="allow",
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
    )
    return OpenRecord(run.log, run.finish, run._next_step)  # there is no public way to read it


def _open_wandb(record: TrackerRecord, name: str, folder: Path, settings: Settings) -> OpenRecord:
    import wandb

    wanted: dict[str, Any] = {  # only what `--track` promises to log
        "console": "off",
        "disable_git": True,
        "init_timeout": _START_SECONDS,
        "x_disable_machine_info": True,
        "x_disable_meta": True,
        "x_disable_stats": True,
        "x_save_requirements": False,
        "x_transaction_log_flush_interval": 1.0,  # seconds that SIGKILL loses offline, else 15
    }
    known = {key: value for key, value in wanted.items() if key in wandb.Settings.model_fields}
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        id=record.id,
        name=name,
        dir=str(folder),
        config=dict(settings),
        allow_val_change=True,  # a resumed run may have other workers or a new schedule
        resume="allow",
        mode=None if _has_wandb_key(wandb.setup().settings) else "offline",
        settings=wandb.Settings(**known),
    )
    # Without `commit`, the row of an epoch would wait for the next step.
    return OpenRecord(partial(run.log, commit=True), run.finish, run.step)


def _has_wandb_key(settings: Any) -> bool:
    """Return whether wandb can log in without asking, or has to do so."""
    if settings.mode != "online" or settings.api_key or settings.identity_token_file:
        return True
    host = urlsplit(settings.base_url).hostname or ""
    with suppress(OSError, netrc.NetrcParseError):
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    return False


TRACKERS: Final = {"trackio": _open_trackio, "wandb": _open_wandb}


def check_tracker(track: str) -> None:
    """Check that the package of a tracker is installed.

    track: its name, or `none`.

    Raises:
        ConfigError: it is not.
    """
    if track != "none":
        require_packages(
            f"--track {track}", [track], extra=track, alternative="Leave it with --track none. "
        )


class Tracker:
    """Sends the numbers of a run to its record, from a thread of its own.

    Training never waits for it. A failure is one warning, after which nothing is sent. Rows are
    counted in optimizer steps; a resumed run sends only the steps that the record lacks.
    """

    def __init__(self, record: TrackerRecord, *, name: str, folder: Path, step: int) -> None:
        """Create a tracker for a run that continues at a step.

        name: of the run, to show; folder: for files of the tracker.
        """
        self.record = record
        self._open = partial(TRACKERS[record.tracker], record, name, folder)
        self._rows = queue.Queue[tuple[int, dict[str, float]] | None](_MAX_WAITING)
        self._pending: dict[str, float] = {}
        self._pending_step = self._sent = step - 1
        self._started, self._failed = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, settings: Settings) -> None:
        """Open the record, and store the settings in it."""
        self._thread = threading.Thread(
            target=self._send_rows, args=(settings,), name="imgnet-mini-track", daemon=True
        )
        self._thread.start()
        # Worker processes that are forked during an import may find its lock held for ever.
        self._started.wait(_START_SECONDS)

    def log_step(self, step: int, metrics: Metrics) -> None:
        """Log the results of a step, unless they were sent."""
        if step > self._sent:
            self._add(step, metrics)

    def log_epoch(self, metrics: Metrics, *, step: int | None = None) -> None:
        """Log results of an epoch, or of the run.

        step: the last of the epoch; by default the newest step, or the next one if that was sent.
        """
        newest = self._pending_step if self._pending else self._sent + 1
        self._add(newest if step is None else step, metrics)

    def flush(self) -> None:
        """Send the newest row, which waits for more values of its step."""
        if self._pending:
            self._put((self._pending_step, self._pending))
            self._sent, self._pending = self._pending_step, {}

    def close(self) -> None:
        """Send the rest and close the record; do not wait if the process is to end at once."""
        self.flush()
        self._put(None)
        error = sys.exception()
        if self._thread is None or (error is not None and not isinstance(error, Exception)):
            return
        self._thread.join(0 if self._failed.is_set() else _FINISH_SECONDS)
        if self._thread.is_alive() and not self._failed.is_set():
            self._fail(f"it has not finished within {_FINISH_SECONDS:.0f} seconds")

    def _add(self, step: int, metrics: Metrics) -> None:
        if step != self._pending_step:
            self.flush()
        self._pending_step = step
        # trackio would store NaN as text.
        self._pending |= {tag: value for tag, value in metrics.items() if math.isfinite(value)}

    def _put(self, row: tuple[int, dict[str, float]] | None) -> None:
        if self._failed.is_set():
            return
        try:
            self._rows.put_nowait(row)
        except queue.Full:
            self._fail(f"{_MAX_WAITING} rows wait for it")

    def _send_rows(self, settings: Settings) -> None:
        try:
            record = self._open(settings)
            self._started.set()
            while (row := self._rows.get()) is not None:
                step, metrics = row
                if step >= record.next_step:
                    record.log(metrics, step=step)
            record.finish()
        except Exception as error:  # whatever a tracker raises, training goes on
            self._fail(f"{type(error).__name__}: {error}")
        finally:
            self._started.set()

    def _fail(self, reason: str) -> None:
        """Give up tracking."""
        self._failed.set()
        print_warning(
            f"Warning: --track {self.record.tracker}: {escape_line(reason)}. Training is not "
            f"affected, but the record {self.record.id} is incomplete"
        )


def build_tracker(
    track: str,
    paths: RunPaths,
    saved: TrackerRecord | None = None,
    *,
    step: int = 0,
    steps_per_epoch: int = 0,
    records: Iterable[EpochRecord] = (),
) -> Tracker | None:
    """Return the tracker of a run; None without one.

    track: name of the tracker, or `none`.
    saved: the record so far; a new one starts with the results of `records`, the epochs so far.
    """
    if track == "none":
        return None
    is_new = saved is None or saved.tracker != track
    if saved is None or is_new:
        saved = TrackerRecord(track, f"{paths.name}-{secrets.token_hex(4)}")
    tracker = Tracker(saved, name=paths.name, folder=paths.output_dir, step=step)
    for record in records if is_new else ():
        last_step = (record.epoch + 1) * steps_per_epoch - 1
        tracker.log_epoch({"epoch": record.epoch, **tagged_values(record)}, step=last_step)
    return tracker
