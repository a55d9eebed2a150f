"""What is known of a folder of images from one start to the next, on one machine.

A million files take a second or two to list, and minutes to look at. So the list is kept, in
the user's folder for such things, with the size and time of each file that was looked at
and found whole:

    index.json          the folders and when each was last changed, and the names of the arrays
    files-<sha256>.npy  (N,) bytes, targets-<sha256>.npy (N,) int64
    sound-<sha256>.npy  (N, 2) int64: `file_stamps`, or -1 for what was not looked at

Folders change with each file that is added, removed or renamed; files with their size and
time. Arrays are mapped, so that any number of processes hold them once.
"""

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from platformdirs import user_cache_path
from pydantic import BaseModel, ConfigDict

from imgnet_mini.data.folder import ImageFolder, find_images_and_folders
from imgnet_mini.errors import WriteError
from imgnet_mini.utils.atomic_file import atomic_write, write_text

_SETTLED_NS: Final = 2_000_000_000
"""A change within the tick of a file system's clock would not show: FAT's is two seconds."""


class _Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    root: str
    classes: tuple[str, ...]
    ignored: dict[str, int]
    folders: dict[str, int]
    """Path below the root, to the time of its last change in nanoseconds."""
    files: str
    targets: str
    sound: str | None = None


def find_images_cached(root: Path) -> ImageFolder:
    """The images of one split: as they were found the last time, if no folder has changed since.

    Raises:
        DataError: a folder cannot be read.
    """
    with suppress(OSError, ValueError):
        return _read(root)
    began = time.time_ns()
    images, folders = find_images_and_folders(root)
    if max(folders.values()) < began - _SETTLED_NS:
        # Without an index all is found anew the next time: slower, and nothing worse.
        with suppress(WriteError, OSError, ValueError):
            _write(root, images, folders)
    return images


def not_known_as_sound(images: ImageFolder) -> NDArray[np.int64]:
    """Positions (n,) of the images that are to be looked at.

    Known as sound are those that were so at the last look, and have not changed since.
    """
    sound, stamps = _known(images), images.stamps
    if sound is None:
        return np.arange(len(images))
    changed = (stamps != sound).any(axis=1) | (stamps[:, 0] < 0)
    return np.flatnonzero(changed)


def remember_as_sound(images: ImageFolder) -> None:
    """Keep what a look has found that began after the stamps were taken: all are whole."""
    with suppress(WriteError, OSError, ValueError):
        folder = _folder(images.root)
        manifest = _read_manifest(images.root)
        known = _load(folder, manifest.sound) if manifest.sound else None
        count = len(_load(folder, manifest.files))
        sound = np.full((count, 2), -1, np.int64) if known is None else known.copy()
        sound[slice(None) if images.rows is None else images.rows] = images.stamps
        name = _save(folder, "sound", sound)
        _write_manifest(folder, manifest.model_copy(update={"sound": name}))


def _folder(root: Path) -> Path:
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]
    return user_cache_path("imgnet-mini", appauthor=False) / "index" / name


def _known(images: ImageFolder) -> NDArray[np.int64] | None:
    with suppress(OSError, ValueError):
        folder, manifest = _folder(images.root), _read_manifest(images.root)
        if manifest.sound is not None:
            rows = slice(None) if images.rows is None else images.rows
            if np.array_equal(_load(folder, manifest.files)[rows], images.files):
                sound: NDArray[np.int64] = _load(folder, manifest.sound)[rows]
                return sound
    return None


def _read(root: Path) -> ImageFolder:
    """What was found the last time.

    Raises:
        OSError, ValueError: there is none, it is damaged, or a folder has changed since.
    """
    folder, manifest = _folder(root), _read_manifest(root)
    for below, changed in manifest.folders.items():
        if (root / below).stat().st_mtime_ns != changed:
            raise ValueError(f"{below} has changed")
    return ImageFolder(
        root,
        manifest.classes,
        _load(folder, manifest.files),
        _load(folder, manifest.targets),
        manifest.ignored,
    )


def _read_manifest(root: Path) -> _Manifest:
    text = (_folder(root) / "index.json").read_text("utf-8", "surrogateescape")
    manifest = _Manifest.model_validate_json(text)
    if manifest.root != str(root.resolve()):
        raise ValueError("it is of another folder")
    return manifest


def _load(folder: Path, name: str) -> NDArray[Any]:
    """An array, mapped, once its content is what its name says."""
    if os.sep in name:
        raise ValueError(f"{name} is no name of a file")
    array = open_memmap(folder / name, mode="r").view(np.ndarray)  # a memmap's methods are slow
    if name != _name(name.partition("-")[0], array):
        raise ValueError(f"{name} is damaged")
    return array


def _save(folder: Path, what: str, array: NDArray[Any]) -> str:
    array = np.ascontiguousarray(array)
    name = _name(what, array)
    if not (folder / name).exists():
        with atomic_write(folder / name) as file:
            np.save(file, array, allow_pickle=False)
    return name


def _name(what: str, array: NDArray[Any]) -> str:
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    digest.update(array.view(np.uint8).reshape(-1).data if array.size else b"")
    return f"{what}-{digest.hexdigest()}.npy"


def _write(root: Path, images: ImageFolder, folders: dict[str, int]) -> None:
    folder = _folder(root)
    manifest = _Manifest(
        root=str(root.resolve()),
        classes=images.classes,
        ignored=dict(images.ignored),
        folders=folders,
        files=_save(folder, "files", images.files),
        targets=_save(folder, "targets", images.targets),
    )
    _write_manifest(folder, manifest)


def _write_manifest(folder: Path, manifest: _Manifest) -> None:
    """Write it, and remove the arrays that it does not name: who has them mapped keeps them."""
    write_text(folder / "index.json", manifest.model_dump_json() + "\n")
    for path in folder.glob("*.npy"):
        if path.name not in (manifest.files, manifest.targets, manifest.sound):
            path.unlink(missing_ok=True)
