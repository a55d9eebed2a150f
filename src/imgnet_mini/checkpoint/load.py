"""Reading the files of a run, of this format or an earlier one, or plain weights."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from imgnet_mini.checkpoint.foreign import find_weights, is_safetensors, load_safetensors
from imgnet_mini.checkpoint.manifest import Manifest
from imgnet_mini.checkpoint.reader import Content, load_opened, load_tensors, opened, sha256_of
from imgnet_mini.checkpoint.schema import FORMAT, RunCheckpoint, Weights, check_weights
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
    """Read a checkpoint, of this or another program; one of a run must be in its manifest.

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
        load = load_safetensors if is_safetensors(file) else load_opened
        content = find_weights(load(file, path), path)
        return LoadedWeights(check_weights(content, path), sha256)


def damaged(path: Path) -> CheckpointError:
    """Return the error about a file whose content was never saved."""
    return CheckpointError(f"{path} is damaged: its SHA-256 matches no checkpoint of this run")


def upgrade(content: Content, path: Path) -> Content:
    """Return the content of `checkpoint.pth` in the current format; it is not checked otherwise.

    Renamed settings in its `config` are left to the configuration, which knows their old names.

    Raises:
        CheckpointError: the file is not of a known format, or is one of version 0.1.0.
    """
    number = content.get("format")
    if number == 1 and "model" in content:
        if "train_fingerprint" in content:
            raise CheckpointError(
                f"{path} was saved by version 0.1.0, whose runs cannot be resumed: finish the run "
                "with that version, or start it again with train --overwrite"
            )
        return content | {
            "format": FORMAT,
            "state": _rename(content.get("state"), "rate", "lr"),
            "environment": _rename(content.get("environment"), "ranks", "world_size"),
        }
    if number != FORMAT or "model" not in content:
        raise CheckpointError(
            f"{path} is not a checkpoint of imgnet-mini (format {number!r}, this version reads "
            f"{FORMAT} and 1)"
        )
    return content


def _rename(table: Any, before: str, now: str) -> Any:
    if not isinstance(table, dict):  # damaged; the schema names the field
        return table
    return {now if name == before else name: value for name, value in table.items()}
