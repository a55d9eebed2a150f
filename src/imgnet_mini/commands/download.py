"""Download a data set of Kaggle, and name the command that comes next."""

import shlex
from pathlib import Path

from imgnet_mini.config.data_settings import NO_HOLD_OUT
from imgnet_mini.config.run_settings import RunSection
from imgnet_mini.data.kaggle import (
    IMAGENET_MINI,
    check_space,
    download,
    find_dataset,
    parse_handle,
    place,
)
from imgnet_mini.data.layout import class_folders_root
from imgnet_mini.data.organize.plan import make_plan
from imgnet_mini.data.tree import describe_folders, find_splits
from imgnet_mini.errors import ConfigError, DataError
from imgnet_mini.utils.console import format_bytes, print_lines
from imgnet_mini.utils.file_lock import lock_file
from imgnet_mini.utils.packages import require_packages


def run(text: str, data_root: Path | None) -> None:
    """Download a data set into its folder, unless that holds one already.

    text: `imagenet-mini`, the handle of a data set, or the address of its page.
    data_root: its folder; None: in data/, under its own name.

    Raises:
        ConfigError: the handle is malformed, the folder holds other files, kagglehub is not
            installed, or Kaggle refuses the login.
        DataError: there is no such data set, or the transfer failed.
        WriteError: the disk is too small.
    """
    name, version = parse_handle(text)
    default = RunSection().data_root
    own = default if text == IMAGENET_MINI else default.with_name(name.partition("/")[2])
    dest = own if data_root is None else data_root
    if dest.is_file() or (dest.is_dir() and any(dest.iterdir())):
        found = _describe_next(dest, must_hold_images=True)
        print_lines(f"{dest} holds images already, and nothing is downloaded", *found)
        return
    require_packages("download", ["kagglehub"], extra="download")
    staging = dest.absolute().with_name(f".{dest.name}.download")
    dataset = find_dataset(name, version)
    check_space(dataset, staging)
    size = f", {format_bytes(dataset.size)}" if dataset.size else ""
    print_lines(f"{name}, version {dataset.version}{size}, into {dest}")
    staging.mkdir(parents=True, exist_ok=True)
    message = f"another download writes {staging}: wait for it to end"
    with lock_file(staging.with_suffix(".lock"), message):
        content = download(dataset, staging)
        place(content, dest, staging)
    print_lines(f"Downloaded {name} into {dest}", *_describe_next(dest, must_hold_images=False))


def _describe_next(dest: Path, *, must_hold_images: bool) -> list[str]:
    """Return what was found in a folder, and the command to continue with.

    Raises:
        ConfigError: the folder holds neither splits nor class folders, and must hold images.
    """
    try:
        train, val = find_splits(dest, allow_missing_val_classes=True)
    except DataError as error:
        if must_hold_images and class_folders_root(dest) is None:
            raise ConfigError(
                f"{dest} holds other files: name a new folder with --data-root"
            ) from error
        return _suggest_organize(dest, error)
    is_default = dest == RunSection().data_root
    flag = "" if is_default else f" --data-root {shlex.quote(str(dest))}"
    return [
        *describe_folders(dest, train, val),
        f"{len(train)} training and {len(val)} validation images of {len(train.classes)} classes",
        f"Next: imgnet-mini prepare --recipe mini{flag}",
        f"  or: imgnet-mini train --recipe mini{flag}",
    ]


def _suggest_organize(dest: Path, problem: DataError) -> list[str]:
    """Return the next command for images in another layout."""
    command = shlex.join(["imgnet-mini", "organize", str(dest), f"{dest}-organized"])
    try:
        make_plan(dest, None, NO_HOLD_OUT)
    except DataError as error:
        problem = error
        if "--val-split" in str(error):
            command += " --val-split 0.1"
        elif "--labels" in str(error):
            command += " --labels FILE.csv"
    return [f"Its images are not in train/ and val/: {problem}", f"Next: {command}"]
