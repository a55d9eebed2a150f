"""The folder of a pack: what it may replace, who writes it, and how it takes its place."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from imgnet_mini.data.pack.format import MANIFEST, array_files
from imgnet_mini.errors import ConfigError, InUseError, WriteError
from imgnet_mini.utils.atomic_file import TEMPORARY_SUFFIX, fsync_folder

PROGRESS: Final = "progress.json"
PROBLEMS: Final = "problems.txt"


class PackFolder:
    """A pack's folder, and two beside it: one while a pack is made, one while it is replaced.

    Nothing in any of the three is removed that a pack has not made.

    Raises:
        ConfigError: this is no place for a pack.
        WriteError: a neighbour is in the way.
    """

    def __init__(self, pack_dir: Path, images: list[Path]) -> None:
        if not pack_dir.name.strip("."):
            raise ConfigError(f"--pack-dir {pack_dir}: name a folder for the pack alone")
        # A link to a folder, on another disk perhaps, stays; what it leads to is replaced.
        self.pack_dir = pack_dir.resolve() if pack_dir.is_symlink() else pack_dir
        for root in images:
            if self.pack_dir.resolve().is_relative_to(root.resolve()):
                raise ConfigError(
                    f"--pack-dir {pack_dir}: among the images of {root} it would be taken for a "
                    "class; name another folder"
                )
        self.partial = self.pack_dir.with_name(f"{self.pack_dir.name}.partial")
        self._old = self.pack_dir.with_name(f".{self.pack_dir.name}.old")
        stranger = _stranger(self.pack_dir)
        if stranger:
            raise ConfigError(
                f"--pack-dir {pack_dir} holds something that is no pack ({stranger}), and would be "
                "replaced; name a new folder"
            )
        for folder in (self.partial, self._old):
            if _stranger(folder):
                raise WriteError(
                    f"{folder} is in the way, and no pack of ours: rename it, or name another "
                    "place with --pack-dir"
                )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that writes this pack; the system ends a lock with its process.

        Raises:
            InUseError: another one is at it.
        """
        path = self.partial.with_name(f".{self.partial.name}.lock")
        try:
            with FileLock(path, blocking=False):
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
        except Timeout as error:
            raise InUseError(
                f"another prepare is writing {self.pack_dir}; wait for it to end"
            ) from error

    def remove_temporary_files(self) -> None:
        """Remove from the partial pack what only a finished one has, and what a kill has left."""
        (self.partial / MANIFEST).unlink(missing_ok=True)
        for path in self.partial.glob(f".*{TEMPORARY_SUFFIX}"):
            path.unlink()

    def put(self) -> None:
        """Let the partial pack, complete now, take its place; what it replaces goes afterwards."""
        _remove_pack(self._old)
        if self.pack_dir.exists():
            self.pack_dir.replace(self._old)
        self.partial.replace(self.pack_dir)
        fsync_folder(self.pack_dir.parent)
        _remove_pack(self._old)
        for name in (PROGRESS, PROBLEMS):
            (self.pack_dir / name).unlink(missing_ok=True)


def _stranger(folder: Path) -> str | None:
    """The name of something in a folder that no pack has made; None for a pack, whole or not."""
    if not folder.exists():
        return None
    if not folder.is_dir():
        return folder.name
    known = _known_files(folder)
    for path in folder.iterdir():
        is_temporary = path.name.startswith(".") and path.name.endswith(TEMPORARY_SUFFIX)
        if path.is_dir() or (path not in known and not is_temporary):
            return path.name
    arrays = any(path.exists() for path in array_files(folder))
    if not arrays and (folder / MANIFEST).exists() and not _is_ours(folder / MANIFEST):
        return MANIFEST
    return None


def _known_files(folder: Path) -> list[Path]:
    return [*array_files(folder), *(folder / name for name in (MANIFEST, PROGRESS, PROBLEMS))]


def _is_ours(manifest: Path) -> bool:
    with suppress(OSError, ValueError):
        content = json.loads(manifest.read_text("utf-8"))
        return isinstance(content, dict) and "imgnet_mini" in content
    return False


def _remove_pack(folder: Path) -> None:
    if folder.is_dir():
        for path in _known_files(folder):
            path.unlink(missing_ok=True)
        folder.rmdir()
