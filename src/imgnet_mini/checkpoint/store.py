"""The checkpoints of a run, written atomically and verified by digest before use.

    checkpoint.pth         the newest state
    checkpoint-<step>.pth  earlier states
    best.pth               the weights of the best epoch
    manifest.json          the digests of all files ever saved

The manifest lists a file once its data is on the disk, and before the file takes its name. So at
any moment each file under its name is complete and listed.
"""

import hashlib
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import torch
from torch import Tensor

from imgnet_mini.checkpoint.load import damaged, read_run, read_weights
from imgnet_mini.checkpoint.manifest import EMPTY, Entry, Kind, Manifest
from imgnet_mini.checkpoint.reader import Content, file_sha256
from imgnet_mini.checkpoint.schema import BestCheckpoint, RunCheckpoint
from imgnet_mini.errors import CheckpointError
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.utils.atomic_file import (
    flush_and_close,
    fsync_folder,
    temporary_file,
    translate_write_errors,
)


class LoadedCheckpoint(NamedTuple):
    """A state to resume from, its file, and notes on how it was found.

    is_newest: no later save of this run is known.
    """

    checkpoint: RunCheckpoint
    path: Path
    notes: list[str]
    is_newest: bool


class CheckpointStore:
    """The folder `checkpoints/<name>`, for the one process that holds the run's lock.

    keep: number of states to keep, the newest included; 0 keeps all.
    """

    def __init__(self, paths: RunPaths, *, keep: int) -> None:
        self._paths = paths
        self.keep = keep
        self._manifest = EMPTY
        self._has_manifest = True
        self.newest: Entry | None = None
        """The verified state in checkpoint.pth."""
        self._best_sha256: str | None = None
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Let a save in another thread fail at its next write; the earlier files are unchanged."""
        self._cancelled.set()

    def save(self, checkpoint: RunCheckpoint) -> None:
        """Save the state of the run; the previous one is kept under the name of its step.

        Raises:
            WriteError: the file cannot be written; the earlier ones are unchanged.
        """
        state = checkpoint.state
        content = checkpoint.to_dict()
        if state.best_epoch >= 0 and self._best_sha256 is not None:
            content["best"] = self._best_sha256
        path = self._paths.checkpoint
        self.newest = self._write(path, content, "run", state.step, state.epoch)
        if self.keep:
            with suppress(OSError):  # one too many does no harm; the next save tries again
                for path in self._earlier()[self.keep - 1 :]:
                    path.unlink()

    def save_best(self, best: BestCheckpoint, *, step: int) -> None:
        """Save the weights of the best epoch so far, which ended after `step`.

        Raises:
            WriteError: the file cannot be written; the earlier one is unchanged.
        """
        entry = self._write(self._paths.best, best.to_dict(), "best", step, best.epoch)
        self._best_sha256 = entry.sha256

    def load_latest(self) -> LoadedCheckpoint:
        """Load the newest undamaged state; a damaged checkpoint.pth is renamed.

        Raises:
            CheckpointError: all states are missing or damaged.
        """
        notes = self._read_manifest()
        problems: list[str] = []
        for path in (self._paths.checkpoint, *self._earlier()):
            try:
                entry = self._check(path)
            except CheckpointError as error:
                problems.append(str(error))
                continue
            if path == self._paths.checkpoint:
                self.newest = entry
            else:
                self._rename_damaged()
                problems[-1] += f". Using step {entry.step}, in {path}"
            listed = self._manifest.newest("run")
            if listed and listed.step > entry.step and not problems:
                problems = [
                    f"the save of step {listed.step} is not in its place; using step {entry.step}"
                ]
            return self._load(path, notes + problems, is_newest=True)
        raise CheckpointError("\n".join(["no checkpoint of this run is whole:", *problems]))

    def load_file(self, path: Path) -> LoadedCheckpoint:
        """Load the state in a file that the user named.

        Raises:
            CheckpointError: the file is damaged, or is not the state of a run.
        """
        notes = self._read_manifest()
        if path.resolve().parent == self._paths.checkpoint_dir.resolve():
            self._check(self._paths.checkpoint_dir / path.name)
        with suppress(CheckpointError):
            self.newest = self._check(self._paths.checkpoint)
        listed = self._manifest.newest("run")
        is_newest = listed is not None and listed.sha256 == file_sha256(path)
        return self._load(path, notes, is_newest=is_newest)

    def has_best(self) -> bool:
        """Return whether best.pth is the one that belongs to the loaded state."""
        with suppress(CheckpointError):
            return file_sha256(self._paths.best) == self._best_sha256
        return False

    def _load(self, path: Path, notes: list[str], *, is_newest: bool) -> LoadedCheckpoint:
        checkpoint = read_run(path)
        self._best_sha256 = checkpoint.best
        return LoadedCheckpoint(checkpoint, path, notes, is_newest)

    def _write(self, path: Path, content: Content, kind: Kind, step: int, epoch: int) -> Entry:
        with (
            translate_write_errors(path, tensor_bytes(content)),
            temporary_file(path) as (file, temporary),
        ):
            hashing = _HashingWriter(file, self._cancelled)
            torch.save(content, cast(BinaryIO, hashing))
            flush_and_close(file, temporary)
            entry = _entry(hashing.sha256.hexdigest(), kind, step, epoch)
            self._manifest = self._manifest.write_with(entry, self._paths.manifest)
            if path == self._paths.checkpoint:
                self._keep_previous()
            temporary.replace(path)
            fsync_folder(path.parent)
        return entry

    def _keep_previous(self) -> None:
        if self.newest is None or self.keep == 1:
            return
        earlier = self._paths.checkpoint_at(self.newest.step)
        earlier.unlink(missing_ok=True)
        try:
            earlier.hardlink_to(self._paths.checkpoint)
        except OSError:  # this file system has no hard links; a crash now leaves the new name
            self._paths.checkpoint.replace(earlier)

    def _earlier(self) -> list[Path]:
        """Return the earlier states, the last saved first; file times may have been changed."""
        places = {
            self._paths.checkpoint_at(entry.step): place
            for place, entry in enumerate(self._manifest.saved)
            if entry.kind == "run"
        }
        return sorted(
            self._paths.earlier_checkpoints(), key=lambda path: places.get(path, -1), reverse=True
        )

    def _rename_damaged(self) -> None:
        path = self._paths.checkpoint
        with translate_write_errors(path), suppress(FileNotFoundError):
            path.replace(self._paths.damaged)

    def _check(self, path: Path) -> Entry:
        """Return the manifest's entry for the file of a state.

        Raises:
            CheckpointError: the file is not the one that was saved under this name.
        """
        entry = self._manifest.find(file_sha256(path))
        if entry is None:
            if not self._has_manifest:
                read_run(path)  # says what is wrong with it
            raise damaged(path)
        if entry.kind != "run":
            raise CheckpointError(f"{path} holds the weights of the best epoch only, and no run")
        if path not in (self._paths.checkpoint, self._paths.checkpoint_at(entry.step)):
            raise CheckpointError(f"{path} holds step {entry.step}, and not what its name says")
        return entry

    def _read_manifest(self) -> list[str]:
        """Read the manifest, or rebuild it from the files; return notes."""
        manifest, notes = None, []
        try:
            manifest = Manifest.read(self._paths.manifest)
        except CheckpointError as error:
            notes = [f"{error}. It is made anew from the checkpoints that can be read"]
        self._has_manifest = manifest is not None
        self._manifest = self._rebuild_manifest() if manifest is None else manifest
        return notes

    def _rebuild_manifest(self) -> Manifest:
        """List the files that load, relying on the checksums inside them."""
        manifest = EMPTY
        with suppress(CheckpointError):
            best = read_weights(self._paths.best)
            entry = _entry(best.sha256, "best", 0, best.weights.epoch or 0)
            manifest = manifest.write_with(entry, self._paths.manifest)
        for path in (*reversed(self._paths.earlier_checkpoints()), self._paths.checkpoint):
            with suppress(CheckpointError):
                state = read_run(path).state
                entry = _entry(file_sha256(path), "run", state.step, state.epoch)
                manifest = manifest.write_with(entry, self._paths.manifest)
        return manifest


class SaveCancelledError(BaseException):
    """A save was cancelled; no error of torch.save may hide it."""


class _HashingWriter:
    """A file that computes the SHA-256 of the data written to it."""

    def __init__(self, file: BinaryIO, cancelled: threading.Event) -> None:
        self._file = file
        self._cancelled = cancelled
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        if self._cancelled.is_set():
            raise SaveCancelledError
        self.sha256.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def tensor_bytes(content: object) -> int:
    """Return the size of all tensors, which is nearly that of the file."""
    if isinstance(content, Tensor):
        return content.nbytes
    if isinstance(content, Mapping):
        return sum(map(tensor_bytes, content.values()))
    return 0


def _entry(sha256: str, kind: Kind, step: int, epoch: int) -> Entry:
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return Entry(sha256=sha256, kind=kind, step=step, epoch=epoch, time=now)
