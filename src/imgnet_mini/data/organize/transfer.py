"""Copy, move or link the files of a plan: restartable, and no file is ever replaced."""

import errno
import filecmp
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

from annotated_types import Len

from imgnet_mini.data.layout import SPLIT_NAMES
from imgnet_mini.data.organize.plan import FileMove
from imgnet_mini.errors import DataError, WriteError
from imgnet_mini.utils.atomic_file import TEMPORARY_SUFFIX, free_bytes, translate_write_errors
from imgnet_mini.utils.console import format_bytes, join_names
from imgnet_mini.utils.file_lock import lock_file
from imgnet_mini.utils.json_file import JsonModel, Text

How = Literal["copy", "move", "link"]

RECORD: Final = "organized.json"
_UNFINISHED: Final = "organized.partial.json"
_TEMPORARY: Final = f".organize{TEMPORARY_SUFFIX}"
_NO_LINKS: Final = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EACCES)


class TransferRecord(JsonModel):
    """Origin of the files in a destination, which keeps it.

    source: folder that the files are relative to.
    settings: of the command; those of an unfinished one have to be given again.
    files: pairs of paths, in the source and in the destination.
    """

    cure: ClassVar[str] = "remove it to plan anew"

    source: Text
    how: How
    settings: dict[str, Text | float | int | None]
    files: list[Annotated[list[Text], Len(2, 2)]]

    def to_json(self) -> str:
        """Return the text of the file, in one line: there may be a million files."""
        return self.model_dump_json() if _is_utf8(self) else super().to_json()


def _is_utf8(record: TransferRecord) -> bool:
    with suppress(UnicodeEncodeError):
        "".join(name for pair in record.files for name in pair).encode()
        return True
    return False


class Transfer:
    """The files of a plan in a destination.

    Raises:
        DataError: the destination holds other images, or files that differ from those of the plan.
    """

    def __init__(self, source: Path, dest: Path, files: list[FileMove]) -> None:
        self.source, self.dest, self.files = source, dest, files
        self.remaining = self._find_remaining()

    def _find_remaining(self) -> list[FileMove]:
        """Return the files that are still to be made."""
        targets = {file.target: file.source for file in self.files}
        present = {*_find_files(self.dest)}
        others = sorted(present - targets.keys())
        if others:
            raise DataError(
                f"{self.dest} holds {len(others)} other file(s) in train/ and val/ (first: "
                f"{others[0]}): choose a new folder"
            )
        differing = [name for name in sorted(present) if not self._is_same(targets[name], name)]
        if differing:
            raise DataError(
                f"{len(differing)} file(s) of {self.dest} exist with other contents: "
                f"{join_names(differing)}. Nothing is replaced: choose a new folder"
            )
        return [file for file in self.files if file.target not in present]

    def _is_same(self, source: str, target: str) -> bool:
        ours, theirs = self.source / source, self.dest / target
        with suppress(OSError):
            # Equal sizes and times suffice, as after a copy; else the contents are compared.
            return not os.path.lexists(ours) or filecmp.cmp(ours, theirs, shallow=True)
        return False

    def needed_bytes(self, how: How) -> int:
        """Return the disk space that the remaining files take."""
        if how == "link" or (how == "move" and self._is_on_same_disk()):
            return 0
        return sum((self.source / file.source).stat().st_size for file in self.remaining)

    def _is_on_same_disk(self) -> bool:
        existing = next(
            path for path in (self.dest, *self.dest.absolute().parents) if path.is_dir()
        )
        return existing.stat().st_dev == self.source.stat().st_dev

    def check_space(self, how: How) -> None:
        """Check the free disk space.

        Raises:
            WriteError: it is too little.
        """
        needed, free = self.needed_bytes(how), free_bytes(self.dest)
        if needed > free:
            raise WriteError(
                f"the images need {format_bytes(needed)}, and the disk of {self.dest} has "
                f"{format_bytes(free)} free: make room, choose another disk, or use --link"
            )

    def run(self, how: How, on_file: Callable[[int], None]) -> str:
        """Make the remaining files; return how, such as `hard links`.

        on_file: called with the number of finished files; an exception from it ends the work.

        Raises:
            WriteError: a file cannot be written; those that are done stay.
        """
        make, kind = self._choose(how)
        (self.dest / _TEMPORARY).unlink(missing_ok=True)
        for folder in sorted({(self.dest / file.target).parent for file in self.remaining}):
            folder.mkdir(parents=True, exist_ok=True)
        for number, file in enumerate(self.remaining, start=1):
            source, target = self.source / file.source, self.dest / file.target
            with translate_write_errors(target):
                make(source, target)
            on_file(number)
        if how == "move":
            self._remove_copied()
            self._remove_empty_folders()
        return kind

    def _choose(self, how: How) -> tuple[Callable[[Path, Path], None], str]:
        if how == "copy":
            return self._copy, "copied"
        if how == "move":
            return self._move, "moved"
        if self._can_hard_link():
            return _hard_link, "hard links: the source may be removed"
        return _symlink, "symbolic links: keep the source where it is"

    def _can_hard_link(self) -> bool:
        if not self.remaining:
            return True
        probe = self.dest / _TEMPORARY
        probe.unlink(missing_ok=True)
        try:
            _hard_link(self.source / self.remaining[0].source, probe)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return False
        probe.unlink()
        return True

    def _copy(self, source: Path, target: Path, *, durable: bool = False) -> None:
        temporary = self.dest / _TEMPORARY
        shutil.copyfile(source, temporary)
        with suppress(OSError):  # some mounts take no times
            stat = source.stat()
            os.utime(temporary, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        _rename_new(temporary, target)

    def _move(self, source: Path, target: Path) -> None:
        if not source.is_symlink():  # which would point elsewhere
            try:
                _rename_new(source, target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
            else:
                return
        self._copy(source, target, durable=True)
        source.unlink()

    def _remove_copied(self) -> None:
        """Remove source files that were copied before, such as just before a kill."""
        for file in self.files:
            source, target = self.source / file.source, self.dest / file.target
            if source.is_file() and not target.is_symlink():
                filecmp.clear_cache()
                if source.samefile(target) or filecmp.cmp(source, target, shallow=False):
                    source.unlink()

    def _remove_empty_folders(self) -> None:
        folders = {(self.source / file.source).parent for file in self.files}
        above = {path for folder in folders for path in folder.parents}
        for folder in sorted(folders | above, key=lambda path: -len(path.parts)):
            if folder != self.source and folder.is_relative_to(self.source):
                with suppress(OSError):  # not empty
                    folder.rmdir()


def _rename_new(source: Path, target: Path) -> None:
    if os.path.lexists(target):  # since the plan was made
        raise FileExistsError(errno.EEXIST, "it exists", str(target))
    source.rename(target)


def _hard_link(source: Path, target: Path) -> None:
    target.hardlink_to(source.resolve())


def _symlink(source: Path, target: Path) -> None:
    target.symlink_to(source.resolve())


def _find_files(dest: Path) -> Iterator[str]:
    """Yield the files in the folders of both splits, relative to the destination."""
    for split in SPLIT_NAMES:
        for folder, _, names in os.walk(dest / split):
            place = Path(folder).relative_to(dest).as_posix()
            yield from (f"{place}/{name}" for name in names)


def read_unfinished(dest: Path) -> TransferRecord | None:
    """Read the record of a transfer that was interrupted; None if there is none.

    Raises:
        DataError: the record is damaged.
    """
    return TransferRecord.read_if_exists(dest / _UNFINISHED)


def read_finished(dest: Path) -> TransferRecord | None:
    """Read the record of a finished transfer; None if there is none.

    Raises:
        DataError: the record is damaged.
    """
    return TransferRecord.read_if_exists(dest / RECORD)


@contextmanager
def recorded(dest: Path, record: TransferRecord) -> Iterator[None]:
    """Keep a record during the block, under another name if it succeeds.

    Raises:
        InUseError: another process organizes images into this folder.
        WriteError: the folder cannot be written.
    """
    with translate_write_errors(dest):
        dest.mkdir(parents=True, exist_ok=True)
        message = f"another organize is writing {dest}; wait for it to end"
        with lock_file(dest / ".organize.lock", message):
            record.write(dest / _UNFINISHED)
            yield
            (dest / _UNFINISHED).replace(dest / RECORD)
