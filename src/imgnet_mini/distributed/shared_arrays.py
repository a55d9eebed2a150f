"""NumPy arrays of one process, memory-mapped by others on the same machine."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

T = TypeVar("T")


@contextmanager
def share_arrays(value: T) -> Iterator[T]:
    """Yield a copy of a value whose arrays are memory-mapped by the processes that unpickle it.

    Arrays are found in nested tuples, named tuples and dataclasses, and mapped read-only. They lie
    in temporary files that are removed after the block: unpickle the copy before. Without space for
    them, the arrays are pickled.
    """
    with ExitStack() as stack:

        @cache
        def folder() -> Path:
            path = Path(tempfile.mkdtemp(prefix="imgnet-mini-"))
            stack.callback(shutil.rmtree, path, ignore_errors=True)  # Windows: if mapped
            return path

        try:
            shared = _store_arrays(value, folder)
        except OSError:
            shared = value
        yield shared


@dataclass(frozen=True)
class _StoredArray:
    """An array in a file, which unpickles as the mapped array."""

    path: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return _map_array, (self.path,)


def _map_array(path: Path) -> NDArray[Any]:
    return open_memmap(path, mode="r").view(np.ndarray)  # a memmap's methods are slow


def _store_arrays(value: Any, folder: Callable[[], Path]) -> Any:
    if isinstance(value, np.ndarray) and value.size:  # an empty file cannot be mapped
        path = folder() / f"{len(list(folder().iterdir()))}.npy"
        np.save(path, value, allow_pickle=False)
        return _StoredArray(path)
    if isinstance(value, tuple):
        items = [_store_arrays(item, folder) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        stored = {name: _store_arrays(part, folder) for name, part in parts.items()}
        return replace(
            value, **{name: stored[name] for name in parts if stored[name] is not parts[name]}
        )
    return value
