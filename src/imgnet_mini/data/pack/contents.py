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
    changed = np.flatnonzero(images.stamps[:, 2] != packed["ctime_ns"])
    step = -(-len(changed) // _MOST_CHANGED) or 1
    sample = np.union1d(one_per_class(images), changed[::step])
    return differing(images, sample, packed["digest"][sample])


def one_per_class(images: ImageFolder) -> NDArray[np.int64]:
    """Return the index of the first image of each class that has any."""
    return np.unique(images.targets, return_index=True)[1]


def differing(
    images: ImageFolder, indices: NDArray[np.int64], digests: NDArray[np.uint64]
) -> list[int]:
    """Return those of the indices (n,) whose images have other contents than the digests (n,)."""
    found = content_digests(images, indices)
    pairs = zip(indices.tolist(), found, digests.tolist(), strict=True)
    return [index for index, digest, expected in pairs if digest != expected]


def content_digests(images: ImageFolder, indices: NDArray[np.int64]) -> list[int | None]:
    """Return the content hash of each of these images; None if it cannot be read."""
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        return [*pool.map(_digest_or_none, map(images.path, indices.tolist()))]


def _digest_or_none(path: Path) -> int | None:
    with suppress(OSError):
        return content_digest(path)
    return None
