"""The folders of a data set: train/ and val/, with one subfolder per class."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from imgnet_mini.data.folder import ImageFolder, find_images
from imgnet_mini.data.images import EXTENSIONS
from imgnet_mini.errors import DataError
from imgnet_mini.utils.console import join_names

_SEARCH_DEPTH: Final = 3
"""Levels of folders to search, as in `ILSVRC/Data/CLS-LOC/train`."""

_MOST_FOLDERS: Final = 50
"""A folder with more subfolders holds classes."""


def find_splits(
    data_root: Path, *, allow_missing_val_classes: bool = False
) -> tuple[ImageFolder, ImageFolder]:
    """Find the training and validation images; both get the classes of the training images.

    Raises:
        DataError: a split is missing or empty, the classes differ, or a class is empty.
    """
    train, val = read_splits(data_root)
    problems = find_tree_problems(train, val, allow_missing_val_classes=allow_missing_val_classes)
    if problems:
        raise DataError("\n".join(problems))
    return train, _with_classes(val, train.classes)


def find_val(
    data_root: Path, classes: Sequence[str] | None, *, allow_missing_val_classes: bool
) -> tuple[ImageFolder, ImageFolder]:
    """Find the validation images of a data set without train/; the first result has no images.

    classes: of the network that is to be evaluated; None: the class folders.

    Raises:
        DataError: there is no val/, it is empty, or its classes are not those of the network.
    """
    val = find_images(find_data_root(data_root, ("val",)) / "val")
    classes = val.classes if classes is None else tuple(classes)
    train = ImageFolder(
        val.root.with_name("train"), classes, np.array([], bytes), np.array([], np.int64)
    )
    problems = [] if allow_missing_val_classes and len(val) else _explain_empty(val)
    problems += _explain_different_classes(
        train, val, allow_missing_val_classes, of="the checkpoint"
    )
    if problems:
        raise DataError("\n".join(problems))
    return train, _with_classes(val, classes)


def _with_classes(val: ImageFolder, classes: tuple[str, ...]) -> ImageFolder:
    if val.classes == classes:
        return val
    position = {name: target for target, name in enumerate(classes)}
    targets = np.array([position.get(name, -1) for name in val.classes])[val.targets]
    return replace(val, classes=classes, targets=targets)


def read_splits(data_root: Path) -> tuple[ImageFolder, ImageFolder]:
    """Find the images of both splits without checking them.

    Raises:
        DataError: a folder is missing, or cannot be read.
    """
    root = find_data_root(data_root)
    return find_images(root / "train"), find_images(root / "val")


def find_data_root(data_root: Path, splits: Sequence[str] = ("train", "val")) -> Path:
    """Return the folder with these splits: the given one, or the only such folder inside it.

    Archives often hold a folder of their own name, so that images are one folder too deep.

    Raises:
        DataError: there is none, or several.
    """
    if not data_root.is_dir():
        raise DataError(_explain_missing(data_root, "there is no such folder"))
    missing = [split for split in splits if not (data_root / split).is_dir()]
    if not missing:
        return data_root
    is_half = any((data_root / split).is_dir() for split in ("train", "val"))
    found = [] if is_half else [*_inner_roots(data_root, splits, _SEARCH_DEPTH)]
    if len(found) > 1:
        raise DataError(
            f"{data_root} holds several data sets: name one of {join_names([*map(str, found)])} "
            "with --data-root"
        )
    if not found:
        raise DataError(_explain_missing(data_root, f"it has no folder {missing[0]}/"))
    return found[0]


def val_folder(data_root: Path) -> Path:
    """Return the folder of the validation images, which need not exist."""
    try:
        return find_data_root(data_root, ("val",)) / "val"
    except DataError:
        return data_root / "val"


def has_train(data_root: Path) -> bool:
    """Return whether there are training images, or no data set at all."""
    try:
        return (find_data_root(data_root, ("val",)) / "train").is_dir()
    except DataError:
        return True


def _inner_roots(folder: Path, splits: Sequence[str], depth: int) -> Iterator[Path]:
    """Yield the folders inside that hold these splits, by name."""
    with suppress(OSError):
        inner = sorted(path for path in folder.iterdir() if path.is_dir())
        for path in inner if len(inner) <= _MOST_FOLDERS else ():
            if all((path / split).is_dir() for split in splits):
                yield path
            elif depth > 1 and not path.name.startswith("."):
                yield from _inner_roots(path, splits, depth - 1)


def describe_data_root(data_root: Path, split: ImageFolder) -> list[str]:
    """Return a note if the images were found in a folder inside the data root."""
    found = split.root.parent
    return [] if found == data_root else [f"Note: the images of {data_root} are in {found}"]


def find_tree_problems(
    train: ImageFolder, val: ImageFolder, *, allow_missing_val_classes: bool
) -> list[str]:
    """Describe the problems of the class folders of two splits."""
    problems = _explain_empty(train)
    problems += [] if allow_missing_val_classes and len(val) else _explain_empty(val)
    if train.classes and val.classes:
        problems += _explain_different_classes(train, val, allow_missing_val_classes)
        if len(train.classes) == 1:
            (only,) = train.classes
            problems.append(
                f"{train.root} has one class, {only}: a classifier needs two or more; add another"
            )
    return problems


def _explain_empty(split: ImageFolder) -> list[str]:
    if not split.classes:
        expected = split.root / "<class>" / "<image>.JPEG"
        return [f"{split.root} has no class folders; expected {expected}"]
    counts = np.bincount(split.targets, minlength=len(split.classes))
    empty = [split.classes[target] for target in np.flatnonzero(counts == 0)]
    if not empty:
        return []
    return [
        f"no images in {join_names(empty)} of {split.root}; add images "
        f"({', '.join(EXTENSIONS)}) or remove these folders from train/ and val/"
    ]


def case_collisions(classes: Sequence[str]) -> list[str]:
    """Return names that differ in case only, such as `Cat and cat`."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault(name.casefold(), []).append(name)
    return [" and ".join(group) for group in groups.values() if len(group) > 1]


def _explain_different_classes(
    train: ImageFolder,
    val: ImageFolder,
    allow_missing_val_classes: bool,
    *,
    of: str | None = None,
) -> list[str]:
    """Describe the differences; `of` names the owner of the classes of `train` if not train/."""
    only_train = sorted(set(train.classes) - set(val.classes))
    only_val = sorted(set(val.classes) - set(train.classes))
    if not only_val and (allow_missing_val_classes or not only_train):
        return []
    lines = [f"{of or train.root} and {val.root} do not hold the same classes:"]
    lines += [f"  only in {of or 'train/'}: {join_names(only_train)}"] if only_train else []
    lines += [f"  only in val/: {join_names(only_val)}"] if only_val else []
    collisions = case_collisions([*only_train, *only_val])
    lines += [f"  differing in case only: {join_names(collisions)}"] if collisions else []
    lines += ["Add the missing folders, or remove the extra ones."]
    if only_train and not allow_missing_val_classes:
        lines += [f"With --allow-missing-val-classes, val/ may lack classes of {of or 'train/'}."]
    return ["\n".join(lines)]


def _explain_missing(data_root: Path, reason: str) -> str:
    return (
        f"no images at {data_root.absolute()}: {reason}.\n"
        "Expected one folder per class, the same in both:\n"
        f"  {data_root / 'train' / '<class>' / '<image>.JPEG'}\n"
        f"  {data_root / 'val' / '<class>' / '<image>.JPEG'}\n"
        "ImageNet-Mini is the Kaggle dataset ifigotin/imagenetmini-1000: unpack it like this, or\n"
        "name another folder with --data-root. To try everything without data:\n"
        "  imgnet-mini demo"
    )
