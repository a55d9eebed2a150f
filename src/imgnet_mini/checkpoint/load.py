"""Reading the files of a run, or plain weights."""

import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from imgnet_mini.checkpoint.manifest import Manifest
from imgnet_mini.checkpoint.reader import load_opened, load_tensors, opened, sha256_of
from imgnet_mini.checkpoint.schema import RunCheckpoint, Weights, check_weights
from imgnet_mini.checkpoint.upgrade import upgrade
from imgnet_mini.errors import CheckpointError


class LoadedWeights(NamedTuple):
    """A file of weights and its SHA-256."""

    weights: Weights
    sha256: str


def read_run(path: Path) -> RunCheckpoint:
    """Read `checkpoint.pth`, of this format or an earlier one.

    Raises:
        CheckpointError: the file is missing or damaged, or is not the state of a run.
    """
    content = upgrade(load_tensors(path), path)
    if "optimizer" not in content:
        raise CheckpointError(f"{path} holds the weights of the best epoch only, and no run")
    return RunCheckpoint.read(content, path)


def read_weights(path: Path) -> LoadedWeights:
    """Read a checkpoint or a plain state dict; a file of a run must be listed in its manifest.

    A run may be saving meanwhile. It lists a file before the file takes its name, so the manifest
    is read after the file.

    Raises:
        CheckpointError: the file is missing or damaged, or holds no weights.
    """
    with opened(path) as file:
        sha256 = sha256_of(file)
        if re.fullmatch(r"(best|checkpoint(-\d+)?)\.pth", path.name):
            manifest = None
            with suppress(CheckpointError):  # a damaged manifest does not condemn the file
                manifest = Manifest.read(path.with_name("manifest.json"))
            if manifest is not None and manifest.find(sha256) is None:
                raise damaged(path)
        return LoadedWeights(check_weights(load_opened(file, path), path), sha256)


def damaged(path: Path) -> CheckpointError:
    """Return the error about a file whose content was never saved."""
    return CheckpointError(f"{path} is damaged: its SHA-256 matches no checkpoint of this run")
