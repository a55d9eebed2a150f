"""The images of a folder: with one subfolder per class, or unlabeled."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgnet_mini.data.images import EXTENSIONS
from imgnet_mini.errors import DataError
from imgnet_mini.utils.console import join_names

_HIDDEN = "hidden"


@dataclass(frozen=True)
class ImageFolder:
    """One split: N images under `root/<class>/`, ordered by class, then by path.

    files: (N,) bytes, paths relative to `root`: a compact array, since a list of a million strings
        would be copied into every worker.
    targets: (N,) int64, positions in `classes`.
    ignored: number of ignored files by kind, such as `.txt` or `hidden`.
    """

    root: Path
    classes: tuple[str, ...]
    files: NDArray[np.bytes_]
    targets: NDArray[np.int64]
    ignored: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.files)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the stamps, which workers do not need."""
        return {name: value for name, value in vars(self).items() if name != "stamps"}

    @cached_property
    def stamps(self) -> NDArray[np.int64]:
        """`file_stamps` of this split at the first access: (N, 3)."""
        return file_stamps(self)

    def relative_path(self, index: int) -> str:
        """Return the path of an image relative to `root`, with forward slashes."""
        return os.fsdecode(self.files[index])

    def path_in_root(self, index: int) -> str:
        """Return the path of an image in the data root, such as `train/<class>/<image>`."""
        return f"{self.root.name}/{self.relative_path(index)}"

    def path(self, index: int) -> Path:
        """Return the path of an image."""
        return self.root / self.relative_path(index)

    def without(self, skipped: Collection[str]) -> "ImageFolder":
        """Return the split without some images, named by `train/<class>/<image>`.

        Raises:
            DataError: a class loses all of its images.
        """
        kept = ~self._named(skipped)
        self.check_no_class_lost(self.targets[kept])
        return self.select(kept)

    def select(self, kept: NDArray[np.bool_]) -> "ImageFolder":
        """Return the split with some of its images: (N,)."""
        return replace(self, files=self.files[kept], targets=self.targets[kept])

    def with_stand_ins(self, dropped: Collection[str]) -> "ImageFolder":
        """Return the split with the next image of its class in place of each dropped one.

        Raises:
            DataError: a class loses all of its images.
        """
        gone = self._named(dropped)
        self.check_no_class_lost(self.targets[~gone])
        files = self.files.copy()
        for index in np.flatnonzero(gone):
            (kept,) = np.nonzero((self.targets == self.targets[index]) & ~gone)
            files[index] = self.files[kept[np.searchsorted(kept, index) % len(kept)]]
        return replace(self, files=files)

    def _named(self, paths: Collection[str]) -> NDArray[np.bool_]:
        """Return which images have these paths, such as `train/<class>/<image>`: (N,)."""
        prefix = f"{self.root.name}/"
        inside = [path for path in paths if path.startswith(prefix)]
        names = [os.fsencode(path.removeprefix(prefix)) for path in inside]
        return np.isin(self.files, np.array(names, bytes))

    def check_no_class_lost(self, kept: NDArray[np.integer]) -> None:
        """Check that the targets of the remaining images hold every class that the split has.

        Raises:
            DataError: a class has lost all of its images.
        """
        lost = np.setdiff1d(self.targets, kept)
        if len(lost):
            names = join_names([self.classes[target] for target in lost])
            raise DataError(f"no image can be decoded in {names} of {self.root}")


def find_images(root: Path) -> ImageFolder:
    """Find the images of one split, one subfolder per class; hidden files are ignored.

    Raises:
        DataError: a folder cannot be read.
    """
    ignored: Counter[str] = Counter()
    try:
        classes = sorted(_class_names(root, ignored))
        files = [sorted(_walk_images(root, f"{name}/", ignored)) for name in classes]
    except OSError as error:
        raise DataError(f"cannot read {error.filename or root}: {error.strerror}") from error
    return ImageFolder(
        root,
        tuple(classes),
        np.array([os.fsencode(file) for in_class in files for file in in_class], bytes),
        np.repeat(np.arange(len(classes)), [len(in_class) for in_class in files]),
        dict(ignored),
    )


def file_stamps(split: ImageFolder) -> NDArray[np.int64]:
    """Return size in bytes, and modification and change time in nanoseconds, of each file: (N, 3).

    All are -1 for a file that cannot be read, such as a dangling link. Programs can set the
    modification time, but not the change time. On Windows that is the time of creation.
    """
    root = os.fsencode(split.root)
    stamps = np.full((len(split), 3), -1, np.int64)
    for number, file in enumerate(split.files.tolist()):
        with suppress(OSError):
            # A million Path objects would take seconds.
            stat = os.stat(os.path.join(root, file))  # noqa: PTH116, PTH118
            stamps[number] = stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
    return stamps


def fingerprint(*splits: ImageFolder, sizes: bool = True) -> str:
    """Return a hash of classes, file names and targets.

    sizes: include the sizes of the files.
    """
    return fingerprint_with_sizes(
        *((split, split.stamps[:, 0] if sizes else None) for split in splits)
    )


def fingerprint_with_sizes(*splits: tuple[ImageFolder, NDArray[np.int64] | None]) -> str:
    """Return the `fingerprint` of splits with known sizes of their files."""
    digest = hashlib.sha256()
    for split, sizes in splits:
        digest.update(json.dumps([split.classes, len(split)]).encode())
        # A pack stores names in a wider dtype than they need.
        names = split.files.astype(f"S{np.char.str_len(split.files).max(initial=1)}")
        digest.update(names.tobytes())
        digest.update(split.targets.astype("<i8").tobytes())
        if sizes is not None:
            digest.update(sizes.astype("<i8").tobytes())
    return digest.hexdigest()


def find_rows(files: NDArray[np.bytes_], wanted: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """Return the index of each wanted name in an array of unique names; -1 if it is not there."""
    if not len(files):
        return np.full(len(wanted), -1)
    order = np.argsort(files, kind="stable")
    rows = order[np.searchsorted(files, wanted, sorter=order).clip(max=len(files) - 1)]
    return np.where(files[rows] == wanted, rows, -1)


def describe_ignored(*splits: ImageFolder, hidden: bool = True) -> str:
    """Count the ignored files by kind, such as `12 .txt, 3 hidden`; empty if there are none."""
    counts = sum((Counter(split.ignored) for split in splits), Counter[str]())
    kinds = [kind for kind, _ in counts.most_common() if hidden or kind != _HIDDEN]
    return join_names([f"{counts[kind]} {kind}" for kind in kinds])


def _class_names(root: Path, ignored: Counter[str]) -> Iterator[str]:
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                ignored[_HIDDEN] += 1
            elif not entry.is_dir():
                ignored["outside the class folders"] += 1
            elif entry.is_symlink() and root.resolve().is_relative_to(Path(entry).resolve()):
                raise DataError(f"{root / entry.name} is a link to a folder that contains it")
            else:
                yield entry.name


def _walk_images(root: Path, prefix: str, ignored: Counter[str]) -> Iterator[str]:
    """Yield the image files below `root / prefix`, relative to `root`; skip links to folders.

    ignored: counts ignored files by kind.
    """
    with os.scandir(root / prefix) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                ignored[_HIDDEN] += 1
            elif entry.is_dir(follow_symlinks=False):
                yield from _walk_images(root, f"{prefix}{entry.name}/", ignored)
            # Dangling links are reported by a later check; reading a pipe would block.
            elif entry.name.lower().endswith(EXTENSIONS) and (
                entry.is_symlink() or entry.is_file()
            ):
                yield prefix + entry.name
            else:
                ignored[Path(entry.name).suffix.lower() or "without an extension"] += 1


def find_inference_images(paths: Sequence[Path]) -> list[Path]:
    """Return the given files, whatever their suffix, and the images in the given folders.

    In the given order, and by path within a folder; hidden files are ignored.

    Raises:
        DataError: a path does not exist, or is a folder without images.
    """
    return [file for path in paths for file in _find_unlabeled(path)]


def _find_unlabeled(path: Path) -> list[Path]:
    try:
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise DataError(f"{path}: no such image or folder")
        found = sorted(_walk_images(path, "", Counter()))
    except OSError as error:
        raise DataError(f"cannot read {error.filename or path}: {error.strerror}") from error
    if not found:
        raise DataError(f"{path} contains no images ({', '.join(EXTENSIONS)})")
    return [path / name for name in found]
