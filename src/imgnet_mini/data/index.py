"""A cache of the image files of a folder, in the user's cache folder.

A million files take a second or two to list, and minutes to check. The cache holds the list, and
the size and time of each file that was checked:

    index.json             folders with their modification times, and the names of the arrays
    files-<sha256>.npy     (N,) bytes
    targets-<sha256>.npy   (N,) int64
    verified-<sha256>.npy  (N, 2) int64: `file_stamps`, or -1 for files that were not checked

Adding, removing or renaming a file changes its folder's modification time; rewriting it changes
its own size or time. Arrays are memory-mapped, so that processes share them.
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

from imgnet_mini.data.folder import ImageFolder, find_images
from imgnet_mini.errors import WriteError
from imgnet_mini.utils.atomic_file import atomic_write, write_text

_SETTLED_NS: Final = 2_000_000_000
"""Resolution of a file system's clock: 2 s with FAT. Later changes might not show."""


class _Index(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[2] = 2
    root: str
    classes: tuple[str, ...]
    ignored: dict[str, int]
    folders: dict[str, int]
    """Path relative to the root, to modification time in nanoseconds."""
    files: str
    targets: str
    verified: str | None = None


def find_images_cached(root: Path) -> ImageFolder:
    """Find the images of one split, from the cache if no folder has changed since.

    Raises:
        DataError: a folder cannot be read.
    """
    with suppress(OSError, ValueError):
        return _read(root)
    began = time.time_ns()
    images = find_images(root)
    if max(images.folders.values()) < began - _SETTLED_NS:
        # The cache is optional: without it the next start is slower.
        with suppress(WriteError, OSError, ValueError):
            folder = _folder(root)
            index = _Index(
                root=str(root.resolve()),
                classes=images.classes,
                ignored=dict(images.ignored),
                folders=dict(images.folders),
                files=_save(folder, "files", images.files),
                targets=_save(folder, "targets", images.targets),
            )
            _write_index(folder, index)
    return images


def unverified_images(images: ImageFolder) -> NDArray[np.int64]:
    """Return the indices (n,) of the images that changed since their last check, or had none."""
    stamps = images.stamps
    with suppress(OSError, ValueError):
        folder, index = _folder(images.root), _read_index(images.root)
        rows = _rows(images)
        if index.verified and np.array_equal(_load(folder, index.files)[rows], images.files):
            verified = _load(folder, index.verified)[rows]
            return np.flatnonzero((stamps != verified).any(axis=1) | (stamps[:, 0] < 0))
    return np.arange(len(images))


def mark_verified(images: ImageFolder) -> None:
    """Record that all images passed a check that began after their stamps were taken."""
    with suppress(WriteError, OSError, ValueError):
        folder, index = _folder(images.root), _read_index(images.root)
        known = _load(folder, index.verified) if index.verified else None
        count = len(_load(folder, index.files))
        verified = np.full((count, 2), -1, np.int64) if known is None else known.copy()
        verified[_rows(images)] = images.stamps
        name = _save(folder, "verified", verified)
        _write_index(folder, index.model_copy(update={"verified": name}))


def _rows(images: ImageFolder) -> slice | NDArray[np.int64]:
    return slice(None) if images.rows is None else images.rows


def _folder(root: Path) -> Path:
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]
    return user_cache_path("imgnet-mini", appauthor=False) / "index" / name


def _read(root: Path) -> ImageFolder:
    """Read the images from the cache.

    Raises:
        OSError, ValueError: nothing is cached, it is damaged, or a folder has changed since.
    """
    folder, index = _folder(root), _read_index(root)
    for path, mtime_ns in index.folders.items():
        if (root / path).stat().st_mtime_ns != mtime_ns:
            raise ValueError(f"{path} has changed")
    files, targets = _load(folder, index.files), _load(folder, index.targets)
    return ImageFolder(root, index.classes, files, targets, index.ignored)


def _read_index(root: Path) -> _Index:
    text = (_folder(root) / "index.json").read_text("utf-8", "surrogateescape")
    index = _Index.model_validate_json(text)
    if index.root != str(root.resolve()):
        raise ValueError("the index is of another folder")
    return index


def _load(folder: Path, name: str) -> NDArray[Any]:
    """Memory-map an array, and check its content against the hash in its name."""
    if os.sep in name:
        raise ValueError(f"{name} is not a file name")
    array = open_memmap(folder / name, mode="r").view(np.ndarray)  # a memmap's methods are slow
    if name != _array_name(name.partition("-")[0], array):
        raise ValueError(f"{name} is damaged")
    return array


def _save(folder: Path, kind: str, array: NDArray[Any]) -> str:
    array = np.ascontiguousarray(array)
    name = _array_name(kind, array)
    if not (folder / name).exists():
        with atomic_write(folder / name) as file:
            np.save(file, array, allow_pickle=False)
    return name


def _array_name(kind: str, array: NDArray[Any]) -> str:
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    digest.update(array.view(np.uint8).reshape(-1).data if array.size else b"")
    return f"{kind}-{digest.hexdigest()}.npy"


def _write_index(folder: Path, index: _Index) -> None:
    """Write the index and remove arrays it does not name; processes that map them keep them."""
    write_text(folder / "index.json", index.model_dump_json() + "\n")
    for path in folder.glob("*.npy"):
        if path.name not in (index.files, index.targets, index.verified):
            path.unlink(missing_ok=True)
