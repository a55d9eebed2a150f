"""Inspection of a pickle in a checkpoint, with placeholders in place of objects.

`torch.load(weights_only=True)` refuses foreign classes too, but accepts a few that allocate any
amount of memory, and trusts the sizes in the file.
"""

import pickle
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import IO, Any, Final, NamedTuple

from imgnet_mini.errors import CheckpointError

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


def audit_pickle(file: IO[bytes], sizes: Mapping[str, int]) -> None:
    """Check a pickle without building its objects.

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
            ("torch._utils", "_rebuild_tensor_v2"): _check_tensor,
            ("torch._utils", "_rebuild_parameter"): _check_parameter,
        }
        if (module, name) not in known:
            raise CheckpointError(
                "holds objects other than tensors and plain data; refused, since loading them "
                "could run code"
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
