"""Images that are named one by one or by folder, and belong to no class."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from imgnet_mini.data.batches import prefetch_map, thread_pool
from imgnet_mini.data.folder import walk_images
from imgnet_mini.data.images import EXTENSIONS, ImageError
from imgnet_mini.errors import DataError


class InferenceBatch(NamedTuple):
    """What came of some files: the pixels, (3, S, S) uint8, of each that is not broken."""

    files: list[Path]
    images: list[Tensor]
    broken: list[ImageError]


def find_inference_images(places: Sequence[Path]) -> list[Path]:
    """The files that are named, whatever they are called, and the images below the folders.

    In the order given, and within a folder by path; hidden files are passed over.

    Raises:
        DataError: one of the places is not there, or is a folder without images.
    """
    return [file for place in places for file in _find(place)]


def load_batches(
    files: Sequence[Path], load: Callable[[Path], Tensor], *, batch_size: int, threads: int
) -> Iterator[InferenceBatch]:
    """Decode files in threads, in order, ahead of their use.

    load: from a file to (3, S, S) uint8, or an ImageError.
    """

    def attempt(file: Path) -> Tensor | ImageError:
        try:
            return load(file)
        except ImageError as error:
            return error

    with (
        thread_pool(threads) as pool,
        closing(prefetch_map(attempt, files, pool, ahead=batch_size)) as results,
    ):
        for first in range(0, len(files), batch_size):
            batch = InferenceBatch([], [], [])
            names = files[first : first + batch_size]
            for name, result in zip(names, islice(results, len(names)), strict=True):
                if isinstance(result, ImageError):
                    batch.broken.append(result)
                else:
                    batch.files.append(name)
                    batch.images.append(result)
            yield batch


def _find(place: Path) -> list[Path]:
    try:
        if place.is_file():
            return [place]
        if not place.is_dir():
            raise DataError(f"{place}: there is no such image or folder")
        found = sorted(walk_images(place, "", Counter(), {}))
    except OSError as error:
        raise DataError(f"cannot read {error.filename or place}: {error.strerror}") from error
    if not found:
        raise DataError(f"{place} holds no images ({', '.join(EXTENSIONS)})")
    return [place / name for name in found]
