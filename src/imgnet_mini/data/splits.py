"""The training and validation images of a run: found, checked, and read from files or a pack."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgnet_mini.config.data_settings import DataConfig, Decoding, HoldOut
from imgnet_mini.config.run_config import RunConfig, config_flags, fields_of
from imgnet_mini.config.run_settings import RunSection
from imgnet_mini.data.folder import ImageFolder, describe_ignored
from imgnet_mini.data.layout import has_train
from imgnet_mini.data.pack.format import (
    NoPackError,
    Pack,
    PackedSplit,
    StalePackError,
    open_pack,
)
from imgnet_mini.data.run_images import RunImages
from imgnet_mini.data.scan import check_images_decode, find_broken_images
from imgnet_mini.data.tree import describe_folders, find_splits, find_val
from imgnet_mini.errors import DataError

_SETTINGS_OF_PACKS = {
    *("img_size", "eval_size", "skip_bad", "allow_missing_val_classes"),
    *Decoding.model_fields,
    *HoldOut.model_fields,
}

Skipped = Mapping[str, str]
"""`train/<class>/<image>` and reason of each file that is left out."""


@dataclass(frozen=True)
class ImageSplits:
    """Both splits, and the pack they are read from, if any.

    notes: lines to show to the user.
    skipped: files that were left out at the start of the run.
    resumed: description of the images of a resumed run.
    """

    train: ImageFolder
    val: ImageFolder
    pack: Pack | None = None
    notes: tuple[str, ...] = ()
    skipped: Skipped = field(default_factory=dict)
    resumed: RunImages | None = None

    @property
    def left_out(self) -> Skipped:
        """All files that the run goes without now."""
        return {**self.skipped, **(self.resumed.dropped if self.resumed is not None else {})}

    @property
    def has_changes(self) -> bool:
        """True if the images differ from those at the start of the run."""
        return self.resumed is not None and bool(self.resumed.dropped or self.resumed.changed)

    @property
    def loader(self) -> str:
        """The setting `loader` that selects this source: `folder` or `pack`."""
        return "folder" if self.pack is None else "pack"

    def packed_val(self, eval_size: int) -> PackedSplit | None:
        """Return the packed validation images if they were packed for this center crop."""
        if self.pack is None or self.pack.manifest.eval_size != eval_size:
            return None
        return self.pack.val


def find_images_of_run(
    run: RunSection,
    data: DataConfig,
    *,
    training: bool = True,
    classes: Sequence[str] | None = None,
    held_out: NDArray[np.bytes_] | None = None,
) -> tuple[ImageFolder, ImageFolder]:
    """Find the training and validation images; without training, val/ is enough.

    classes: of a network to evaluate, for a data set without train/.
    held_out: files that its run has held out for validation, if known.

    Raises:
        DataError: see `find_splits`.
    """
    allow_missing = data.allow_missing_val_classes
    if training or has_train(run.data_root):
        return find_splits(
            run.data_root,
            allow_missing_val_classes=allow_missing,
            hold_out=data.hold_out,
            listed=held_out,
        )
    return find_val(run.data_root, classes, allow_missing_val_classes=allow_missing)


def open_splits(
    run: RunSection,
    data: DataConfig,
    *,
    training: bool = True,
    skipped: Skipped | None = None,
    resumed: RunImages | None = None,
    checked: bool = False,
    found: tuple[ImageFolder, ImageFolder] | None = None,
) -> ImageSplits:
    """Find the images, open the pack if one is to be used, and check the files that will be read.

    training: whether the training images will be read.
    skipped: leave out exactly these files, as another process does.
    resumed: the images of a run to resume.
    checked: another process of this machine has just done the checks.
    found: the images of both splits, if they are known from `find_splits`.

    Raises:
        DataError: the folders or the requested pack cannot be used, or files are broken.
    """
    train, val = found or find_images_of_run(run, data, training=training)
    if resumed is not None:
        skipped = resumed.skipped
    images = _choose_source(
        run, data, ImageSplits(train, val, resumed=resumed), skipped, checked=checked
    )
    if skipped and images.pack is None:
        images = _leave_out(images, skipped)
    if resumed is not None and images.pack is None:
        images = _restore(images, resumed, data.decoding, checked=checked)
    decoded = _decoded_splits(images, data.eval_size, training=training)
    if data.skip_bad and skipped is None:
        images = _leave_out(images, find_broken_images(*decoded, decoding=data.decoding))
    elif not checked:
        check_images_decode(*decoded, decoding=data.decoding)
    ignored = describe_ignored(train, val, hidden=False)
    notes = (
        *describe_folders(run.data_root, train, val),
        *images.notes,
        *([f"Note: ignored files: {ignored}"] if ignored else []),
        *([f"Note: {_describe_skipped(images)}"] if images.skipped else []),
    )
    return replace(images, notes=notes)


def _restore(
    images: ImageSplits, resumed: RunImages, decoding: Decoding, *, checked: bool
) -> ImageSplits:
    """Return the images of a resumed run, without those that are gone or broken."""
    if not checked:
        resumed = resumed.restore(images.train, images.val, decoding)
        if resumed.skip_bad:
            resumed = resumed.drop(find_broken_images(*resumed.splits(), decoding=decoding))
    train, val = resumed.splits()
    return replace(images, train=train, val=val, resumed=resumed, notes=resumed.notes)


def _describe_skipped(images: ImageSplits) -> str:
    """Describe how many files of each split were left out."""
    skipped = images.skipped
    names = dict.fromkeys(split.root.name for split in (images.train, images.val))
    counts = (
        f"{sum(path.startswith(f'{name}/') for path in skipped)} of {name}/" for name in names
    )
    return f"{len(skipped)} broken image file(s) left out, {' and '.join(counts)}"


def _choose_source(
    run: RunSection, data: DataConfig, files: ImageSplits, skipped: Skipped | None, *, checked: bool
) -> ImageSplits:
    if data.loader == "folder":
        return files
    try:
        return _open_pack(run, data, files, skipped, checked=checked)
    except DataError as error:
        if data.loader == "pack":
            error.add_note(f"  {prepare_command(run, data)}")
            raise
        if isinstance(error, NoPackError) and run.pack_dir is None:
            return files
        return replace(
            files,
            notes=(
                f"Note: {error}. Until then, the files are decoded. In full:\n"
                f"  {prepare_command(run, data)}",
            ),
        )


def prepare_command(run: RunSection, data: DataConfig) -> str:
    """Return the command that makes the pack for these settings."""
    others = fields_of("data").keys() - _SETTINGS_OF_PACKS
    config = RunConfig(run=run, data=data)
    flags = config_flags(config, "run", "data", leave_out=("name", "output_dir", *others))
    return f"imgnet-mini prepare{flags}"


def _open_pack(
    run: RunSection, data: DataConfig, files: ImageSplits, skipped: Skipped | None, *, checked: bool
) -> ImageSplits:
    as_it_is = files.resumed is not None and files.resumed.allow_changes
    try:
        pack = open_pack(run.pack, files.train, files.val, checked=checked or as_it_is)
    except StalePackError as error:
        if files.resumed is None:
            raise
        raise DataError(
            f"{error}, as it was. Or resume with the pack as it is, with --allow-image-changes"
        ) from error
    if data.decoding != pack.manifest.decoding:
        raise DataError(
            f"the pack in {run.pack} was made with{pack.manifest.decoding.flags}, and the images "
            f"are to be decoded with{data.decoding.flags}: rebuild it with imgnet-mini prepare"
            f"{data.decoding.flags}, or take it as it is with the flags of the pack"
        )
    if data.img_size > pack.manifest.img_size:
        raise DataError(
            f"the pack in {run.pack} is for --img-size {pack.manifest.img_size} or less; make it "
            f"for {data.img_size} with imgnet-mini prepare"
        )
    notes = (
        ()
        if pack.has_contents
        else (f"Note: {_explain_no_contents(run.pack)}\n  {prepare_command(run, data)}",)
    )
    images = replace(
        files,
        train=pack.train.images,
        val=pack.val.images,
        pack=pack,
        notes=notes,
        skipped=pack.skipped,
    )
    if skipped is None or as_it_is:
        return images
    kept = _leave_out(files, skipped)
    for packed, split in ((images.train, kept.train), (images.val, kept.val)):
        if not np.array_equal(packed.files, split.files):
            raise DataError(
                f"the pack in {run.pack} leaves out other files of {split.root} than this run; "
                "use --loader folder"
            )
    return replace(images, skipped=skipped)


def _explain_no_contents(pack_dir: Path) -> str:
    return (
        f"the pack in {pack_dir} was made by version 0.2.0, without hashes of the image files: a "
        "file that was exchanged for one of the same size and time is not noticed. To add them, "
        "run"
    )


def _leave_out(images: ImageSplits, skipped: Skipped) -> ImageSplits:
    if not skipped:
        return images
    return replace(
        images,
        train=images.train.without(skipped),
        val=images.val.without(skipped),
        skipped={**images.skipped, **skipped},
    )


def _decoded_splits(images: ImageSplits, eval_size: int, *, training: bool) -> list[ImageFolder]:
    """Return the splits whose files are decoded instead of read from a pack."""
    if training and images.pack is None:
        return [images.train, images.val]
    return [] if images.packed_val(eval_size) is not None else [images.val]
