"""The images of a folder: with one subfolder per class, or unlabeled."""

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from imgnet_mini.config.data_settings import NO_HOLD_OUT, HoldOut
from imgnet_mini.data.images import EXTENSIONS
from imgnet_mini.data.layout import is_split_folder
from imgnet_mini.data.walk import HIDDEN, LeftOut, class_names, walk_images
from imgnet_mini.errors import DataError
from imgnet_mini.utils.console import join_names

_BLOCK: Final = 50_000
"""Names that become an array at once: a list of all of them would take five times its memory."""


@dataclass(frozen=True)
class ImageFolder:
    """One split: N images under `root/<class>/`, ordered by class, then by path.

    files: (N,) bytes, paths relative to `root`: a compact array, since a list of a million strings
        would be copied into every worker.
    targets: (N,) int64, positions in `classes`.
    ignored: number and first path of the ignored files of a kind, such as `.txt` or `hidden`.
    part: `train` or `val` where both splits lie in this folder, by `hold_out`.
    """

    root: Path
    classes: tuple[str, ...]
    files: NDArray[np.bytes_]
    targets: NDArray[np.int64]
    ignored: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    part: str = ""
    hold_out: HoldOut = NO_HOLD_OUT

    def __len__(self) -> int:
        return len(self.files)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the stamps, which workers do not need."""
        return {name: value for name, value in vars(self).items() if name != "stamps"}

    @cached_property
    def stamps(self) -> NDArray[np.int64]:
        """`file_stamps` of this split at the first access: (N, 3)."""
        return file_stamps(self)

    @property
    def data_root(self) -> Path:
        """The folder that `--data-root` names: around train/ and val/, or around the classes."""
        return self.root.parent if is_split_folder(self.root) else self.root

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
    left_out = LeftOut()
    blocks, names, counts = list[NDArray[np.bytes_]](), list[bytes](), list[int]()
    try:
        classes = sorted(class_names(root, left_out))
        for name in classes:
            found = sorted(walk_images(root, f"{name}/", left_out))
            counts.append(len(found))
            names += map(os.fsencode, found)
            if len(names) >= _BLOCK:
                blocks.append(np.array(names, bytes))
                names.clear()
    except OSError as error:
        raise DataError(f"cannot read {error.filename or root}: {error.strerror}") from error
    return ImageFolder(
        root,
        tuple(classes),
        np.concatenate([*blocks, np.array(names, bytes)]),
        np.repeat(np.arange(len(classes)), counts),
        left_out.kinds,
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


def fingerprint(*splits: ImageFolder) -> str:
    """Return a hash of classes, file names, targets and sizes of the files."""
    return fingerprint_with_sizes(*((split, split.stamps[:, 0]) for split in splits))


def fingerprint_with_sizes(*splits: tuple[ImageFolder, NDArray[np.int64]]) -> str:
    """Return the `fingerprint` of splits with known sizes of their files."""
    digest = hashlib.sha256()
    for split, sizes in splits:
        digest.update(json.dumps([split.classes, len(split)]).encode())
        # A pack stores names in a wider dtype than they need.
        names = split.files.astype(f"S{np.char.str_len(split.files).max(initial=1)}")
        digest.update(names.tobytes())
        digest.update(split.targets.astype("<i8").tobytes())
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
    """Count the ignored files by kind, such as `12 .txt (train/cat/a.txt)`; empty if none."""
    total = LeftOut()
    for split in splits:
        for kind, (count, first) in split.ignored.items():
            total.add(kind, f"{split.root.name}/{first}", count)
    return describe_left_out(total, hidden=hidden)


def describe_left_out(left_out: LeftOut, *, hidden: bool = True) -> str:
    """Return the number of entries of each kind, the most first, and one path of each."""
    kinds = sorted(left_out.kinds.items(), key=lambda item: -item[1][0])
    return join_names(
        [f"{count} {kind} ({first})" for kind, (count, first) in kinds if hidden or kind != HIDDEN]
    )


def find_inference_images(paths: Sequence[Path], left_out: LeftOut | None = None) -> list[Path]:
    """Return the given files, whatever their suffix, and the images in the given folders.

    In the given order, and by path within a folder.

    left_out: receives what is ignored in the folders, such as hidden files.

    Raises:
        DataError: a path does not exist, or is a folder without images.
    """
    total = LeftOut() if left_out is None else left_out
    return [file for path in paths for file in _find_unlabeled(path, total)]


def _find_unlabeled(path: Path, total: LeftOut) -> list[Path]:
    try:
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise DataError(f"{path}: no such image or folder")
        left_out = LeftOut()
        found = sorted(walk_images(path, "", left_out))
    except OSError as error:
        raise DataError(f"cannot read {error.filename or path}: {error.strerror}") from error
    if not found:
        raise DataError(f"{path} contains no images ({', '.join(EXTENSIONS)})")
    for kind, (count, first) in left_out.kinds.items():
        total.add(kind, str(path / first), count)
    return [path / name for name in found]
