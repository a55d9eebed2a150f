"""Reading what torch.save has written, without running anything it holds."""

import hashlib
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from imgnet_mini.errors import CheckpointError

Content = dict[str, Any]
"""Tensors and plain data only, since that is all that a safe load accepts."""


def load_tensors(path: Path) -> Content:
    """Read any file that torch.save made of a dictionary of tensors and plain data.

    torch itself does not look at the checksums in the file, so they are compared here first.

    Raises:
        CheckpointError: it is missing, damaged, or holds anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            # torch writes plain, uncompressed files; anything else is damage or a trap.
            strange = [e.filename for e in entries if e.compress_type or e.external_attr]
            damaged = strange[0] if strange else archive.testzip()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path} is not a checkpoint, or is cut short ({error})") from error
    if damaged:
        raise CheckpointError(f"{path} is damaged: {damaged} in it is not what was saved")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds objects other than tensors and plain data; refused, since loading "
            "them could run code"
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def file_sha256(path: Path) -> str:
    """Hex digest of a file.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
