"""The training and validation images of a run: found, checked, and read from files or a pack."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from imgnet_mini.config.data_settings import DataConfig, Decoding
from imgnet_mini.config.run_config import RunConfig, config_flags, fields_of
from imgnet_mini.config.run_settings import RunSection
from imgnet_mini.data.folder import ImageFolder, describe_ignored, find_images
from imgnet_mini.data.images import EXTENSIONS
from imgnet_mini.data.pack.format import NoPackError, Pack, PackedSplit, open_pack
from imgnet_mini.data.scan import check_images_decode, find_broken_images
from imgnet_mini.errors import DataError
from imgnet_mini.utils.console import join_names

_SETTINGS_OF_PACKS = {
    *("img_size", "eval_size", "skip_bad", "allow_missing_val_classes"),
    *Decoding.model_fields,
}

Skipped = Mapping[str, str]
"""`train/<class>/<image>` and reason of each file that is left out."""


@dataclass(frozen=True)
class ImageSplits:
    """Both splits, and the pack they are read from, if any.

    notes: lines to show to the user.
    """

    train: ImageFolder
    val: ImageFolder
    pack: Pack | None = None
    notes: tuple[str, ...] = ()
    skipped: Skipped = field(default_factory=dict)

    @property
    def loader(self) -> str:
        """The setting `loader` that selects this source: `folder` or `pack`."""
        return "folder" if self.pack is None else "pack"

    def packed_val(self, eval_size: int) -> PackedSplit | None:
        """Return the packed validation images if they were packed for this center crop."""
        if self.pack is None or self.pack.manifest.eval_size != eval_size:
            return None
        return self.pack.val


def open_splits(
    run: RunSection,
    data: DataConfig,
    *,
    training: bool = True,
    skipped: Skipped | None = None,
    checked: bool = False,
    found: tuple[ImageFolder, ImageFolder] | None = None,
) -> ImageSplits:
    """Find the images, open the pack if one is to be used, and check the files that will be read.

    training: whether the training images will be read.
    skipped: leave out exactly these files, as an earlier start of the run did.
    checked: another process of this machine has just done the checks.
    found: the images of both splits, if they are known from `find_splits`.

    Raises:
        DataError: the folders or the requested pack cannot be used, or files are broken.
    """
    train, val = found or find_splits(
        run.data_root, allow_missing_val_classes=data.allow_missing_val_classes
    )
    images = _choose_source(run, data, ImageSplits(train, val), skipped, checked=checked)
    if skipped and images.pack is None:
        images = _leave_out(images, skipped)
    decoded = _decoded_splits(images, data.eval_size, training=training)
    if data.skip_bad and skipped is None:
        images = _leave_out(images, find_broken_images(*decoded, decoding=data.decoding))
    elif not checked:
        check_images_decode(*decoded, decoding=data.decoding)
    ignored = describe_ignored(train, val, hidden=False)
    notes = (
        *images.notes,
        *([f"Note: ignored files: {ignored}"] if ignored else []),
        *([f"Note: {_describe_skipped(images.skipped)}"] if images.skipped else []),
    )
    return replace(images, notes=notes)


def _describe_skipped(skipped: Skipped) -> str:
    """Describe how many files of each split were left out."""
    train = sum(path.startswith("train/") for path in skipped)
    return (
        f"{len(skipped)} broken image file(s) left out, {train} of train/ and "
        f"{len(skipped) - train} of val/"
    )


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
    pack = open_pack(run.pack, files.train, files.val, checked=checked)
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
    images = ImageSplits(
        pack.train.images, pack.val.images, pack, notes=notes, skipped=pack.skipped
    )
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


def find_splits(
    data_root: Path, *, allow_missing_val_classes: bool = False
) -> tuple[ImageFolder, ImageFolder]:
    """Find the training and validation images; both get the classes of the training images.

    Raises:
        DataError: a split is missing or empty, the classes differ, or a class is empty.
    """
    train, val = read_splits(data_root)
    problems = find_tree_problems(train, val, allow_missing_val_classes=allow_missing_val_classes)
    if problems:
        raise DataError("\n".join(problems))
    if val.classes != train.classes:
        position = {name: target for target, name in enumerate(train.classes)}
        targets = np.array([position.get(name, -1) for name in val.classes])[val.targets]
        val = replace(val, classes=train.classes, targets=targets)
    return train, val


def read_splits(data_root: Path) -> tuple[ImageFolder, ImageFolder]:
    """Find the images of both splits without checking them.

    Raises:
        DataError: a folder is missing, or cannot be read.
    """
    if not data_root.is_dir():
        raise DataError(_explain_missing(data_root, "there is no such folder"))
    for split in ("train", "val"):
        if not (data_root / split).is_dir():
            raise DataError(_explain_missing(data_root, f"it has no folder {split}/"))
    return find_images(data_root / "train"), find_images(data_root / "val")


def find_tree_problems(
    train: ImageFolder, val: ImageFolder, *, allow_missing_val_classes: bool
) -> list[str]:
    """Describe the problems of the class folders of two splits."""
    problems = []
    for split in (train, val):
        counts = np.bincount(split.targets, minlength=len(split.classes))
        empty = [split.classes[target] for target in np.flatnonzero(counts == 0)]
        if not split.classes:
            expected = split.root / "<class>" / "<image>.JPEG"
            problems.append(f"{split.root} has no class folders; expected {expected}")
        elif empty and not (split is val and allow_missing_val_classes and len(val)):
            problems.append(
                f"no images in {join_names(empty)} of {split.root}; add images "
                f"({', '.join(EXTENSIONS)}) or remove these folders from train/ and val/"
            )
    if train.classes and val.classes:
        problems += _explain_different_classes(train, val, allow_missing_val_classes)
        if len(train.classes) == 1:
            (only,) = train.classes
            problems.append(
                f"{train.root} has one class, {only}: a classifier needs two or more; add another"
            )
    return problems


def case_collisions(classes: Sequence[str]) -> list[str]:
    """Return names that differ in case only, such as `Cat and cat`."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault(name.casefold(), []).append(name)
    return [" and ".join(group) for group in groups.values() if len(group) > 1]


def _explain_different_classes(
    train: ImageFolder, val: ImageFolder, allow_missing_val_classes: bool
) -> list[str]:
    only_train = sorted(set(train.classes) - set(val.classes))
    only_val = sorted(set(val.classes) - set(train.classes))
    if not only_val and (allow_missing_val_classes or not only_train):
        return []
    lines = [f"{train.root} and {val.root} do not hold the same classes:"]
    lines += [f"  only in train/: {join_names(only_train)}"] if only_train else []
    lines += [f"  only in val/: {join_names(only_val)}"] if only_val else []
    collisions = case_collisions([*only_train, *only_val])
    lines += [f"  differing in case only: {join_names(collisions)}"] if collisions else []
    lines += ["Add the missing folders, or remove the extra ones."]
    if only_train and not allow_missing_val_classes:
        lines += ["With --allow-missing-val-classes, val/ may lack classes of train/."]
    return ["\n".join(lines)]


def _explain_missing(data_root: Path, reason: str) -> str:
    return (
        f"no images at {data_root.absolute()}: {reason}.\n"
        "Expected one folder per class, the same in both:\n"
        f"  {data_root / 'train' / '<class>' / '<image>.JPEG'}\n"
        f"  {data_root / 'val' / '<class>' / '<image>.JPEG'}\n"
        "ImageNet-Mini is the Kaggle dataset ifigotin/imagenetmini-1000: unpack it like this, or\n"
        "name another folder with --data-root. To try everything without data:\n"
        "  imgnet-mini demo"
    )
