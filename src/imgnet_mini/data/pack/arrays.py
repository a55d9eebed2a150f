"""Arrays on the disk that grow row by row, as `.npy` files."""

import os
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from imgnet_mini.utils.atomic_file import open_nofollow


class ArraySpec(NamedTuple):
    """File, dtype and shape of one row of an array."""

    path: Path
    dtype: np.dtype[Any]
    row_shape: tuple[int, ...]

    def nbytes(self, rows: int) -> int:
        """Return the size of the file with this many rows."""
        return len(self.header(0)) + rows * self.dtype.itemsize * int(np.prod(self.row_shape))

    def header(self, rows: int) -> bytes:
        """Return the header, of the same length for any number of rows: numpy pads it."""
        header = BytesIO()
        descr, shape = npy.dtype_to_descr(self.dtype), (rows, *self.row_shape)
        npy.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
        return header.getvalue()

    def holds_rows(self, rows: int) -> bool:
        """Return whether the file exists, is not a symlink, and is long enough for the rows."""
        path = self.path
        return not path.is_symlink() and path.is_file() and path.stat().st_size >= self.nbytes(rows)

    def read(self, rows: int) -> NDArray[Any]:
        """Return the first rows of an unfinished array: (rows, *row_shape)."""
        with open(self.path, "rb", opener=open_nofollow) as file:
            file.seek(len(self.header(0)))
            content = file.read(self.nbytes(rows) - len(self.header(0)))
        return np.frombuffer(content, self.dtype).reshape(rows, *self.row_shape)


class GrowingArray:
    """An array on the disk to append rows to; opened again, it keeps a given number of rows.

    Rows are written, not memory-mapped: a full disk then raises an error instead of a SIGBUS.
    Until `finish` the header claims no rows.
    """

    def __init__(self, spec: ArraySpec, *, keep: int) -> None:
        self.spec = spec
        self.rows = keep
        if not keep:  # never write through an existing link
            spec.path.unlink(missing_ok=True)
        # Unbuffered: a failed write leaves nothing that would be written later.
        self._file = open(  # noqa: SIM115 - closed by close()
            spec.path, "r+b" if keep else "x+b", buffering=0, opener=open_nofollow
        )
        try:
            self._file.write(spec.header(0))
            self._file.truncate(spec.nbytes(keep))
            self._file.seek(0, os.SEEK_END)
        except OSError:
            self._file.close()
            raise

    def append(self, rows: NDArray[Any]) -> None:
        """Append rows: (N, *row_shape)."""
        values = np.ascontiguousarray(rows, self.spec.dtype).reshape(-1)
        rest = values.view(np.uint8).data
        while rest:  # an unbuffered write may be partial
            rest = rest[self._file.write(rest) :]
        self.rows += len(rows)

    def flush(self) -> None:
        """Wait until the rows are on the disk."""
        os.fsync(self._file.fileno())

    def finish(self) -> None:
        """Write the number of rows to the header, for `numpy.load`."""
        self._file.seek(0)
        self._file.write(self.spec.header(self.rows))
        self.flush()

    def close(self) -> None:
        """Close the file, finished or not."""
        self._file.close()
