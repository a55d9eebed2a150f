"""Find the classes and images of a data folder; refuse a broken tree before anything starts."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgnet_mini.data.images import EXTENSIONS, find_problem
from imgnet_mini.errors import DataError

SHOWN = 10
"""How many culprits a message names before it counts the rest."""

_CHECK_THREADS = 8  # the check waits for the disk, not for the processor


@dataclass(frozen=True)
class ImageFolder:
    """One split: N images under `root/<class>/`, ordered by class, then by path.

    files: (N,) bytes, paths relative to `root`: one compact array, since a list of a
    million strings would be copied into every worker.
    targets: (N,) int64, positions in `classes`.
    """

    root: Path
    classes: tuple[str, ...]
    files: NDArray[np.bytes_]
    targets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.files)

    def relative(self, index: int) -> str:
        """Path of an image relative to `root`, with forward slashes."""
        return os.fsdecode(self.files[index])

    def path(self, index: int) -> Path:
        """Path of an image."""
        return self.root / self.relative(index)


def find_splits(data_root: Path) -> tuple[ImageFolder, ImageFolder]:
    """Find the training and validation images.

    Raises:
        DataError: a split is missing or empty, the classes differ, or a class is empty.
    """
    if not data_root.is_dir():
        raise DataError(_missing(data_root, "there is no such folder"))
    for split in ("train", "val"):
        if not (data_root / split).is_dir():
            raise DataError(_missing(data_root, f"it has no folder {split}/"))
    train, val = find_images(data_root / "train"), find_images(data_root / "val")
    _refuse_different_classes(train, val)
    return train, val


def find_images(root: Path) -> ImageFolder:
    """Find the images of one split, one subfolder per class; hidden files are passed over.

    Raises:
        DataError: there are no class folders, or some of them hold no images.
    """
    try:
        classes = sorted(entry.name for entry in os.scandir(root) if _is_class(entry))
        files = {name: sorted(_walk(root / name, f"{name}/")) for name in classes}
    except OSError as error:
        raise DataError(f"cannot read {error.filename or root}: {error.strerror}") from error
    if not classes:
        raise DataError(
            f"{root} has no class folders; expected {root / '<class>' / '<image>.JPEG'}"
        )
    empty = [name for name in classes if not files[name]]
    if empty:
        raise DataError(
            f"no images in {some_of(empty)} of {root}; add images ({', '.join(EXTENSIONS)}) or "
            "remove these folders from train/ and val/"
        )
    return ImageFolder(
        root,
        tuple(classes),
        np.array([os.fsencode(file) for name in classes for file in files[name]]),
        np.repeat(np.arange(len(classes)), [len(files[name]) for name in classes]),
    )


def file_stamps(split: ImageFolder) -> NDArray[np.int64]:
    """Length in bytes and time of the last change in nanoseconds of each file: (N, 2).

    Both are -1 for a file that cannot be reached, such as a link to nothing.
    """
    root = os.fsencode(split.root)
    stamps = np.full((len(split), 2), -1, np.int64)
    for number, file in enumerate(split.files.tolist()):
        with suppress(OSError):
            # A million Path objects would take seconds.
            stat = os.stat(os.path.join(root, file))  # noqa: PTH116, PTH118
            stamps[number] = stat.st_size, stat.st_mtime_ns
    return stamps


def refuse_broken_images(*splits: ImageFolder) -> None:
    """Check both ends of every image file (about 20 microseconds each once cached).

    Raises:
        DataError: names the files that are empty, cut short or no images.
    """
    with ThreadPoolExecutor(_CHECK_THREADS) as pool:
        problems = [
            problem
            for split in splits
            for problem in pool.map(find_problem, map(split.path, range(len(split))), chunksize=256)
            if problem
        ]
    if problems:
        raise DataError(
            f"{len(problems)} broken image file(s); replace or remove them:\n{listed(problems)}"
        )


def listed(problems: Sequence[str]) -> str:
    """The first few problems, a line each, and how many more there are."""
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    return "\n".join(f"  {problem}" for problem in [*problems[:SHOWN], *more])


def some_of(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _is_class(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def _walk(folder: Path, prefix: str) -> Iterator[str]:
    """Image files below a class folder; links to folders are not followed: they may loop."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(folder / entry.name, f"{prefix}{entry.name}/")
            elif not (entry.is_file() or entry.is_symlink()):
                continue  # a pipe or a device; a link to nothing is named by the check to come
            elif entry.name.lower().endswith(EXTENSIONS):
                yield prefix + entry.name


def _refuse_different_classes(train: ImageFolder, val: ImageFolder) -> None:
    only_train = sorted(set(train.classes) - set(val.classes))
    only_val = sorted(set(val.classes) - set(train.classes))
    if only_train or only_val:
        lines = [f"{train.root} and {val.root} do not hold the same classes:"]
        lines += [f"  only in train/: {some_of(only_train)}"] if only_train else []
        lines += [f"  only in val/: {some_of(only_val)}"] if only_val else []
        raise DataError("\n".join([*lines, "Add the missing folders, or remove the extra ones."]))


def _missing(data_root: Path, reason: str) -> str:
    return (
        f"no images at {data_root.absolute()}: {reason}.\n"
        "Expected one folder per class, the same in both:\n"
        f"  {data_root / 'train' / '<class>' / '<image>.JPEG'}\n"
        f"  {data_root / 'val' / '<class>' / '<image>.JPEG'}\n"
        "ImageNet-Mini is the Kaggle data set ifigotin/imagenetmini-1000; unpack it so, or name\n"
        "another folder with --data-root. To try everything without data: imgnet-mini demo"
    )
