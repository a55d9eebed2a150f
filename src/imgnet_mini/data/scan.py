"""Find image files that cannot be used: by header and end of file, or by decoding each of them."""

import shlex
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from imgnet_mini.config.data_settings import DEFAULT_DECODING, Decoding
from imgnet_mini.data.batches import decode_all
from imgnet_mini.data.folder import ImageFolder
from imgnet_mini.data.images import ImageError, decode, file_orientation, find_problem
from imgnet_mini.data.pixels import UPRIGHT
from imgnet_mini.data.verified import mark_verified, unverified_images
from imgnet_mini.errors import DataError
from imgnet_mini.utils.console import list_lines
from imgnet_mini.utils.progress import progress_bar

_MAX_LISTED: Final = 100
"""Broken files that a message names; `imgnet-mini check` names all."""

_HEADER_THREADS: Final = 8  # reading headers is bound by the disk, not by the CPU


class ScanResult(NamedTuple):
    """Problems of the images of a split, by index.

    broken: cannot be decoded; suspect: JPEG files that decode despite damage inside.
    turned: indices of images whose EXIF orientation is not upright.
    """

    broken: dict[int, str]
    suspect: dict[int, str]
    turned: list[int]


def scan_images(
    split: ImageFolder,
    on_image: Callable[[int], None],
    decoding: Decoding = DEFAULT_DECODING,
) -> ScanResult:
    """Decode every image in full, on all cores.

    on_image: called with the number of finished images; an exception from it ends the scan.
    """

    def scan(path: Path) -> tuple[str | None, bool]:
        return decode(path, decoding)[1], file_orientation(path) != UPRIGHT

    result = ScanResult({}, {}, [])
    paths = map(split.path, range(len(split)))
    with closing(decode_all(scan, paths)) as found:
        for index, image in enumerate(found):
            if isinstance(image, ImageError):
                result.broken[index] = image.reason
            else:
                damage, is_turned = image
                result.suspect.update({index: damage} if damage else {})
                result.turned.extend([index] if is_turned else [])
            on_image(index + 1)
    return result


def find_broken_images(
    *splits: ImageFolder, decoding: Decoding = DEFAULT_DECODING
) -> dict[str, str]:
    """Decode every image in full; return `train/<class>/<image>` and reason of the broken ones."""
    broken: dict[str, str] = {}
    for split in splits:
        with progress_bar(f"check {split.root.name}", len(split)) as bar:
            result = scan_images(split, bar.show, decoding)
        broken |= {split.path_in_root(index): reason for index, reason in result.broken.items()}
    return broken


def check_images_decode(*splits: ImageFolder, decoding: Decoding = DEFAULT_DECODING) -> None:
    """Check the header and the end of every image file (less than 0.1 ms each once cached).

    Files that passed an earlier check and have not changed since are not read again.

    Raises:
        DataError: names the files that are empty, truncated, too large or no images.
    """
    problems: list[str] = []
    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        for split in splits:
            paths = [split.path(index) for index in unverified_images(split, decoding)]
            found = pool.map(partial(find_problem, decoding=decoding), paths, chunksize=256)
            broken = [
                f"{path}: {problem}" for path, problem in zip(paths, found, strict=True) if problem
            ]
            if paths and not broken:
                mark_verified(split, decoding)
            problems += broken
    if problems:
        raise DataError(
            f"{len(problems)} broken image file(s):\n{list_lines(problems, most=_MAX_LISTED)}\n"
            "Replace or remove them, or leave them out with --skip-bad. To list all there are:\n"
            f"  imgnet-mini check --data-root {shlex.quote(str(splits[0].data_root))}"
            f"{splits[0].hold_out.flags}"
        )
