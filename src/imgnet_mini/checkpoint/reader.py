"""Safe reading of files written by torch.save: nothing in them is executed."""

import hashlib
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import torch

from imgnet_mini.checkpoint.audit import audit_pickle
from imgnet_mini.errors import CheckpointError

Content = dict[str, Any]
"""Tensors and plain data, all that a safe load accepts."""

MAX_BYTES: Final = 8 * 2**30
"""Forty times a ResNet-50 with momentum; any network of torchvision fits."""

MAX_PICKLE_BYTES: Final = 8 * 2**20
"""All but the tensors: names, settings, records. That of a ResNet-50 takes 60 kB."""

_ENTRIES: Final = {
    *("data.pkl", "version", "byteorder"),
    *(".format_version", ".storage_alignment", ".data/serialization_id"),
}
"""Entries of torch.save besides data/<number>; a TorchScript archive has others, such as code."""


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file; a device or pipe might never end.

    Raises:
        CheckpointError: the file cannot be opened or, in the block, read.
    """
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"cannot read {path}: it is not a file")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error


def load_tensors(path: Path) -> Content:
    """Read a dictionary of tensors and plain data that torch.save has written.

    Raises:
        CheckpointError: the file is missing or damaged, or holds anything else.
    """
    with opened(path) as file:
        return load_opened(file, path)


def load_opened(file: BinaryIO, path: Path) -> Content:
    """Read an open file, which cannot be replaced meanwhile; see `load_tensors`.

    Checksums and sizes, which torch ignores, are checked first, before memory is allocated.

    Raises:
        CheckpointError: the file is damaged, or holds anything else.
    """
    try:
        _inspect(file)
        file.seek(0)
        content: Content = torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from error
    except OSError:
        raise
    except Exception as error:  # zipfile, pickle and torch have a dozen kinds for hostile bytes
        # Leave out torch's advice to load the file unsafely.
        why = "" if "weights_only" in str(error) else f" ({error})"
        raise CheckpointError(f"{path} is not a checkpoint, or is damaged{why}") from error
    return content


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, as hex digits.

    Raises:
        CheckpointError: the file cannot be read.
    """
    with opened(path) as file:
        return sha256_of(file)


def sha256_of(file: BinaryIO) -> str:
    """Return the SHA-256 of an open file from its start, as hex digits."""
    file.seek(0)
    return hashlib.file_digest(cast(BytesIO, file), "sha256").hexdigest()


def _inspect(file: BinaryIO) -> None:
    """Check the archive, its checksums and its pickle.

    Raises:
        CheckpointError: the message follows the name of the file.
    """
    size = os.fstat(file.fileno()).st_size
    if size > MAX_BYTES:
        raise CheckpointError(f"takes {size / 2**30:.0f} GB; no checkpoint takes more than 8")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        root = entries[0].filename.partition("/")[0] if entries else ""
        names = [entry.filename.removeprefix(f"{root}/") for entry in entries]
        if "data.pkl" not in names or len(set(names)) < len(names):
            raise CheckpointError("is an archive, but not one that torch.save has written")
        unexpected = [
            entry.filename
            for entry, name in zip(entries, names, strict=True)
            # torch writes plain, uncompressed files; anything else is damage or a trap
            if entry.compress_type
            or entry.external_attr
            or entry.file_size != entry.compress_size
            or not (name in _ENTRIES or name.startswith("data/"))
        ]
        if unexpected or sum(entry.file_size for entry in entries) > size:
            culprit = unexpected[0] if unexpected else "its table of contents"
            raise CheckpointError(f"is damaged: {culprit} is not as torch.save writes it")
        sizes = {name: entry.file_size for entry, name in zip(entries, names, strict=True)}
        if sizes["data.pkl"] > MAX_PICKLE_BYTES:
            raise CheckpointError("holds more names and numbers than a checkpoint has use for")
        damaged = archive.testzip()
        if damaged:
            raise CheckpointError(f"is damaged: {damaged} in it is not what was saved")
        with archive.open(f"{root}/data.pkl") as pickled:
            audit_pickle(pickled, sizes)
