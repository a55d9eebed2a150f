"""What a pickle in a checkpoint would build, found out with nothing but stand-ins.

torch's own safe loading refuses foreign classes too; but it also takes a few that spend any
amount of memory, and believes what is said of the sizes.
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
    """Numbers in one entry of the archive."""

    numel: int


class _Tensor:
    """What stands in for a tensor."""


def audit_pickle(file: IO[bytes], sizes: Mapping[str, int]) -> None:
    """Read a pickle without building anything of it.

    sizes: bytes of each entry of the archive, by name.

    Raises:
        CheckpointError: it holds other than a dictionary of tensors and plain data, or tensors
            that are larger than what is there of them.
    """
    try:
        content = _Inventory(file, sizes).load()
    except (MemoryError, RecursionError) as error:
        raise CheckpointError("is nested or sized as no checkpoint is; refused") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"holds a {type(content).__name__.lstrip('_')}, not a checkpoint")


class _Inventory(pickle._Unpickler):  # the one in Python
    """Knows the few names that tensors and plain data need; none of them runs anything."""

    def __init__(self, file: IO[bytes], sizes: Mapping[str, int]) -> None:
        super().__init__(file)
        self._sizes = sizes

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name."""
        if module == "torch" and name in _ITEM_BYTES:
            return name
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _look_at_tensor,
            ("torch._utils", "_rebuild_parameter"): _look_at_parameter,
        }
        if (module, name) not in known:
            raise CheckpointError(
                "holds objects other than tensors and plain data; refused, since loading them "
                "could run code"
            )
        return known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        """The stand-in for the numbers of a tensor."""
        kind, item, key, _, numel = pid
        if kind != "storage" or numel * _ITEM_BYTES[item] != self._sizes[f"data/{key}"]:
            raise CheckpointError(f"is damaged: data/{key} is not as long as it should be")
        return _Storage(numel)


def _look_at_tensor(
    storage: _Storage, offset: int, shape: Sequence[int], strides: Sequence[int], *_: Any
) -> _Tensor:
    count, last = 1, offset
    for length, stride in zip(shape, strides, strict=True):
        count *= length
        last += (length - 1) * stride
    if count and not (min(offset, *shape, *strides, 0) == 0 <= last < storage.numel >= count):
        raise CheckpointError(f"holds a tensor of shape {tuple(shape)} without its numbers")
    return _Tensor()


def _look_at_parameter(tensor: _Tensor, *_: Any) -> _Tensor:
    return tensor
