"""A `.npy` file that grows row by row."""

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from imgnet_mini.utils.atomic_file import open_nofollow


class GrowingArray:
    """An array of rows on the disk, of which any number can be kept when it is opened again.

    Rows are written, not mapped: a full disk is then an error to report, and not a signal that
    ends the process. Until `finish` the header says that there are none.
    """

    def __init__(
        self, path: Path, dtype: np.dtype[Any], row_shape: tuple[int, ...], *, keep: int
    ) -> None:
        self._dtype = dtype
        self._row_shape = row_shape
        self.rows = keep
        if not keep:  # made anew: what is there may be a link to something else
            path.unlink(missing_ok=True)
        # Without a buffer, a write that failed leaves nothing to be written later.
        self._file = open(  # noqa: SIM115 - closed by close()
            path, "r+b" if keep else "x+b", buffering=0, opener=open_nofollow
        )
        try:
            self._file.write(_header(dtype, row_shape, 0))
            self._file.truncate(_end(dtype, row_shape, keep))
            self._file.seek(0, os.SEEK_END)
        except OSError:
            self._file.close()
            raise

    def append(self, rows: NDArray[Any]) -> None:
        """Write (N, *row_shape) behind what is there."""
        values = np.ascontiguousarray(rows, self._dtype).reshape(-1)
        rest = values.view(np.uint8).data
        while rest:  # the system may take a part at a time
            rest = rest[self._file.write(rest) :]
        self.rows += len(rows)

    def flush(self) -> None:
        """Come back once the rows are on the disk."""
        os.fsync(self._file.fileno())

    def finish(self) -> None:
        """Make it a file that `numpy.load` reads."""
        self._file.seek(0)
        self._file.write(_header(self._dtype, self._row_shape, self.rows))
        self.flush()

    def close(self) -> None:
        """Close the file as it is."""
        self._file.close()


def holds_rows(path: Path, dtype: np.dtype[Any], row_shape: tuple[int, ...], rows: int) -> bool:
    """Whether a file is there, itself and no link to one, and long enough to keep so many rows."""
    return (
        not path.is_symlink()
        and path.is_file()
        and path.stat().st_size >= _end(dtype, row_shape, rows)
    )


def _end(dtype: np.dtype[Any], row_shape: tuple[int, ...], rows: int) -> int:
    """Where so many rows end, in bytes."""
    return len(_header(dtype, row_shape, 0)) + rows * dtype.itemsize * int(np.prod(row_shape))


def _header(dtype: np.dtype[Any], row_shape: tuple[int, ...], rows: int) -> bytes:
    """Of the same length for any number of rows: numpy leaves room for its growth."""
    header = BytesIO()
    content = {
        "descr": npy.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (rows, *row_shape),
    }
    npy.write_array_header_1_0(header, content)
    return header.getvalue()
