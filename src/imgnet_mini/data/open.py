"""Which images a command works on: the files themselves, or a pack of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from imgnet_mini.config.settings import DataConfig, RunSection
from imgnet_mini.data.folder import ImageFolder, count_ignored
from imgnet_mini.data.index import find_images_cached
from imgnet_mini.data.pack.format import NoPackError, Pack, PackedSplit, open_pack
from imgnet_mini.data.scan import (
    Watch,
    check_images_decode,
    describe_skipped,
    find_broken_images,
    unwatched,
)
from imgnet_mini.data.splits import find_splits
from imgnet_mini.errors import DataError


@dataclass(frozen=True)
class ImageSplits:
    """The two splits, and the pack they are read from, if any; `notes` say what to know of it.

    skipped: place (`train/<class>/<image>`) and reason of each file that is left out.
    """

    train: ImageFolder
    val: ImageFolder
    pack: Pack | None = None
    notes: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def loader(self) -> str:
        """What `--loader` would name it: `folder` or `pack`."""
        return "folder" if self.pack is None else "pack"

    def packed_val(self, eval_size: int) -> PackedSplit | None:
        """The validation images as packed, where they were packed for this centre crop."""
        fits = self.pack is not None and self.pack.manifest.eval_size == eval_size
        return self.pack.val if self.pack is not None and fits else None


def open_splits(
    run: RunSection,
    data: DataConfig,
    *,
    training: bool = True,
    skipped: Mapping[str, str] | None = None,
    checked: bool = False,
    watch: Watch = unwatched,
) -> ImageSplits:
    """Find the images, take the pack where it is wanted, and check the files that will be read.

    training: whether the training images will be read at all.
    skipped: leave out these and no others, as a run did before.
    checked: whether another process of this machine has just done all this.
    watch: shows how far the scan is that `skip_bad` asks for.

    Raises:
        DataError: the folders cannot be used, the pack that was asked for cannot, or files are
            broken.
    """
    train, val = find_splits(
        run.data_root,
        allow_missing_val_classes=data.allow_missing_val_classes,
        find=find_images_cached,
    )
    images = _choose(run, data, ImageSplits(train, val), skipped, checked=checked)
    if skipped and images.pack is None:
        images = _leave_out(images, skipped)
    read = _read_from_files(images, data.eval_size, training=training)
    if data.skip_bad and skipped is None:
        images = _leave_out(images, find_broken_images(*read, watch=watch))
    elif not checked:
        check_images_decode(*read)
    ignored = count_ignored(train, val, hidden=False)
    notes = (
        *images.notes,
        *([f"Note: files passed over: {ignored}"] if ignored else []),
        *([f"Note: {describe_skipped(images.skipped)}"] if images.skipped else []),
    )
    return replace(images, notes=notes)


def _choose(
    run: RunSection,
    data: DataConfig,
    files: ImageSplits,
    skipped: Mapping[str, str] | None,
    *,
    checked: bool,
) -> ImageSplits:
    """The pack, where it is wanted and fits; else the files."""
    if data.loader == "folder":
        return files
    try:
        return _packed(run, data, files, skipped, checked=checked)
    except NoPackError as error:
        if data.loader == "pack":
            raise
        return replace(files, notes=(f"Note: {error}",)) if run.pack_dir is not None else files
    except DataError as error:
        if data.loader == "pack":
            raise
        return replace(files, notes=(f"Note: {error}. Until then, the files are decoded",))


def _packed(
    run: RunSection,
    data: DataConfig,
    files: ImageSplits,
    skipped: Mapping[str, str] | None,
    *,
    checked: bool,
) -> ImageSplits:
    pack = open_pack(run.pack, files.train, files.val, checked=checked)
    if data.img_size > pack.manifest.img_size:
        raise DataError(
            f"the pack in {run.pack} is for --img-size {pack.manifest.img_size} or less; make it "
            f"anew with imgnet-mini prepare --img-size {data.img_size}"
        )
    images = ImageSplits(pack.train.images, pack.val.images, pack, skipped=pack.skipped)
    if skipped is None:
        return images
    kept = _leave_out(files, skipped)
    for packed, split in ((images.train, kept.train), (images.val, kept.val)):
        if not np.array_equal(packed.files, split.files):
            raise DataError(
                f"the pack in {run.pack} leaves out other files of {split.root} than this run; "
                "use --loader folder"
            )
    return replace(images, skipped=skipped)


def _leave_out(images: ImageSplits, skipped: Mapping[str, str]) -> ImageSplits:
    if not skipped:
        return images
    return replace(
        images,
        train=images.train.without(skipped),
        val=images.val.without(skipped),
        skipped={**images.skipped, **skipped},
    )


def _read_from_files(images: ImageSplits, eval_size: int, *, training: bool) -> list[ImageFolder]:
    """The splits whose files are decoded, and not taken from a pack."""
    if training and images.pack is None:
        return [images.train, images.val]
    return [] if images.packed_val(eval_size) is not None else [images.val]
