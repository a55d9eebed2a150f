"""Decode and resize all images once, into a pack that training reads."""

import time
from pathlib import Path

from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.data.folder import ImageFolder, describe_ignored
from imgnet_mini.data.pack.format import PackManifest, array_files, open_pack
from imgnet_mini.data.pack.plan import PackPlan, make_plan
from imgnet_mini.data.pack.writer import write_pack
from imgnet_mini.data.tree import describe_folders, find_splits
from imgnet_mini.errors import DataError
from imgnet_mini.utils.console import format_bytes, list_lines, print_lines
from imgnet_mini.utils.progress import progress_bar
from imgnet_mini.utils.signals import StopRequest


def run(config: RunConfig) -> None:
    """Write the pack, unless it is up to date.

    Raises:
        ConfigError: the folder of the pack holds other files.
        DataError: the data folder cannot be used, or images cannot be decoded.
        WriteError: the pack cannot be written.
        StoppedError: a signal ended the command; the images packed so far are kept.
    """
    pack_dir = config.run.pack
    train, val = find_splits(
        config.run.data_root,
        allow_missing_val_classes=config.data.allow_missing_val_classes,
        hold_out=config.data.hold_out,
    )
    print_lines(*describe_folders(config.run.data_root, train, val))
    ignored = describe_ignored(train, val)
    if ignored:
        print_lines(f"Ignored files: {ignored}")
    plan = make_plan(
        train,
        val,
        pack_size=config.prepare.pack_size,
        img_size=config.data.img_size,
        eval_size=config.data.eval_size,
        decoding=config.data.decoding,
    )
    if _is_current(pack_dir, train, val, plan, skip=config.data.skip_bad):
        print_lines(f"The pack in {pack_dir} is up to date")
        return
    print_lines(
        f"Packing {len(train)} training images at {plan.pack_size} px and {len(val)} validation "
        f"images at {plan.eval_size} px into {pack_dir}, {format_bytes(plan.nbytes)}"
    )
    manifest = _write(plan, pack_dir, skip=config.data.skip_bad)
    skipped, suspect = manifest.skipped, manifest.suspect
    if skipped:
        print_lines(f"Left out {len(skipped)} broken image(s):", list_lines(skipped))
    if suspect:
        title = f"Packed {len(suspect)} damaged image(s) that can be decoded:"
        print_lines(title, list_lines(suspect))
    print_lines("train, resume, find-lr and evaluate now use the pack by default")


def _is_current(
    pack_dir: Path, train: ImageFolder, val: ImageFolder, plan: PackPlan, *, skip: bool
) -> bool:
    """Return whether the pack is the one that this plan would write."""
    try:
        pack = open_pack(pack_dir, train, val)
    except DataError:
        return False
    manifest = pack.manifest
    return manifest.id == plan.id and pack.has_contents and (skip or not manifest.skipped)


def _write(plan: PackPlan, pack_dir: Path, *, skip: bool) -> PackManifest:
    total = sum(len(images) for images in plan.splits.values())
    done = packed = 0
    began = time.perf_counter()

    def message(signal_name: str) -> str:
        return (
            f"stopped by {signal_name} after {done} of {total} images; run the same command to "
            "continue"
        )

    with StopRequest(message) as stop, progress_bar("prepare", total) as bar:

        def on_image(split: str, count: int) -> None:
            nonlocal done, packed
            done = count + (len(plan.splits["train"]) if split == "val" else 0)
            packed += 1
            bar.show(done)
            stop.check()

        manifest = write_pack(plan, pack_dir, skip=skip, on_image=on_image)
    seconds = time.perf_counter() - began
    images = sum(manifest.images.values())
    size = sum(path.stat().st_size for path in array_files(pack_dir))
    print_lines(
        f"Wrote {pack_dir}: {images} images, {format_bytes(size)}, in {seconds:.0f} s "
        f"({packed / seconds:.0f} images/s)"
    )
    return manifest
