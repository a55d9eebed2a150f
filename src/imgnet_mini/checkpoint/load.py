"""From a file of a run to what it holds, or to what is wrong with it."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from imgnet_mini.checkpoint.manifest import Manifest
from imgnet_mini.checkpoint.reader import Content, load_opened, load_tensors, opened, sha256_of
from imgnet_mini.checkpoint.schema import check_run, check_weights
from imgnet_mini.errors import CheckpointError

FORMAT: Final = 1
"""Raised when what a checkpoint holds changes in a way that an older version cannot read."""


class Weights(NamedTuple):
    """What a file of weights holds, and its digest."""

    content: Content
    sha256: str


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


def read_weights(path: Path) -> Weights:
    """Read a checkpoint or a plain state dict; one that a run has saved, only as it was saved.

    A run may be saving: its list names a file before that takes its name, and so is read after it.

    Raises:
        CheckpointError: the file is missing or damaged, or holds no weights.
    """
    with opened(path) as file:
        sha256 = sha256_of(file)
        if re.fullmatch(r"(best|checkpoint(-\d+)?)\.pth", path.name):
            manifest = None
            with suppress(CheckpointError):  # a damaged list says nothing of a file
                manifest = Manifest.read(path.with_name("manifest.json"))
            if manifest is not None and manifest.find(sha256) is None:
                raise damaged(path)
        return Weights(check_weights(load_opened(file, path), path), sha256)


def damaged(path: Path) -> CheckpointError:
    """The error of a file that is not as it was saved."""
    return CheckpointError(f"{path} is damaged: its sha256 is not that of anything the run saved")
