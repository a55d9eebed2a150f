"""Find the image files that cannot be used: at a glance, or by decoding each of them."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Final, NamedTuple, Protocol

from imgnet_mini.config.fields import available_cpus
from imgnet_mini.data.batches import prefetch_map, thread_pool
from imgnet_mini.data.folder import ImageFolder, listed
from imgnet_mini.data.images import ImageError, decode, find_problem
from imgnet_mini.data.index import not_known_as_sound, remember_as_sound
from imgnet_mini.errors import DataError

_LISTED: Final = 100
"""How many broken files a message names; `imgnet-mini check` names all."""

_GLANCE_THREADS: Final = 8  # a glance waits for the disk, not for the processor


class Findings(NamedTuple):
    """What is wrong with images of a split, by their position.

    broken: cannot be decoded; suspect: JPEG files that are decoded although damaged inside.
    """

    broken: dict[int, str]
    suspect: dict[int, str]


class Shown(Protocol):
    """What shows how far a scan is."""

    def show(self, done: int) -> None:
        """So many images are done."""


Watch = Callable[[str, int], AbstractContextManager[Shown]]
"""From a label and a number of images to what shows the progress, such as a bar."""


@contextmanager
def unwatched(_label: str, _total: int) -> Iterator[Shown]:
    """Show nothing."""

    class Nothing:
        def show(self, done: int) -> None:
            pass

    yield Nothing()


def scan_images(split: ImageFolder, on_image: Callable[[int], None]) -> Findings:
    """Decode every image in full, on all cores.

    on_image: called with how many are done; what it raises ends the scan.
    """

    def attempt(index: int) -> tuple[str | None, str | None]:
        try:
            _, complaint = decode(split.path(index))
        except ImageError as error:
            return error.reason, None
        return None, complaint

    findings = Findings({}, {})
    with thread_pool(available_cpus()) as pool:
        results = prefetch_map(attempt, range(len(split)), pool, ahead=2 * available_cpus())
        with closing(results):
            for index, (reason, complaint) in enumerate(results):
                if reason:
                    findings.broken[index] = reason
                if complaint:
                    findings.suspect[index] = complaint
                on_image(index + 1)
    return findings


def find_broken_images(*splits: ImageFolder, watch: Watch) -> dict[str, str]:
    """Decode every image in full: the place of each that cannot be decoded, and why."""
    broken: dict[str, str] = {}
    for split in splits:
        with watch(f"check {split.root.name}", len(split)) as bar:
            findings = scan_images(split, bar.show)
        broken |= {split.place(index): reason for index, reason in findings.broken.items()}
    return broken


def check_images_decode(*splits: ImageFolder) -> None:
    """Check the header and the end of every image file (less than 0.1 ms each once cached).

    Those that were whole at an earlier look, and have not changed since, are not looked at again.

    Raises:
        DataError: names the files that are empty, cut short, too large or no images.
    """
    problems: list[str] = []
    with ThreadPoolExecutor(_GLANCE_THREADS) as pool:
        for split in splits:
            paths = [split.path(index) for index in not_known_as_sound(split)]
            found = pool.map(find_problem, paths, chunksize=256)
            broken = [
                f"{path}: {problem}" for path, problem in zip(paths, found, strict=True) if problem
            ]
            if paths and not broken:
                remember_as_sound(split)
            problems += broken
    if problems:
        raise DataError(
            f"{len(problems)} broken image file(s):\n{listed(problems, most=_LISTED)}\n"
            "Replace or remove them; imgnet-mini check lists all there are. Or leave them out with "
            "--skip-bad"
        )


def describe_skipped(skipped: Mapping[str, str]) -> str:
    """How many files of each split were left out."""
    train = sum(place.startswith("train/") for place in skipped)
    return (
        f"{len(skipped)} broken image file(s) left out, {train} of train/ and "
        f"{len(skipped) - train} of val/"
    )
