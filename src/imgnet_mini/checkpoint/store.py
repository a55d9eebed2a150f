"""The checkpoints of a run: saved whole or not at all, and checked before they are believed.

    checkpoint.pth         the newest state; what it replaces stays as
    checkpoint-<step>.pth  earlier states
    best.pth               the weights of the best epoch
    manifest.json          the digests of all that was saved

A digest is listed once its file is on the disk, and before the file takes its name. So at any
moment each file that is there under its name is whole and listed.
"""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import torch
from torch import Tensor

from imgnet_mini.checkpoint.load import FORMAT, damaged, read_run, read_weights
from imgnet_mini.checkpoint.manifest import EMPTY, Entry, Kind, Manifest
from imgnet_mini.checkpoint.reader import Content, file_sha256
from imgnet_mini.errors import CheckpointError
from imgnet_mini.runs.paths import RunPaths
from imgnet_mini.utils.atomic_file import (
    flush_and_close,
    fsync_folder,
    temporary_file,
    translate_write_errors,
)


class LoadedCheckpoint(NamedTuple):
    """A state to go on from, the file it was in, and what to know of how it was found.

    is_newest: whether nothing of this run is known that was saved later.
    """

    content: Content
    path: Path
    notes: list[str]
    is_newest: bool


class CheckpointStore:
    """The folder `checkpoints/<name>`, for the one process that holds the run's lock.

    keep: how many states of the run, the newest included; 0 keeps all.
    """

    def __init__(self, paths: RunPaths, *, keep: int) -> None:
        self._paths = paths
        self.keep = keep
        self._manifest = EMPTY
        self._has_manifest = True
        self.newest: Entry | None = None
        """What checkpoint.pth is known to hold."""
        self._best: str | None = None
        """The digest of the best weights, where the state knows it; one of 0.1.0 does not."""

    def save(self, content: Content) -> None:
        """Save the state of the run; what checkpoint.pth held stays under the name of its step.

        Raises:
            WriteError: it cannot be written; the earlier ones are as they were.
        """
        state = content["state"]
        best = self._best if state["best_epoch"] >= 0 else None
        content = content | {"best": best}
        path = self._paths.checkpoint
        self.newest = self._write(path, content, "run", state["step"], state["epoch"])
        if self.keep:
            with suppress(OSError):  # one too many does no harm; the next save tries again
                for path in self._earlier()[self.keep - 1 :]:
                    path.unlink()

    def save_best(self, content: Content, *, step: int) -> None:
        """Save the weights of the best epoch so far, after a step, in place of those before.

        Raises:
            WriteError: they cannot be written; the earlier ones are as they were.
        """
        self._best = self._write(self._paths.best, content, "best", step, content["epoch"]).sha256

    def load_latest(self) -> LoadedCheckpoint:
        """The newest state that is as it was saved; a damaged checkpoint.pth is set aside.

        Raises:
            CheckpointError: there is none; says what is wrong with each.
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
                self._set_aside()
                problems[-1] += f". Using step {entry.step}, in {path}"
            listed = self._manifest.newest("run")
            if listed and listed.step > entry.step and not problems:
                problems = [
                    f"the save of step {listed.step} is not in its place; using step {entry.step}"
                ]
            return self._taken(path, notes + problems, is_newest=True)
        raise CheckpointError("\n".join(["no checkpoint of this run is whole:", *problems]))

    def load_file(self, path: Path) -> LoadedCheckpoint:
        """The state in a file that was asked for by name.

        Raises:
            CheckpointError: it is damaged, or holds something else.
        """
        notes = self._read_manifest()
        if path.resolve().parent == self._paths.checkpoint_dir.resolve():
            self._check(self._paths.checkpoint_dir / path.name)
        with suppress(CheckpointError):
            self.newest = self._check(self._paths.checkpoint)
        listed = self._manifest.newest("run")
        is_newest = listed is not None and listed.sha256 == file_sha256(path)
        return self._taken(path, notes, is_newest=is_newest)

    def has_best(self, epoch: int) -> bool:
        """Whether best.pth is there as it was saved: the best of the state that was taken up.

        epoch: the one after which that was.
        """
        with suppress(CheckpointError):
            digest = file_sha256(self._paths.best)
            if self._best is not None:
                return digest == self._best
            entry = self._manifest.find(digest)
            return entry is not None and (entry.kind, entry.epoch) == ("best", epoch)
        return False

    def _taken(self, path: Path, notes: list[str], *, is_newest: bool) -> LoadedCheckpoint:
        content = read_run(path)
        self._best = content.get("best")
        return LoadedCheckpoint(content, path, notes, is_newest)

    def _write(self, path: Path, content: Content, kind: Kind, step: int, epoch: int) -> Entry:
        with (
            translate_write_errors(path, tensor_bytes(content)),
            temporary_file(path) as (file, temporary),
        ):
            digesting = _Digesting(file)
            torch.save({"format": FORMAT, **content}, cast(BinaryIO, digesting))
            flush_and_close(file, temporary)
            entry = _entry(digesting.sha256.hexdigest(), kind, step, epoch)
            self._manifest = self._manifest.write_with(entry, self._paths.manifest)
            if path == self._paths.checkpoint:
                self._keep_newest()
            temporary.replace(path)
            fsync_folder(path.parent)
        return entry

    def _keep_newest(self) -> None:
        if self.newest is None or self.keep == 1:
            return
        earlier = self._paths.checkpoint_at(self.newest.step)
        earlier.unlink(missing_ok=True)
        try:
            earlier.hardlink_to(self._paths.checkpoint)
        except OSError:  # no links on this disk; should all end here, it is found by its new name
            self._paths.checkpoint.replace(earlier)

    def _earlier(self) -> list[Path]:
        """The earlier states, the latest saved first, whatever a copy has made of their times."""
        places = {
            self._paths.checkpoint_at(entry.step): place
            for place, entry in enumerate(self._manifest.saved)
            if entry.kind == "run"
        }
        return sorted(
            self._paths.earlier_checkpoints(), key=lambda path: places.get(path, -1), reverse=True
        )

    def _set_aside(self) -> None:
        path = self._paths.checkpoint
        with translate_write_errors(path), suppress(FileNotFoundError):
            path.replace(self._paths.damaged)

    def _check(self, path: Path) -> Entry:
        """What a state's file holds.

        Raises:
            CheckpointError: it is not what was saved under its name.
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
        """Read the manifest, or make one of the files that are there; return what to say of it."""
        manifest, notes = None, []
        try:
            manifest = Manifest.read(self._paths.manifest)
        except CheckpointError as error:
            notes = [f"{error}. It is made anew from the checkpoints that can be read"]
        self._has_manifest = manifest is not None
        self._manifest = self._of_what_is_there() if manifest is None else manifest
        return notes

    def _of_what_is_there(self) -> Manifest:
        """A manifest of the files that load, for which their own checksums have to speak."""
        manifest = EMPTY
        with suppress(CheckpointError):
            best = read_weights(self._paths.best)
            epoch = best.content.get("epoch")  # a plain state dict may have a tensor of that name
            entry = _entry(best.sha256, "best", 0, epoch if isinstance(epoch, int) else 0)
            manifest = manifest.write_with(entry, self._paths.manifest)
        for path in (*reversed(self._paths.earlier_checkpoints()), self._paths.checkpoint):
            with suppress(CheckpointError):
                state = read_run(path)["state"]
                entry = _entry(file_sha256(path), "run", state["step"], state["epoch"])
                manifest = manifest.write_with(entry, self._paths.manifest)
        return manifest


class _Digesting:
    """A file that knows the digest of what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def tensor_bytes(content: object) -> int:
    """About how long the file of a content will be: the size of its tensors."""
    if isinstance(content, Tensor):
        return content.nbytes
    if isinstance(content, Mapping):
        return sum(map(tensor_bytes, content.values()))
    return 0


def _entry(sha256: str, kind: Kind, step: int, epoch: int) -> Entry:
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return Entry(sha256=sha256, kind=kind, step=step, epoch=epoch, time=now)
