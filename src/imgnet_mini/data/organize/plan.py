"""From the layout of a data set to the files of train/ and val/."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from imgnet_mini.config.data_settings import HoldOut
from imgnet_mini.data.folder import ImageFolder, describe_ignored, describe_left_out, find_images
from imgnet_mini.data.holdout import choose_held_out, hold_out_val
from imgnet_mini.data.layout import (
    SPLIT_NAMES,
    class_folders_root,
    find_roots,
    is_test_folder,
    split_folder,
    subfolders,
)
from imgnet_mini.data.organize.labels import (
    KNOWN_FILES,
    Label,
    LabeledFiles,
    match_labels,
    read_labels,
)
from imgnet_mini.data.walk import LeftOut, walk_images
from imgnet_mini.errors import DataError
from imgnet_mini.utils.console import join_names

_NEEDS_VAL: Final = "to hold out a tenth of the images for validation, add --val-split 0.1"


class FileMove(NamedTuple):
    """A file relative to the source, and its new path `<split>/<class>/...` in the destination."""

    source: str
    target: str


@dataclass(frozen=True)
class OrganizePlan:
    """Files to copy, move or link.

    notes: lines on what was found, and on what is left out.
    """

    files: list[FileMove]
    notes: list[str]

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return the numbers of classes and of images of each split."""
        images = Counter(file.target.split("/")[0] for file in self.files)
        classes = Counter(
            split for split, _ in {tuple(file.target.split("/")[:2]) for file in self.files}
        )
        return {split: (classes[split], images[split]) for split in ("train", "val")}


def make_plan(source: Path, labels: Path | None, hold_out: HoldOut) -> OrganizePlan:
    """Find out how a folder keeps its images, and plan train/ and val/ with class folders.

    labels: file of labels, if given.

    Raises:
        DataError: the layout is not known, or labels are missing or wrong.
    """
    if not source.is_dir():
        raise DataError(f"{source}: there is no such folder")
    try:
        root = _find_root(source)
        train = None if root is None else split_folder(root, "train")
        if root is not None and train is not None and subfolders(train):
            return _plan_splits(source, root, train, labels, hold_out)
        if labels is not None:
            return _plan_table(source, labels, hold_out)
        folder = class_folders_root(source)
        if folder is not None:
            return _plan_hold_out(source, folder, None, hold_out)
    except OSError as error:
        raise DataError(f"cannot read {error.filename or source}: {error.strerror}") from error
    raise DataError(
        f"{source} holds neither train/ with class folders, nor class folders: if a table tells "
        f"the classes of the images, give it with --labels FILE.csv{_describe_archives(source)}"
    )


def _find_root(source: Path) -> Path | None:
    """Return the folder around the training folder; None if there is none."""
    if split_folder(source, "train"):
        return source
    found = find_roots(source, ("train",))
    if len(found) > 1:
        raise DataError(
            f"{source} holds several data sets: name one of {join_names([*map(str, found)])}"
        )
    return found[0] if found else None


def _plan_splits(
    source: Path, root: Path, train: Path, labels: Path | None, hold_out: HoldOut
) -> OrganizePlan:
    """Plan for a training folder with class folders."""
    val = split_folder(root, "val")
    if hold_out.val_split:
        if labels is not None:
            raise DataError(f"--labels {labels}: {train} has class folders already; leave it out")
        return _plan_hold_out(source, train, val, hold_out)
    if val is None:
        tests = [folder for folder in subfolders(root) if is_test_folder(folder)]
        reason = f"; {tests[0]} has no class folders" if tests else ""
        if labels is not None and tests:
            val = tests[0]
        else:
            raise DataError(f"{root} has no folder of validation images{reason}: {_NEEDS_VAL}")
    images = find_images(train)
    has_classes = {folder.name for folder in subfolders(val)} & set(images.classes)
    if has_classes and labels is not None:
        raise DataError(f"--labels {labels}: {val} has class folders already; leave it out")
    files = [*_files(source, images, "train")]
    notes = [f"Training images: {train}"]
    if has_classes:
        held = find_images(val)
        files += _files(source, held, "val")
        notes += [f"Validation images: {val}", *_note_ignored(images, held)]
        return OrganizePlan(files, [*notes, *_note_others(root, train, val), *_note_classes(files)])
    path = labels or _find_labels(source, root, val)
    left_out = LeftOut()
    found = match_labels(read_labels(path), sorted(walk_images(val, "", left_out)), path)
    _check_any(found, val, path)
    place = val.relative_to(source).as_posix()
    files += [
        FileMove(f"{place}/{image}", f"val/{label.name}/{image}")
        for image, label in found.labels.items()
    ]
    notes += [f"Validation images: {val}, with the labels of {path}", *_note_ignored(images)]
    notes += [*_note_labels(found, path), *_note_others(root, train, val), *_note_classes(files)]
    return OrganizePlan(files, notes)


def _plan_hold_out(
    source: Path, folder: Path, unused: Path | None, hold_out: HoldOut
) -> OrganizePlan:
    """Plan for class folders, some images of which are held out; `unused` is left where it is."""
    if not hold_out.val_split:
        raise DataError(f"{folder} holds class folders, and no train/ and val/: {_NEEDS_VAL}")
    images = find_images(folder)
    train, val = hold_out_val(images, hold_out)
    notes = [f"Images: {folder}, some held out for validation ({hold_out.flags.strip()})"]
    notes += _note_ignored(images)
    notes += [f"Left out: {unused}"] if unused is not None else []
    return OrganizePlan([*_files(source, train, "train"), *_files(source, val, "val")], notes)


def _plan_table(source: Path, path: Path, hold_out: HoldOut) -> OrganizePlan:
    """Plan for images anywhere in a folder, with a table of their classes."""
    left_out = LeftOut()
    found = match_labels(read_labels(path), sorted(walk_images(source, "", left_out)), path)
    _check_any(found, source, path)
    splits = _split_by_table(found, path, hold_out)
    files = [
        FileMove(image, f"{split}/{label.name}/{image}")
        for (image, label), split in zip(found.labels.items(), splits, strict=True)
        if split
    ]
    notes = [f"Images: {source}, with the labels of {path}"]
    if hold_out.val_split:
        notes += [f"Held out for validation: {hold_out.flags.strip()}"]
    elif unused := splits.count(""):
        notes += [f"Left out: {unused} images of other splits"]
    ignored = describe_left_out(left_out)
    notes += [f"Ignored files: {ignored}"] if ignored else []
    return OrganizePlan(files, [*notes, *_note_labels(found, path), *_note_classes(files)])


def _split_by_table(found: LabeledFiles, path: Path, hold_out: HoldOut) -> list[str]:
    """Return `train`, `val` or nothing for each labeled file."""
    if hold_out.val_split:
        return _held_out_splits(found.labels, hold_out)
    named = [label.split or _split_of_folder(image) for image, label in found.labels.items()]
    val = next((name for name in SPLIT_NAMES["val"] if name in named), None)
    if val is None or "train" not in named:
        raise DataError(f"{path} does not tell training from validation images: {_NEEDS_VAL}")
    return [{"train": "train", val: "val"}.get(name, "") for name in named]


def _held_out_splits(labels: dict[str, Label], hold_out: HoldOut) -> list[str]:
    targets = {image: f"{label.name}/{image}" for image, label in labels.items()}
    order = sorted(labels, key=lambda image: (labels[image].name, image))
    counts = Counter(labels[image].name for image in order)
    files = [os.fsencode(targets[image]) for image in order]
    held_out = choose_held_out(files, [*counts], [*counts.values()], hold_out)
    if not held_out.any():
        raise DataError(f"no two images have one class: none can be held out{hold_out.flags}")
    chosen = {order[index] for index in np.flatnonzero(held_out)}
    return ["val" if image in chosen else "train" for image in labels]


def _split_of_folder(image: str) -> str:
    """Return the split whose folder an image lies in, such as `train/1.jpg`; else nothing."""
    for folder in image.lower().split("/")[:-1]:
        for split, names in SPLIT_NAMES.items():
            if folder in names:
                return "train" if split == "train" else folder
    return ""


def _files(source: Path, images: ImageFolder, split: str) -> Iterator[FileMove]:
    place = images.root.relative_to(source).as_posix()
    for index in range(len(images)):
        name = images.relative_path(index)
        yield FileMove(name if place == "." else f"{place}/{name}", f"{split}/{name}")


def _find_labels(source: Path, root: Path, val: Path) -> Path:
    """Return the known file of labels of a validation folder without classes.

    Raises:
        DataError: there is none.
    """
    around = [folder for folder in (root, *root.parents) if folder.is_relative_to(source)]
    kits = [kit for folder in (*around, source.parent) for kit in folder.glob("ILSVRC*devkit*")]
    for folder in (val, *around, *(kit / "data" for kit in kits), *kits):
        for name in KNOWN_FILES:
            if (folder / name).is_file():
                return folder / name
    raise DataError(
        f"{val} has no class folders of {root}, and no file of labels was found: give one with "
        "--labels FILE, such as a CSV of file and label, Kaggle's LOC_val_solution.csv, or the "
        "ground truth of the development kit"
    )


def _check_any(found: LabeledFiles, folder: Path, path: Path) -> None:
    if not found.labels:
        example = f", such as {found.unlabeled[0]}," if found.unlabeled else ""
        raise DataError(
            f"{path} names none of the {len(found.unlabeled)} images in {folder}: its first is "
            f"{found.missing[0]}; the images{example} have other names"
        )


def _note_labels(found: LabeledFiles, path: Path) -> Iterator[str]:
    if found.missing:
        yield f"Not there: {len(found.missing)} files of {path} (first: {found.missing[0]})"
    if found.unlabeled:
        yield f"Left out: {len(found.unlabeled)} images without a label ({found.unlabeled[0]})"


def _note_ignored(*splits: ImageFolder) -> list[str]:
    ignored = describe_ignored(*splits)
    return [f"Ignored files: {ignored}"] if ignored else []


def _note_others(root: Path, *used: Path) -> Iterator[str]:
    """Name the folders of splits that are not used."""
    names = {name for known in SPLIT_NAMES.values() for name in known}
    for folder in subfolders(root):
        if folder.name.lower() in names and folder not in used:
            yield f"Left out: {folder}"


def _note_classes(files: list[FileMove]) -> Iterator[str]:
    """Name the classes that only one split has, which training would refuse."""
    classes: dict[str, set[str]] = {"train": set(), "val": set()}
    for file in files:
        split, name, _ = file.target.split("/", 2)
        classes[split].add(name)
    for split, other in (("train", "val"), ("val", "train")):
        if only := sorted(classes[split] - classes[other]):
            yield f"Only in {split}/: {len(only)} classes, {join_names(only)}"


def _describe_archives(source: Path) -> str:
    """Return a hint at archives that hold the images."""
    archives = [path.name for path in source.iterdir() if path.suffix in (".tar", ".zip", ".gz")]
    return f". Unpack {join_names(sorted(archives))} first" if archives else ""
