"""The folders of a data set: train/ and val/, with one subfolder per class."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgnet_mini.config.data_settings import NO_HOLD_OUT, HoldOut
from imgnet_mini.data.folder import ImageFolder, find_images
from imgnet_mini.data.holdout import hold_out_val
from imgnet_mini.data.images import EXTENSIONS
from imgnet_mini.data.layout import (
    find_data_root,
    find_split_folders,
    is_test_folder,
    split_folder,
)
from imgnet_mini.errors import DataError
from imgnet_mini.utils.console import join_names


def find_splits(
    data_root: Path,
    *,
    allow_missing_val_classes: bool = False,
    hold_out: HoldOut = NO_HOLD_OUT,
    listed: NDArray[np.bytes_] | None = None,
) -> tuple[ImageFolder, ImageFolder]:
    """Find the training and validation images; both get the classes of the training images.

    listed: files that a run has held out for validation, if known.

    Raises:
        DataError: a split is missing or empty, the classes differ, or a class is empty.
    """
    train, val = read_splits(data_root, hold_out, listed)
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
    root = find_data_root(data_root, ("val",))
    val = find_images(split_folder(root, "val") or root / "val")
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


def read_splits(
    data_root: Path, hold_out: HoldOut = NO_HOLD_OUT, listed: NDArray[np.bytes_] | None = None
) -> tuple[ImageFolder, ImageFolder]:
    """Find the images of both splits without checking them.

    listed: files that a run has held out for validation, if known.

    Raises:
        DataError: a folder is missing, or cannot be read.
    """
    train, val = find_split_folders(data_root, hold_out)
    if hold_out.val_split:
        return hold_out_val(find_images(train), hold_out, listed)
    return find_images(train), find_images(val)


def describe_folders(data_root: Path, train: ImageFolder, val: ImageFolder) -> list[str]:
    """Return notes on images that are not in train/ and val/ of the data root."""
    root, notes = val.data_root, list[str]()
    if root != data_root:
        notes += [f"Note: the images of {data_root} are in {root}"]
    if val.hold_out.val_split:
        unused = split_folder(root, "val")
        rest = "" if unused is None else f"; {unused} is not used (for that, --val-split 0)"
        notes += [
            f"Note: {len(val)} of {len(train) + len(val)} images of {val.root} are held out for "
            f"validation ({val.hold_out.flags.strip()}){rest}"
        ]
        return notes
    for split, images in (("train", train), ("val", val)):
        if images.root.name != split:
            notes += [f"Note: {images.root} is taken as {split}/"]
    if is_test_folder(val.root):
        notes += [
            "  The best epoch is chosen by its images; to keep them for a final test, hold out "
            "training images with --val-split 0.1"
        ]
    return notes


def find_tree_problems(
    train: ImageFolder, val: ImageFolder, *, allow_missing_val_classes: bool
) -> list[str]:
    """Describe the problems of the class folders of two splits."""
    # A class with a single image keeps it for training.
    allow_missing_val_classes |= bool(val.hold_out.val_split)
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
