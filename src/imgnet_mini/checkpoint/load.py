"""From a file of a run to what it holds, or to what is wrong with it."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from imgnet_mini.checkpoint.content import check_run, check_weights
from imgnet_mini.checkpoint.manifest import Manifest
from imgnet_mini.checkpoint.reader import Content, file_sha256, load_tensors
from imgnet_mini.errors import CheckpointError

FORMAT: Final = 1
"""Raised when what a checkpoint holds changes in a way that an older version cannot read."""


def read_run(path: Path) -> Content:
    """Read the state of a run.

    Raises:
        CheckpointError: the file is missing or damaged, or holds something else.
    """
    content = load_tensors(path)
    if content.get("format") != FORMAT or "model" not in content:
        raise CheckpointError(
            f"{path} is not a checkpoint of imgnet-mini (format {content.get('format')!r}, "
            f"this version reads {FORMAT})"
        )
    if "optimizer" not in content:
        raise CheckpointError(f"{path} holds the weights of the best epoch only, and no run")
    return check_run(content, path)


def read_weights(path: Path) -> Content:
    """Read a checkpoint or a plain state dict; one that a run has saved, only as it was saved.

    Raises:
        CheckpointError: the file is missing or damaged, or holds no weights.
    """
    manifest = None
    with suppress(CheckpointError):  # a damaged list says nothing of a file
        manifest = Manifest.read(path.with_name("manifest.json"))
    is_of_run = re.fullmatch(r"(best|checkpoint(-\d+)?)\.pth", path.name)
    if manifest is not None and is_of_run and manifest.find(file_sha256(path)) is None:
        raise damaged(path)
    return check_weights(load_tensors(path), path)


def damaged(path: Path) -> CheckpointError:
    """The error of a file that is not as it was saved."""
    return CheckpointError(f"{path} is damaged: its sha256 is not that of anything the run saved")
