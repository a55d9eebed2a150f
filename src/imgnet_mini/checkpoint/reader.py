"""Safe reading of files written by torch.save: nothing in them is executed."""

import argparse
import hashlib
import os
import pickle
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, NamedTuple, cast

import torch

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


_OLD_START: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The pickled magic number of torch before 1.6."""


_RESAVE: Final = (
    "save its weights alone, with torch.save(model.state_dict(), FILE) in the program that made it"
)


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
        with torch.serialization.safe_globals([argparse.Namespace]):
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
    file.seek(0)
    if file.read(len(_OLD_START)) == _OLD_START:
        raise CheckpointError(
            "is in the format of torch before version 1.6: convert it with torch.save(torch.load("
            "FILE), NEW_FILE), which runs no code of the file"
        )
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        root = entries[0].filename.partition("/")[0] if entries else ""
        names = [entry.filename.removeprefix(f"{root}/") for entry in entries]
        if "constants.pkl" in names:
            raise CheckpointError(f"is a TorchScript program, which is code: {_RESAVE}")
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


_ITEM_BYTES: Final = {
    "DoubleStorage": 8,
    "LongStorage": 8,
    "FloatStorage": 4,
    "IntStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "ShortStorage": 2,
    "ByteStorage": 1,
    "CharStorage": 1,
    "BoolStorage": 1,
}


class _Storage(NamedTuple):
    """Placeholder of the data of one archive entry."""

    numel: int


class _Tensor:
    """Placeholder of a tensor."""


class _Namespace:
    """Placeholder of the options of a program, whose values are checked like all others."""

    def __setstate__(self, state: Any) -> None:
        """Take nothing."""


def audit_pickle(file: IO[bytes], sizes: Mapping[str, int]) -> None:
    """Check a pickle without building its objects.

    `torch.load(weights_only=True)` refuses foreign classes too, but accepts a few that allocate
    any amount of memory, and trusts the sizes in the file.

    sizes: bytes of each archive entry, by name.

    Raises:
        CheckpointError: it is not a dictionary of tensors and plain data, or a tensor is larger
            than its data.
    """
    try:
        content = _AuditUnpickler(file, sizes).load()
    except (MemoryError, RecursionError) as error:
        raise CheckpointError("is nested or sized as no checkpoint is; refused") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"holds a {type(content).__name__.lstrip('_')}, not a checkpoint")


class _AuditUnpickler(pickle._Unpickler):  # the pure Python one
    """Resolves only the names that tensors and plain data need, all to placeholders."""

    def __init__(self, file: IO[bytes], sizes: Mapping[str, int]) -> None:
        super().__init__(file)
        self._sizes = sizes

    def find_class(self, module: str, name: str) -> Any:
        """Return the placeholder of a name."""
        if module == "torch" and name in _ITEM_BYTES:
            return name
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("collections", "Counter"): Counter,  # of torch's MultiStepLR
            ("argparse", "Namespace"): _Namespace,  # of timm and torchvision's scripts
            ("torch._utils", "_rebuild_tensor_v2"): _check_tensor,
            ("torch._utils", "_rebuild_parameter"): _check_parameter,
        }
        if (module, name) not in known:
            culprit = ascii(f"{module}.{name}")[:80]
            raise CheckpointError(
                f"holds objects other than tensors and plain data, such as {culprit}; refused, "
                f"since loading them could run code: {_RESAVE}"
            )
        return known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the placeholder of a tensor's data."""
        kind, item, key, _, numel = pid
        if kind != "storage" or numel * _ITEM_BYTES[item] != self._sizes[f"data/{key}"]:
            raise CheckpointError(f"is damaged: data/{key} is not as long as it should be")
        return _Storage(numel)


def _check_tensor(
    storage: _Storage, offset: int, shape: Sequence[int], strides: Sequence[int], *_: Any
) -> _Tensor:
    count, last = 1, offset
    for length, stride in zip(shape, strides, strict=True):
        count *= length
        last += (length - 1) * stride
    if count and not (min(offset, *shape, *strides, 0) == 0 <= last < storage.numel >= count):
        raise CheckpointError(f"holds a tensor of shape {tuple(shape)} without its numbers")
    return _Tensor()


def _check_parameter(tensor: _Tensor, *_: Any) -> _Tensor:
    return tensor
