"""Decode and resize all images once, into a pack from which training reads."""

import time
from pathlib import Path

from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.data.folder import ImageFolder, count_ignored, listed
from imgnet_mini.data.pack.format import PackManifest, array_files, open_pack
from imgnet_mini.data.pack.plan import PackPlan, make_plan
from imgnet_mini.data.pack.writer import write_pack
from imgnet_mini.data.splits import find_splits
from imgnet_mini.errors import DataError, StoppedError
from imgnet_mini.utils.console import format_bytes, print_lines
from imgnet_mini.utils.progress import progress_bar
from imgnet_mini.utils.signals import StopRequest, StopRequestedError


def run(config: RunConfig) -> None:
    """Check every image and write the pack, unless one that fits is there.

    Raises:
        ConfigError: the pack's folder holds something else.
        DataError: the folders cannot be used, or files are broken.
        WriteError: the pack cannot be written.
        StoppedError: a signal ended the work; what is done is kept.
    """
    pack_dir = config.run.pack
    train, val = find_splits(
        config.run.data_root, allow_missing_val_classes=config.data.allow_missing_val_classes
    )
    ignored = count_ignored(train, val)
    if ignored:
        print_lines(f"Files passed over: {ignored}")
    plan = make_plan(
        train,
        val,
        pack_size=config.prepare.pack_size,
        img_size=config.data.img_size,
        eval_size=config.data.eval_size,
    )
    manifest = _current(pack_dir, train, val, plan, skip=config.data.skip_bad)
    if manifest is not None:
        print_lines(f"The pack in {pack_dir} is up to date")
        return
    print_lines(
        f"Packing {len(train)} training images at {plan.pack_size} px and {len(val)} validation "
        f"images at {plan.eval_size} px into {pack_dir}, {format_bytes(plan.nbytes)}"
    )
    manifest = _write(plan, pack_dir, skip=config.data.skip_bad)
    if manifest.skipped:
        print_lines(f"Left out, {len(manifest.skipped)} broken:", listed(manifest.skipped))
    if manifest.suspect:
        print_lines(
            f"Packed all the same, {len(manifest.suspect)} with damage inside:",
            listed(manifest.suspect),
        )
    print_lines("train, resume, find-lr and evaluate now read it by themselves")


def _current(
    pack_dir: Path, train: ImageFolder, val: ImageFolder, plan: PackPlan, *, skip: bool
) -> PackManifest | None:
    """The manifest of the pack that is there, if it is what this plan would make."""
    try:
        manifest = open_pack(pack_dir, train, val).manifest
    except DataError:
        return None
    return manifest if manifest.id == plan.id and (skip or not manifest.skipped) else None


def _write(plan: PackPlan, pack_dir: Path, *, skip: bool) -> PackManifest:
    total = len(plan.splits["train"]) + len(plan.splits["val"])
    done = newly = 0
    began = time.perf_counter()
    with StopRequest() as stop, progress_bar("prepare", total) as bar:

        def on_image(split: str, count: int) -> None:
            nonlocal done, newly
            done = count + (len(plan.splits["train"]) if split == "val" else 0)
            newly += 1
            bar.show(done)
            stop.check()

        try:
            manifest = write_pack(plan, pack_dir, skip=skip, on_image=on_image)
        except StopRequestedError as error:
            raise StoppedError(
                f"stopped by {error} after {done} of {total} images; the same command goes on",
                error.signal_number,
            ) from error
    seconds = time.perf_counter() - began
    images = sum(manifest.images.values())
    size = sum(path.stat().st_size for path in array_files(pack_dir))
    print_lines(
        f"Wrote {pack_dir}: {images} images, {format_bytes(size)}, in {seconds:.0f} s "
        f"({newly / seconds:.0f} images/s)"
    )
    return manifest
