"""Record of the image files that passed the check, in the user's cache folder.

A million files are listed in a second or two, but checking them takes a minute. A file passed if
its size, modification time and change time are those of its last check. Folders are always listed
anew: their times may not show a change, such as after unpacking an archive with fixed times.
"""

import hashlib
import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from imgnet_mini.config.data_settings import DEFAULT_DECODING, Decoding
from imgnet_mini.data.folder import ImageFolder, find_rows
from imgnet_mini.errors import WriteError
from imgnet_mini.utils.atomic_file import atomic_write

_DIGEST_BYTES: Final = 32


def unverified_images(
    images: ImageFolder, decoding: Decoding = DEFAULT_DECODING
) -> NDArray[np.int64]:
    """Return the indices (n,) of the images that changed since their last check, or had none."""
    verified = np.full_like(images.stamps, -1)
    with suppress(OSError, ValueError):
        record = _read(_path(images, decoding))
        rows = find_rows(record["file"], images.files)
        verified[rows >= 0] = record["stamps"][rows[rows >= 0]]
    return np.flatnonzero((images.stamps != verified).any(axis=1) | (images.stamps[:, 0] < 0))


def mark_verified(images: ImageFolder, decoding: Decoding = DEFAULT_DECODING) -> None:
    """Record that all images passed a check that began after their stamps were taken."""
    record = np.empty(len(images), [("file", images.files.dtype), ("stamps", "<i8", 3)])
    record["file"], record["stamps"] = images.files, images.stamps
    content = io.BytesIO()
    np.save(content, record)
    # The record is optional: without it the next start is slower.
    with suppress(WriteError), atomic_write(_path(images, decoding)) as file:
        file.write(hashlib.sha256(content.getbuffer()).digest())
        file.write(content.getbuffer())


def _read(path: Path) -> NDArray[np.void]:
    """Return the `file` and `stamps` of each verified image.

    Raises:
        OSError, ValueError: there is no record, or it is damaged.
    """
    content = memoryview(path.read_bytes())
    digest, array = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(array).digest() != digest:
        raise ValueError(f"{path} is damaged")
    record: NDArray[np.void] = np.load(io.BytesIO(array))
    return record


def _path(images: ImageFolder, decoding: Decoding) -> Path:
    """Return the record of a split; the bit depth decides whether some files pass."""
    key = os.fsencode(images.root.resolve()) + f"\0{decoding.bit_depth}{images.part}".encode()
    name = hashlib.sha256(key).hexdigest()[:32]
    return user_cache_path("imgnet-mini", appauthor=False) / "verified" / name
