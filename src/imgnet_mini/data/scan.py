"""Find image files that cannot be used: by header and end of file, or by decoding each of them."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Final, NamedTuple, Protocol

from imgnet_mini.config.fields import available_cpus
from imgnet_mini.data.batches import prefetch_map, thread_pool
from imgnet_mini.data.folder import ImageFolder, list_lines
from imgnet_mini.data.images import ImageError, decode, find_problem
from imgnet_mini.data.index import mark_verified, unverified_images
from imgnet_mini.errors import DataError

_MAX_LISTED: Final = 100
"""Broken files that a message names; `imgnet-mini check` names all."""

_HEADER_THREADS: Final = 8  # reading headers is bound by the disk, not by the CPU


class ScanResult(NamedTuple):
    """Problems of the images of a split, by index.

    broken: cannot be decoded; suspect: JPEG files that decode despite damage inside.
    """

    broken: dict[int, str]
    suspect: dict[int, str]


class ProgressBar(Protocol):
    """Shows the progress of a scan."""

    def show(self, done: int) -> None:
        """Show the number of finished images."""


NewProgressBar = Callable[[str, int], AbstractContextManager[ProgressBar]]
"""From a label and a total to a progress bar."""


@contextmanager
def no_progress_bar(_label: str, _total: int) -> Iterator[ProgressBar]:
    """Show nothing."""

    class Hidden:
        def show(self, done: int) -> None:
            pass

    yield Hidden()


def scan_images(split: ImageFolder, on_image: Callable[[int], None]) -> ScanResult:
    """Decode every image in full, on all cores.

    on_image: called with the number of finished images; an exception from it ends the scan.
    """

    def attempt(index: int) -> tuple[str | None, str | None]:
        try:
            _, complaint = decode(split.path(index))
        except ImageError as error:
            return error.reason, None
        return None, complaint

    result = ScanResult({}, {})
    with thread_pool(available_cpus()) as pool:
        problems = prefetch_map(attempt, range(len(split)), pool, ahead=2 * available_cpus())
        with closing(problems):
            for index, (reason, complaint) in enumerate(problems):
                if reason:
                    result.broken[index] = reason
                if complaint:
                    result.suspect[index] = complaint
                on_image(index + 1)
    return result


def find_broken_images(*splits: ImageFolder, progress_bar: NewProgressBar) -> dict[str, str]:
    """Decode every image in full; return `train/<class>/<image>` and reason of the broken ones."""
    broken: dict[str, str] = {}
    for split in splits:
        with progress_bar(f"check {split.root.name}", len(split)) as bar:
            result = scan_images(split, bar.show)
        broken |= {split.path_in_root(index): reason for index, reason in result.broken.items()}
    return broken


def check_images_decode(*splits: ImageFolder) -> None:
    """Check the header and the end of every image file (less than 0.1 ms each once cached).

    Files that passed an earlier check and have not changed since are not read again.

    Raises:
        DataError: names the files that are empty, truncated, too large or no images.
    """
    problems: list[str] = []
    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        for split in splits:
            paths = [split.path(index) for index in unverified_images(split)]
            found = pool.map(find_problem, paths, chunksize=256)
            broken = [
                f"{path}: {problem}" for path, problem in zip(paths, found, strict=True) if problem
            ]
            if paths and not broken:
                mark_verified(split)
            problems += broken
    if problems:
        raise DataError(
            f"{len(problems)} broken image file(s):\n{list_lines(problems, most=_MAX_LISTED)}\n"
            "Replace or remove them; imgnet-mini check lists all there are. Or leave them out with "
            "--skip-bad"
        )


def describe_skipped(skipped: Mapping[str, str]) -> str:
    """Describe how many files of each split were left out."""
    train = sum(path.startswith("train/") for path in skipped)
    return (
        f"{len(skipped)} broken image file(s) left out, {train} of train/ and "
        f"{len(skipped) - train} of val/"
    )
