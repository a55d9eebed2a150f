"""Checkpoints of earlier formats, in the terms of the current one."""

from pathlib import Path
from typing import Any

from imgnet_mini.checkpoint.reader import Content
from imgnet_mini.checkpoint.schema import FORMAT
from imgnet_mini.errors import CheckpointError


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
        return _from_format_1(content)
    if number != FORMAT or "model" not in content:
        raise CheckpointError(
            f"{path} is not a checkpoint of imgnet-mini (format {number!r}, this version reads "
            f"{FORMAT} and 1)"
        )
    return content


def _from_format_1(content: Content) -> Content:
    return content | {
        "format": FORMAT,
        "state": _rename(content.get("state"), "rate", "lr"),
        "environment": _rename(content.get("environment"), "ranks", "world_size"),
    }


def _rename(table: Any, before: str, now: str) -> Any:
    if not isinstance(table, dict):  # damaged; the schema names the field
        return table
    return {now if name == before else name: value for name, value in table.items()}
