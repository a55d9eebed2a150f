"""Find the classes and images of a data folder; refuse a broken tree before anything starts."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgnet_mini.data.images import EXTENSIONS
from imgnet_mini.errors import DataError
from imgnet_mini.utils.console import escape_line

SHOWN = 10
"""How many culprits a message names before it counts the rest."""

_HIDDEN = "hidden"


@dataclass(frozen=True)
class ImageFolder:
    """One split: N images under `root/<class>/`, ordered by class, then by path.

    files: (N,) bytes, paths relative to `root`: one compact array, since a list of a
    million strings would be copied into every worker.
    targets: (N,) int64, positions in `classes`.
    ignored: kind to number of the files that were passed over, such as `.txt` or `hidden`.
    rows: (N,) which images of the whole split these are; None for all.
    """

    root: Path
    classes: tuple[str, ...]
    files: NDArray[np.bytes_]
    targets: NDArray[np.int64]
    ignored: Mapping[str, int] = field(default_factory=dict)
    rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getstate__(self) -> dict[str, Any]:
        """What workers are given: they have no use for stamps."""
        return {name: value for name, value in vars(self).items() if name != "stamps"}

    @cached_property
    def stamps(self) -> NDArray[np.int64]:
        """`file_stamps` of this split, as they were when they were first asked for: (N, 2)."""
        return file_stamps(self)

    def relative(self, index: int) -> str:
        """Path of an image relative to `root`, with forward slashes."""
        return os.fsdecode(self.files[index])

    def place(self, index: int) -> str:
        """Path of an image from the split on, such as `train/<class>/<image>`: wherever it lies."""
        return f"{self.root.name}/{self.relative(index)}"

    def path(self, index: int) -> Path:
        """Path of an image."""
        return self.root / self.relative(index)

    def without(self, places: Mapping[str, str]) -> "ImageFolder":
        """All but the images at these places.

        Raises:
            DataError: a class loses all that it has.
        """
        prefix = f"{self.root.name}/"
        inside = [place for place in places if place.startswith(prefix)]
        names = [os.fsencode(place.removeprefix(prefix)) for place in inside]
        kept = ~np.isin(self.files, np.array(names, bytes))
        self.check_unchanged(self.targets[kept])
        rows = np.arange(len(self)) if self.rows is None else self.rows
        return replace(self, files=self.files[kept], targets=self.targets[kept], rows=rows[kept])

    def check_unchanged(self, kept: NDArray[np.integer]) -> None:
        """Compare with the targets of what is left of the images.

        Raises:
            DataError: a class has lost all that it had.
        """
        lost = np.setdiff1d(self.targets, kept)
        if len(lost):
            names = some_of([self.classes[target] for target in lost])
            raise DataError(f"no image can be decoded in {names} of {self.root}")


def find_images(root: Path) -> ImageFolder:
    """Find the images of one split, one subfolder per class; hidden files are passed over.

    Raises:
        DataError: a folder cannot be read.
    """
    images, _ = find_images_and_folders(root)
    return images


def find_images_and_folders(root: Path) -> tuple[ImageFolder, dict[str, int]]:
    """The images of one split, and the time of the last change of each folder that was read.

    Folders: paths relative to `root`, to nanoseconds, as they were before they were read.

    Raises:
        DataError: a folder cannot be read.
    """
    ignored: Counter[str] = Counter()
    folders = dict[str, int]()
    try:
        folders[""] = root.stat().st_mtime_ns
        classes = sorted(_class_names(root, ignored))
        files = [sorted(walk_images(root, f"{name}/", ignored, folders)) for name in classes]
    except OSError as error:
        raise DataError(f"cannot read {error.filename or root}: {error.strerror}") from error
    images = ImageFolder(
        root,
        tuple(classes),
        np.array([os.fsencode(file) for in_class in files for file in in_class], bytes),
        np.repeat(np.arange(len(classes)), [len(in_class) for in_class in files]),
        dict(ignored),
    )
    return images, folders


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


def fingerprint(*splits: ImageFolder, sizes: bool = True) -> str:
    """Changes when an image is added, removed, renamed or reclassed.

    sizes: also when one is of another length.
    """
    digest = hashlib.sha256()
    for split in splits:
        digest.update(json.dumps([split.classes, len(split)]).encode())
        # A pack leaves more room for names than they need.
        names = split.files.astype(f"S{np.char.str_len(split.files).max(initial=1)}")
        digest.update(names.tobytes())
        digest.update(split.targets.astype("<i8").tobytes())
        if sizes:
            digest.update(split.stamps[:, 0].astype("<i8").tobytes())
    return digest.hexdigest()


def listed(problems: Sequence[str], *, most: int = SHOWN) -> str:
    """The first problems, a line each whatever is in them, and how many more there are."""
    more = [f"and {len(problems) - most} more"] if len(problems) > most else []
    return "\n".join(f"  {escape_line(problem)}" for problem in [*problems[:most], *more])


def some_of(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return escape_line(", ".join(names[:SHOWN])) + more


def count_ignored(*splits: ImageFolder, hidden: bool = True) -> str:
    """What was passed over, such as `12 .txt, 3 hidden`; empty where nothing was."""
    counts = sum((Counter(split.ignored) for split in splits), Counter[str]())
    kinds = [kind for kind, _ in counts.most_common() if hidden or kind != _HIDDEN]
    return some_of([f"{counts[kind]} {kind}" for kind in kinds])


def _class_names(root: Path, ignored: Counter[str]) -> Iterator[str]:
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                ignored[_HIDDEN] += 1
            elif not entry.is_dir():
                ignored["outside the class folders"] += 1
            elif entry.is_symlink() and root.resolve().is_relative_to(Path(entry).resolve()):
                raise DataError(f"{root / entry.name} is a link to a folder that it is in")
            else:
                yield entry.name


def walk_images(
    root: Path, prefix: str, ignored: Counter[str], folders: dict[str, int]
) -> Iterator[str]:
    """Image files below `root / prefix`, from the prefix on; no link to a folder, which may loop.

    ignored, folders: what is passed over is counted, and the time of each folder noted.
    """
    folder = root / prefix
    folders[prefix] = folder.stat().st_mtime_ns
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                ignored[_HIDDEN] += 1
            elif entry.is_dir(follow_symlinks=False):
                yield from walk_images(root, f"{prefix}{entry.name}/", ignored, folders)
            # A link to nothing is named by the check to come; a pipe would be waited for.
            elif entry.name.lower().endswith(EXTENSIONS) and (
                entry.is_symlink() or entry.is_file()
            ):
                yield prefix + entry.name
            else:
                ignored[Path(entry.name).suffix.lower() or "without an extension"] += 1
