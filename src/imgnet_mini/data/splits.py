"""Both splits of a data folder: found, and held against one another."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgnet_mini.data.folder import ImageFolder, find_images, some_of
from imgnet_mini.data.images import EXTENSIONS
from imgnet_mini.errors import DataError

Find = Callable[[Path], ImageFolder]
"""From the folder of a split to its images."""


def find_splits(
    data_root: Path,
    *,
    allow_missing_val_classes: bool = False,
    find: Find = find_images,
) -> tuple[ImageFolder, ImageFolder]:
    """Find the training and validation images; the classes of both are those of training.

    find: finds the images of one split.

    Raises:
        DataError: a split is missing or empty, the classes differ, or a class is empty.
    """
    train, val = read_splits(data_root, find)
    problems = find_tree_problems(train, val, allow_missing_val_classes=allow_missing_val_classes)
    if problems:
        raise DataError("\n".join(problems))
    if val.classes != train.classes:
        position = {name: target for target, name in enumerate(train.classes)}
        targets = np.array([position.get(name, -1) for name in val.classes])[val.targets]
        val = replace(val, classes=train.classes, targets=targets)
    return train, val


def read_splits(data_root: Path, find: Find = find_images) -> tuple[ImageFolder, ImageFolder]:
    """Both splits as they are.

    Raises:
        DataError: a folder is missing, or cannot be read.
    """
    if not data_root.is_dir():
        raise DataError(_missing(data_root, "there is no such folder"))
    for split in ("train", "val"):
        if not (data_root / split).is_dir():
            raise DataError(_missing(data_root, f"it has no folder {split}/"))
    return find(data_root / "train"), find(data_root / "val")


def find_tree_problems(
    train: ImageFolder, val: ImageFolder, *, allow_missing_val_classes: bool
) -> list[str]:
    """What is wrong with the classes of two splits."""
    problems = []
    for split in (train, val):
        empty = [split.classes[n] for n in np.flatnonzero(_images_per_class(split) == 0)]
        if not split.classes:
            expected = split.root / "<class>" / "<image>.JPEG"
            problems.append(f"{split.root} has no class folders; expected {expected}")
        elif empty and not (split is val and allow_missing_val_classes and len(val)):
            problems.append(
                f"no images in {some_of(empty)} of {split.root}; add images "
                f"({', '.join(EXTENSIONS)}) or remove these folders from train/ and val/"
            )
    if train.classes and val.classes:
        problems += _different_classes(train, val, allow_missing_val_classes)
        if len(train.classes) == 1:
            (only,) = train.classes
            problems.append(
                f"{train.root} has one class, {only}: add another, for the network to tell from it"
            )
    return problems


def case_twins(classes: Sequence[str]) -> list[str]:
    """Names that differ in case only, such as `Cat and cat`; on other systems they are one."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault(name.casefold(), []).append(name)
    return [" and ".join(group) for group in groups.values() if len(group) > 1]


def _images_per_class(split: ImageFolder) -> NDArray[np.int64]:
    return np.bincount(split.targets, minlength=len(split.classes))


def _different_classes(
    train: ImageFolder, val: ImageFolder, allow_missing_val_classes: bool
) -> list[str]:
    only_train = sorted(set(train.classes) - set(val.classes))
    only_val = sorted(set(val.classes) - set(train.classes))
    if not only_val and (allow_missing_val_classes or not only_train):
        return []
    lines = [f"{train.root} and {val.root} do not hold the same classes:"]
    lines += [f"  only in train/: {some_of(only_train)}"] if only_train else []
    lines += [f"  only in val/: {some_of(only_val)}"] if only_val else []
    twins = case_twins([*only_train, *only_val])
    lines += [f"  differing in case only: {some_of(twins)}"] if twins else []
    lines += ["Add the missing folders, or remove the extra ones."]
    if only_train and not allow_missing_val_classes:
        lines += ["With --allow-missing-val-classes, val/ may lack classes of train/."]
    return ["\n".join(lines)]


def _missing(data_root: Path, reason: str) -> str:
    return (
        f"no images at {data_root.absolute()}: {reason}.\n"
        "Expected one folder per class, the same in both:\n"
        f"  {data_root / 'train' / '<class>' / '<image>.JPEG'}\n"
        f"  {data_root / 'val' / '<class>' / '<image>.JPEG'}\n"
        "ImageNet-Mini is the Kaggle data set ifigotin/imagenetmini-1000; unpack it so, or name\n"
        "another folder with --data-root. To try everything without data: imgnet-mini demo"
    )
