"""Download a data set of Kaggle, and name the command that comes next."""

import shlex
from pathlib import Path

from filelock import FileLock, Timeout

from imgnet_mini.config.data_settings import NO_HOLD_OUT
from imgnet_mini.config.run_settings import RunSection
from imgnet_mini.data.kaggle import (
    IMAGENET_MINI,
    check_space,
    download,
    find_dataset,
    parse_handle,
    place,
    require_kagglehub,
)
from imgnet_mini.data.layout import class_folders_root
from imgnet_mini.data.organize.plan import make_plan
from imgnet_mini.data.tree import describe_folders, find_splits
from imgnet_mini.errors import ConfigError, DataError, InUseError
from imgnet_mini.utils.console import format_bytes, print_lines


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
        _check_present(dest)
        print_lines(f"{dest} holds images already, and nothing is downloaded")
        _print_next(dest)
        return
    require_kagglehub()
    staging = dest.absolute().with_name(f".{dest.name}.download")
    dataset = find_dataset(name, version)
    check_space(dataset, staging)
    size = f", {format_bytes(dataset.size)}" if dataset.size else ""
    print_lines(f"{name}, version {dataset.version}{size}, into {dest}")
    staging.mkdir(parents=True, exist_ok=True)
    lock = staging.with_suffix(".lock")
    try:
        with FileLock(lock, blocking=False):
            content = download(dataset, staging)
            place(content, dest, staging)
            lock.unlink(missing_ok=True)
    except Timeout as error:
        raise InUseError(f"another download writes {staging}: wait for it to end") from error
    print_lines(f"Downloaded {name} into {dest}")
    _print_next(dest)


def _check_present(dest: Path) -> None:
    """Check that a folder that is not empty holds images.

    Raises:
        ConfigError: it does not.
    """
    try:
        find_splits(dest, allow_missing_val_classes=True)
    except DataError as error:
        if not dest.is_dir() or class_folders_root(dest) is None:
            raise ConfigError(
                f"{dest} holds other files: name a new folder with --data-root"
            ) from error


def _print_next(dest: Path) -> None:
    """Print what was found in a folder, and the command to continue with."""
    quoted = shlex.quote(str(dest))
    try:
        train, val = find_splits(dest, allow_missing_val_classes=True)
    except DataError as error:
        print_lines(*_suggest_organize(dest, error))
        return
    flag = "" if dest == RunSection().data_root else f" --data-root {quoted}"
    print_lines(
        *describe_folders(dest, train, val),
        f"{len(train)} training and {len(val)} validation images of {len(train.classes)} classes",
        f"Next: imgnet-mini prepare --recipe mini{flag}",
        f"  or: imgnet-mini train --recipe mini{flag}",
    )


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
