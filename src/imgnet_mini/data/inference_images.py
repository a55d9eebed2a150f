"""Unlabeled images for prediction, named by file or by folder."""

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
    """Some files: images (3, S, S) uint8 of those that decode, and the errors of the others."""

    files: list[Path]
    images: list[Tensor]
    broken: list[ImageError]


def find_inference_images(paths: Sequence[Path]) -> list[Path]:
    """Return the given files, whatever their suffix, and the images in the given folders.

    In the given order, and by path within a folder; hidden files are ignored.

    Raises:
        DataError: a path does not exist, or is a folder without images.
    """
    return [file for path in paths for file in _find(path)]


def load_batches(
    files: Sequence[Path], load: Callable[[Path], Tensor], *, batch_size: int, threads: int
) -> Iterator[InferenceBatch]:
    """Yield batches of decoded files in order, prefetched by threads.

    load: from a file to (3, S, S) uint8; raises ImageError.
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


def _find(path: Path) -> list[Path]:
    try:
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise DataError(f"{path}: no such image or folder")
        found = sorted(walk_images(path, "", Counter(), {}))
    except OSError as error:
        raise DataError(f"cannot read {error.filename or path}: {error.strerror}") from error
    if not found:
        raise DataError(f"{path} contains no images ({', '.join(EXTENSIONS)})")
    return [path / name for name in found]
