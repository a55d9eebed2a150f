"""Locations of the splits of a data set: the folder around them, and their names."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from imgnet_mini.config.data_settings import NO_HOLD_OUT, HoldOut
from imgnet_mini.data.images import EXTENSIONS
from imgnet_mini.data.walk import is_visible_folder
from imgnet_mini.errors import DataError
from imgnet_mini.utils.console import join_names

SPLIT_NAMES: Final = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "test", "testing"),
}
"""Names of the folder of a split, in any case; the first that exists is taken."""

_ALL_NAMES: Final = {name for names in SPLIT_NAMES.values() for name in names}
_TEST_NAMES: Final = ("test", "testing")

_SEARCH_DEPTH: Final = 4
"""Levels of folders to search, as in `imagenet/ILSVRC/Data/CLS-LOC/train`."""

_MOST_FOLDERS: Final = 50
"""A folder with more subfolders holds classes."""


def split_folder(root: Path, split: str) -> Path | None:
    """Return the folder of a split in the folder of a data set; None if there is none.

    A folder of test images counts only if it has class folders: often its images have no labels.
    """
    if (root / split).is_dir():
        return root / split
    with suppress(OSError):
        inner = {path.name.lower(): path for path in subfolders(root)}
        for name in SPLIT_NAMES[split]:
            if name in inner and (name not in _TEST_NAMES or subfolders(inner[name])):
                return inner[name]
    return None


def is_split_folder(folder: Path) -> bool:
    """Return whether a folder has the name of a split."""
    return folder.name.lower() in _ALL_NAMES


def is_test_folder(folder: Path) -> bool:
    """Return whether a folder has the name of a test split."""
    return folder.name.lower() in _TEST_NAMES


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder by name, without hidden and helper folders.

    Raises:
        OSError: the folder cannot be read.
    """
    return sorted(path for path in folder.iterdir() if is_visible_folder(path))


def find_data_root(data_root: Path, splits: Sequence[str] = ("train", "val")) -> Path:
    """Return the folder with these splits: the given one, or the only such folder inside it.

    Archives often hold a folder of their own name, so that images are one folder too deep.

    Raises:
        DataError: there is none, or several.
    """
    if not data_root.is_dir():
        raise DataError(_explain_missing(data_root, "there is no such folder"))
    missing = [split for split in splits if split_folder(data_root, split) is None]
    if not missing:
        return data_root
    is_half = any(split_folder(data_root, split) for split in SPLIT_NAMES)
    found = [] if is_half else find_roots(data_root, splits)
    if len(found) > 1:
        raise DataError(
            f"{data_root} holds several data sets: name one of {join_names([*map(str, found)])} "
            "with --data-root"
        )
    if not found:
        raise DataError(_explain_missing(data_root, f"it has no folder {missing[0]}/"))
    return found[0]


def find_split_folders(data_root: Path, hold_out: HoldOut = NO_HOLD_OUT) -> tuple[Path, Path]:
    """Return the folders of the training and of the validation images.

    They are the same if validation images are held out; class folders need no folder around
    them then.

    Raises:
        DataError: a folder is missing.
    """
    if hold_out.val_split:
        folder = class_folders_root(data_root)
        if folder is None:
            root = find_data_root(data_root, ("train",))
            folder = split_folder(root, "train") or root / "train"
        return folder, folder
    root = find_data_root(data_root)
    train, val = (split_folder(root, split) or root / split for split in SPLIT_NAMES)
    return train, val


def val_folder(data_root: Path, hold_out: HoldOut = NO_HOLD_OUT) -> Path:
    """Return the folder of the validation images, which need not exist."""
    try:
        if hold_out.val_split and has_train(data_root):
            return find_split_folders(data_root, hold_out)[1]
        root = find_data_root(data_root, ("val",))
        return split_folder(root, "val") or root / "val"
    except DataError:
        return data_root / "val"


def has_train(data_root: Path) -> bool:
    """Return whether there are training images, or no data set at all."""
    try:
        return split_folder(find_data_root(data_root, ("val",)), "train") is not None
    except DataError:
        return True


def find_roots(folder: Path, splits: Sequence[str]) -> list[Path]:
    """Return the folders inside that hold these splits; those without images only if all are."""
    found = [*_inner_roots(folder, splits, _SEARCH_DEPTH)]
    if len(found) > 1:  # ILSVRC/ has Annotations/CLS-LOC/ beside Data/CLS-LOC/
        return [root for root in found if _has_class_images(root, splits[0])] or found
    return found


def _has_class_images(root: Path, split: str) -> bool:
    folder = split_folder(root, split)
    return folder is not None and any(map(_holds_image, [folder, *subfolders(folder)[:3]]))


def _inner_roots(folder: Path, splits: Sequence[str], depth: int) -> Iterator[Path]:
    """Yield the folders inside that hold these splits, by name."""
    with suppress(OSError):
        inner = subfolders(folder)
        for path in inner if len(inner) <= _MOST_FOLDERS else ():
            if all(split_folder(path, split) for split in splits):
                yield path
            elif depth > 1:
                yield from _inner_roots(path, splits, depth - 1)


def class_folders_root(data_root: Path) -> Path | None:
    """Return the folder of class folders that no split is made of; None if there is none.

    It is the data root, or the only folder inside it, and so on.
    """
    folder = data_root
    with suppress(OSError):
        for _ in range(_SEARCH_DEPTH + 1):
            if any(split_folder(folder, split) for split in SPLIT_NAMES):
                return None
            inner = subfolders(folder)
            if len(inner) > 1:
                return folder if any(map(_holds_image, inner)) else None
            if not inner:
                return None
            folder = inner[0]
    return None


def _holds_image(folder: Path) -> bool:
    with suppress(OSError):
        return any(path.name.lower().endswith(EXTENSIONS) for path in folder.iterdir())
    return False


def _explain_missing(data_root: Path, reason: str) -> str:
    cure = ""
    if split_folder(data_root, "train"):
        cure = "To hold out a tenth of the training images for validation, add --val-split 0.1.\n"
    elif class_folders_root(data_root):
        cure = "If its folders are classes, hold out validation images with --val-split 0.1.\n"
    return (
        f"no images at {data_root.absolute()}: {reason}.\n{cure}"
        "Expected one folder per class, the same in both:\n"
        f"  {data_root / 'train' / '<class>' / '<image>.JPEG'}\n"
        f"  {data_root / 'val' / '<class>' / '<image>.JPEG'}\n"
        "ImageNet-Mini is the Kaggle dataset ifigotin/imagenetmini-1000: get it with the first "
        "command below.\n"
        "For images of another layout, see imgnet-mini organize; name another folder with "
        "--data-root. To try everything without data, use the second:\n"
        "  imgnet-mini download\n"
        "  imgnet-mini demo"
    )
