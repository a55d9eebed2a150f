"""Write a pack: built in a folder of its own beside the pack, which it replaces at the end."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from imgnet_mini.data.pack.builder import OnImage, PackBuilder
from imgnet_mini.data.pack.format import MANIFEST, PROBLEMS, PROGRESS, PackManifest, array_files
from imgnet_mini.data.pack.plan import PackPlan
from imgnet_mini.errors import ConfigError, WriteError
from imgnet_mini.utils.atomic_file import (
    TEMPORARY_SUFFIX,
    free_bytes,
    fsync_folder,
    remove_temporary_files,
)
from imgnet_mini.utils.console import format_bytes
from imgnet_mini.utils.file_lock import lock_file


def write_pack(plan: PackPlan, pack_dir: Path, *, skip: bool, on_image: OnImage) -> PackManifest:
    """Build a pack, or continue an interrupted build of the same plan.

    An existing pack is replaced once the new one is complete.

    skip: leave out files that cannot be decoded; else an error lists them all.

    Raises:
        ConfigError: the folder cannot be used, or holds files that are not of a pack.
        DataError: files cannot be decoded, or a class has no other file.
        WriteError: the folder cannot be written, or the disk is too small.
        InUseError: another process builds this pack.
    """
    try:
        folder = PackFolder(pack_dir, [images.root for images in plan.splits.values()])
        _check_free_space(plan, folder.partial)
        folder.partial.mkdir(parents=True, exist_ok=True)
        with folder.lock():
            folder.clean_partial()
            with closing(PackBuilder(plan, folder.partial)) as builder:
                builder.run(on_image)
                builder.check_images(skip=skip)
                manifest = builder.finish()
            folder.publish()
    except OSError as error:
        raise WriteError(
            f"cannot write {error.filename or pack_dir}: {error.strerror or error}. Packed images "
            "are kept: run the same command again, or choose another folder with --pack-dir"
        ) from error
    return manifest


class PackFolder:
    """Folder of a pack, with two neighbors: `partial` for the build, and one for the replacement.

    Only files of a pack are ever removed from the three.

    Raises:
        ConfigError: the folder cannot hold a pack.
        WriteError: a neighbor holds other files.
    """

    def __init__(self, pack_dir: Path, image_roots: list[Path]) -> None:
        if not pack_dir.name.strip("."):
            raise ConfigError(f"--pack-dir {pack_dir}: choose a folder that is only for the pack")
        # A link to a folder, such as on another disk, stays; its target is replaced.
        self.pack_dir = pack_dir.resolve() if pack_dir.is_symlink() else pack_dir
        for root in image_roots:
            if self.pack_dir.resolve().is_relative_to(root.resolve()):
                raise ConfigError(
                    f"--pack-dir {pack_dir}: inside {root} it would be taken for a class; choose "
                    "another folder"
                )
        self.partial = self.pack_dir.with_name(f"{self.pack_dir.name}.partial")
        self._old = self.pack_dir.with_name(f".{self.pack_dir.name}.old")
        foreign = _find_foreign_file(self.pack_dir)
        if foreign:
            raise ConfigError(
                f"--pack-dir {pack_dir} contains {foreign}, which is not part of a pack and would "
                "be replaced; choose a new folder"
            )
        for folder in (self.partial, self._old):
            if _find_foreign_file(folder):
                raise WriteError(
                    f"{folder} contains files that are not part of a pack, and a pack is built "
                    "there: rename it, or choose another folder with --pack-dir"
                )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Allow one process at a time to write the pack; a lock ends with its process.

        Raises:
            InUseError: another process holds the lock.
        """
        path = self.partial.with_name(f".{self.partial.name}.lock")
        with lock_file(path, f"another prepare is writing {self.pack_dir}; wait for it to end"):
            yield

    def clean_partial(self) -> None:
        """Remove the manifest of an earlier build, and temporary files of killed processes."""
        (self.partial / MANIFEST).unlink(missing_ok=True)
        remove_temporary_files(self.partial)

    def publish(self) -> None:
        """Rename the complete partial pack to the pack, then remove the pack it replaces."""
        _remove_pack(self._old)
        if self.pack_dir.exists():
            self.pack_dir.replace(self._old)
        self.partial.replace(self.pack_dir)
        fsync_folder(self.pack_dir.parent)
        _remove_pack(self._old)
        for name in (PROGRESS, PROBLEMS):
            (self.pack_dir / name).unlink(missing_ok=True)


def _find_foreign_file(folder: Path) -> str | None:
    """Return the name of a file that is not part of a pack, complete or partial; None if none."""
    if not folder.exists():
        return None
    if not folder.is_dir():
        return folder.name
    known = _pack_files(folder)
    for path in folder.iterdir():
        is_temporary = path.name.startswith(".") and path.name.endswith(TEMPORARY_SUFFIX)
        if path.is_dir() or (path not in known and not is_temporary):
            return path.name
    has_arrays = any(path.exists() for path in array_files(folder))
    manifest = folder / MANIFEST
    if not has_arrays and manifest.exists() and not _is_pack_manifest(manifest):
        return MANIFEST
    return None


def _pack_files(folder: Path) -> list[Path]:
    return [*array_files(folder), *(folder / name for name in (MANIFEST, PROGRESS, PROBLEMS))]


def _is_pack_manifest(path: Path) -> bool:
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text("utf-8"))
        return isinstance(content, dict) and "imgnet_mini" in content
    return False


def _remove_pack(folder: Path) -> None:
    if folder.is_dir():
        for path in _pack_files(folder):
            path.unlink(missing_ok=True)
        folder.rmdir()


def _check_free_space(plan: PackPlan, partial: Path) -> None:
    written = sum(path.stat().st_size for path in array_files(partial) if path.exists())
    free = free_bytes(partial.parent)
    if plan.nbytes - written > free:
        raise WriteError(
            f"the pack needs {format_bytes(plan.nbytes)}, and the disk of {partial.parent} has "
            f"{format_bytes(free)} free: make room, choose another disk with --pack-dir, or a "
            "smaller --pack-size"
        )
