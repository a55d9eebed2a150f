"""NumPy arrays of one process, memory-mapped by others on the same machine."""

import mmap
import pickle
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_ALIGNMENT: Final = 64
"""Bytes; NumPy reads aligned arrays without a copy."""


@dataclass(frozen=True)
class SharedObject:
    """An object whose arrays lie in a file: its pickle, and offset and size of each array."""

    pickled: bytes
    path: Path
    parts: tuple[tuple[int, int], ...]

    def load(self) -> Any:
        """Rebuild the object with read-only arrays that are mapped from the file."""
        if not self.parts:
            return pickle.loads(self.pickled)  # noqa: S301
        with self.path.open("rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        buffers = [content[start : start + size] for start, size in self.parts]
        return pickle.loads(self.pickled, buffers=buffers)  # noqa: S301


@contextmanager
def share_arrays(value: Any) -> Iterator[SharedObject]:
    """Write the arrays of an object into a temporary file, which is removed after the block.

    Who has mapped the file until then keeps it. Without space for it, the arrays are pickled.
    """
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    with ExitStack() as stack:
        try:
            path = Path(tempfile.mkdtemp(prefix="imgnet-mini-")) / "arrays"
            stack.callback(shutil.rmtree, path.parent, ignore_errors=True)  # Windows: if mapped
            shared = SharedObject(pickled, path, _write(path, buffers))
        except OSError:
            shared = SharedObject(pickle.dumps(value), Path(), ())
        yield shared


def _write(path: Path, buffers: list[pickle.PickleBuffer]) -> tuple[tuple[int, int], ...]:
    """Return offset and size of each buffer in the file."""
    parts = []
    with path.open("wb") as file:
        for buffer in buffers:
            start = file.seek(-(-file.tell() // _ALIGNMENT) * _ALIGNMENT)
            parts.append((start, file.write(buffer.raw())))
    return tuple(parts)
