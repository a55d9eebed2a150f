"""Comparison of source files with those that were packed, by a sample of their contents.

Names, sizes and times of files can be equal although their contents differ, such as when folders
of uncompressed images were exchanged.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from imgnet_mini.data.folder import ImageFolder

SOURCE_DTYPE: Final = np.dtype([("digest", "<u8"), ("ctime_ns", "<i8")])
"""Content hash of a packed file, and its change time when it was packed."""

_MOST_CHANGED: Final = 1_000
"""Files with another change time to read: all have one on another machine."""

_READ_THREADS: Final = 16  # reading is bound by the disk or the network


def content_digest(path: Path) -> int:
    """Return a hash of the content of a file, below 2**64.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).digest()
    return int.from_bytes(digest, "little")


def find_changed_contents(images: ImageFolder, packed: NDArray[np.void]) -> list[int]:
    """Return the indices of files whose content has changed, among a sample of them.

    The sample is one image per class, and up to 1,000 of those with another change time.

    packed: (N,) of `SOURCE_DTYPE`.
    """
    _, sample = np.unique(images.targets, return_index=True)
    changed = np.flatnonzero(images.stamps[:, 2] != packed["ctime_ns"])
    step = -(-len(changed) // _MOST_CHANGED) or 1
    indices = np.union1d(sample, changed[::step]).tolist()
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        digests = pool.map(_digest_or_none, (images.path(index) for index in indices))
        return [
            index
            for index, digest in zip(indices, digests, strict=True)
            if digest != int(packed["digest"][index])
        ]


def _digest_or_none(path: Path) -> int | None:
    with suppress(OSError):
        return content_digest(path)
    return None
