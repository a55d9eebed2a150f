"""Decode every image; list all problems of the images and their folders."""

from collections.abc import Mapping

from imgnet_mini.config.data_settings import Decoding
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.data.folder import ImageFolder, describe_ignored
from imgnet_mini.data.scan import ScanResult, scan_images
from imgnet_mini.data.tree import (
    case_collisions,
    describe_folders,
    find_tree_problems,
    read_splits,
)
from imgnet_mini.errors import DataError
from imgnet_mini.utils.console import list_lines, print_lines
from imgnet_mini.utils.progress import progress_bar
from imgnet_mini.utils.signals import StopRequest


def run(config: RunConfig) -> None:
    """Check both splits and print all problems.

    Raises:
        DataError: a problem would stop a training.
        StoppedError: a signal ended the check.
    """
    root = config.run.data_root
    splits = read_splits(root, config.data.hold_out)
    print_lines(*describe_folders(root, *splits))
    problems = find_tree_problems(
        *splits, allow_missing_val_classes=config.data.allow_missing_val_classes
    )
    print_lines(*problems)
    findings = _scan(splits, config.data.decoding)
    broken = _to_lines(splits, [found.broken for found in findings])
    suspect = _to_lines(splits, [found.suspect for found in findings])
    if broken:
        print_lines(
            f"{len(broken)} image(s) that cannot be decoded:", list_lines(broken, most=len(broken))
        )
    if suspect:
        print_lines(
            f"{len(suspect)} damaged image(s) that can be decoded:",
            list_lines(suspect, most=len(suspect)),
        )
    turned = sum(len(found.turned) for found in findings)
    if turned:
        use = "they are turned upright" if config.data.exif_orientation else "used as stored"
        print_lines(f"{turned} image(s) with an EXIF orientation: {use} (--exif-orientation)")
    _print_notes(*splits)
    total = sum(map(len, splits))
    clean = "" if problems or broken or suspect else ": no problems found"
    print_lines(f"Decoded {total - len(broken)} of {total} images in {root}{clean}")
    if problems or broken:
        raise DataError(_summarize(len(problems), len(broken)))


def _scan(splits: tuple[ImageFolder, ...], decoding: Decoding) -> list[ScanResult]:
    total, done = sum(map(len, splits)), 0

    def message(signal_name: str) -> str:
        return f"stopped by {signal_name} after {done} of {total} images"

    with StopRequest(message) as stop, progress_bar("check", total) as bar:

        def on_image(_count: int) -> None:
            nonlocal done
            done += 1
            bar.show(done)
            stop.check()

        return [scan_images(split, on_image, decoding) for split in splits]


def _to_lines(splits: tuple[ImageFolder, ...], found: list[Mapping[int, str]]) -> list[str]:
    return [
        f"{split.path(index)}: {reason}"
        for split, reasons in zip(splits, found, strict=True)
        for index, reason in reasons.items()
    ]


def _print_notes(train: ImageFolder, val: ImageFolder) -> None:
    twins = case_collisions(train.classes)
    if twins:
        print_lines(
            "Class names that differ only in case, which other systems confuse:", list_lines(twins)
        )
    ignored = describe_ignored(train, val)
    if ignored:
        print_lines(f"Ignored files: {ignored}")


def _summarize(problems: int, broken: int) -> str:
    found = [f"{problems} problem(s) with the folders"] if problems else []
    found += [f"{broken} image(s) that cannot be decoded"] if broken else []
    cure = ": replace or remove these images, or leave them out with --skip-bad" if broken else ""
    return f"{' and '.join(found)}, listed above{cure}"
