"""The checkpoints of a run: saved whole or not at all."""

from pathlib import Path
from typing import Final

import torch

from imgnet_mini.atomic_file import replacing
from imgnet_mini.checkpoint.reader import Content, load_tensors
from imgnet_mini.errors import CheckpointError

FORMAT: Final = 1
"""Raised when what a checkpoint holds changes in a way that an older version cannot read."""


def save_checkpoint(path: Path, content: Content) -> None:
    """Write a checkpoint.

    Raises:
        WriteError: it cannot be written; an earlier file of that name is as it was.
    """
    with replacing(path) as file:
        torch.save({"format": FORMAT, **content}, file)


def load_checkpoint(path: Path) -> Content:
    """Read a checkpoint of ours to the CPU.

    Raises:
        CheckpointError: it is missing, damaged, or not a checkpoint of this tool.
    """
    content = load_tensors(path)
    if content.get("format") != FORMAT or "model" not in content:
        raise CheckpointError(
            f"{path} is not a checkpoint of imgnet-mini (format {content.get('format')!r}, "
            f"this version reads {FORMAT})"
        )
    return content
