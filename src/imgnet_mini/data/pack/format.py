"""The pack: images decoded and resized once, in `.npy` files that numpy maps into memory.

    manifest.json       format, settings, channel statistics, what was left out
    classes.npy         (C,) bytes
    <split>_images.npy  (N, S, S, 3) uint8; train: squashed to squares, val: cut for evaluation
    <split>_index.npy   (N,) of `index_dtype`: source file, class, original size, and its stamps
    <split>_skipped.npy the same for files that were left out

A folder is a pack once its manifest is there, which is written last.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from imgnet_mini.data.folder import ImageFolder, file_stamps
from imgnet_mini.errors import DataError
from imgnet_mini.utils.console import escape_line

FORMAT: Final = 1
"""Raised when an older version could not read, or would misread, what is written."""

SPLITS: Final = ("train", "val")
MANIFEST: Final = "manifest.json"
CLASSES: Final = "classes.npy"

Row = NDArray[np.void]
"""(N,) of `index_dtype`."""


def index_dtype(name_bytes: int) -> np.dtype[np.void]:
    """What is known of each packed file; `file` is its path below the split's folder."""
    return np.dtype(
        [
            ("file", f"S{max(1, name_bytes)}"),
            ("target", "<i4"),
            ("width", "<i4"),
            ("height", "<i4"),
            ("bytes", "<i8"),
            ("mtime_ns", "<i8"),
        ]
    )


class NoPackError(DataError):
    """There is no pack where one was looked for."""


class PackManifest(BaseModel):
    """How a pack was made."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int
    imgnet_mini: str
    pillow: str
    torch: str
    created: str
    pack_size: int
    """Side of the training images."""
    img_size: int
    """The `--img-size` it is for."""
    eval_size: int
    """Side of the validation images."""
    images: dict[str, int]
    """Split to the number of its images."""
    mean: list[float]
    """Of the training images' red, green and blue, from 0 to 255."""
    std: list[float]
    id: str
    """Hash of the settings and of the names, classes and sizes of the files."""
    skipped: list[str]
    """Place and reason of each file that was left out: `train/<class>/<image>: ...`."""
    suspect: list[str]
    """JPEG files with damage inside that could be decoded all the same, and are packed."""


@dataclass(frozen=True)
class PackedSplit:
    """N images: pixels (N, S, S, 3) uint8, mapped; original sizes (N, 2), width and height."""

    images: ImageFolder
    pixels: NDArray[np.uint8]
    sizes: NDArray[np.int32]


@dataclass(frozen=True)
class Pack:
    """A pack that fits its source; `skipped` is what it leaves out, place to reason."""

    manifest: PackManifest
    train: PackedSplit
    val: PackedSplit
    skipped: Mapping[str, str]


def split_file(pack_dir: Path, split: str, what: str) -> Path:
    """The name of a file of a split: `images`, `index` or `skipped`."""
    return pack_dir / f"{split}_{what}.npy"


def array_files(pack_dir: Path) -> list[Path]:
    """Every array of a pack."""
    parts = [
        split_file(pack_dir, split, what)
        for split in SPLITS
        for what in ("images", "index", "skipped")
    ]
    return [pack_dir / CLASSES, *parts]


def open_pack(
    pack_dir: Path, train: ImageFolder, val: ImageFolder, *, checked: bool = False
) -> Pack:
    """Open the pack of these images.

    checked: whether another process has just found it to be up to date.

    Raises:
        NoPackError: it is missing.
        DataError: it is damaged, of another format, or its source has changed since;
            says which, and how to mend it.
    """
    if not os.path.isfile(pack_dir / MANIFEST):  # noqa: PTH113 - Path's fails on too long a name
        raise NoPackError(f"there is no pack in {pack_dir}; make one with imgnet-mini prepare")
    manifest = _read_manifest(pack_dir)
    classes = _read_array(pack_dir / CLASSES, "S", 1).tolist()
    splits, places = {}, list[str]()
    for split, source in (("train", train), ("val", val)):
        index = _read_index(split_file(pack_dir, split, "index"))
        skipped = _read_index(split_file(pack_dir, split, "skipped"))
        change = None if checked else _change(np.concatenate([index, skipped]), classes, source)
        if change:
            raise DataError(
                f"the pack in {pack_dir} is out of date: {change}; make it anew with "
                "imgnet-mini prepare"
            )
        side = manifest.pack_size if split == "train" else manifest.eval_size
        splits[split] = _packed_split(pack_dir, split, source, index, side)
        places += [f"{split}/{os.fsdecode(file)}" for file in skipped["file"]]
    return Pack(manifest, **splits, skipped=_reasons(pack_dir, places, manifest.skipped))


def _read_manifest(pack_dir: Path) -> PackManifest:
    path = pack_dir / MANIFEST
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        number = content["format"]
        if number == FORMAT:
            if content.get("eval_size") is None:  # as earlier versions wrote it for img_size
                content["eval_size"] = content["img_size"]
            return PackManifest.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        raise _damaged(path, f"{problem['loc'][0]}: {problem['msg']}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    raise DataError(
        f"the pack in {pack_dir} has format {number!r}, and this version reads {FORMAT}; make it "
        "anew with imgnet-mini prepare"
    )


def _read_array(path: Path, kind: str, dimensions: int) -> NDArray[Any]:
    """A mapped array of one kind of values; writes to it would stay in memory."""
    try:
        array = open_memmap(path, mode="c")  # unlike numpy.load, it takes nothing but .npy files
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path, error) from error
    if array.dtype.kind != kind or array.ndim != dimensions:
        raise _damaged(path, "it holds something else than it should")
    return array.view(np.ndarray)  # a memmap's own methods are slow


def _read_index(path: Path) -> Row:
    index = _read_array(path, "V", 1)
    fields: Mapping[str, Any] = index.dtype.fields or {}
    if "file" not in fields or index.dtype != index_dtype(fields["file"][0].itemsize):
        raise _damaged(path, "its fields are others than they should be")
    return index


def _damaged(path: Path, reason: object) -> DataError:
    return DataError(
        f"the pack is damaged: {path}: {reason}; make it anew with imgnet-mini prepare"
    )


def _packed_split(
    pack_dir: Path, split: str, source: ImageFolder, index: Row, side: int
) -> PackedSplit:
    path = split_file(pack_dir, split, "images")
    pixels = _read_array(path, "u", 4)
    expected = (len(index), side, side, 3)
    if pixels.shape != expected or pixels.dtype != np.uint8:
        raise _damaged(path, f"{pixels.dtype} of shape {pixels.shape}, not uint8 of {expected}")
    images = ImageFolder(
        source.root,
        source.classes,
        np.ascontiguousarray(index["file"]),
        index["target"].astype(np.int64),
    )
    return PackedSplit(images, pixels, np.stack([index["width"], index["height"]], 1))


def _reasons(pack_dir: Path, places: list[str], problems: list[str]) -> dict[str, str]:
    """From places and lines that name them, in the same order, to place and reason."""
    if len(places) != len(problems):
        raise _damaged(pack_dir / MANIFEST, f"{len(problems)} skipped, not {len(places)}")
    return {
        place: problem.removeprefix(f"{escape_line(place)}: ")
        for place, problem in zip(places, problems, strict=True)
    }


def _change(packed: Row, classes: list[bytes], source: ImageFolder) -> str | None:
    """What differs between the files as they were packed and as they are; None: nothing."""
    packed = packed[np.argsort(packed["file"], kind="stable")]
    order = np.argsort(source.files, kind="stable")
    files, targets = source.files[order], source.targets[order]
    if not np.array_equal(packed["file"], files):
        gone = np.setdiff1d(packed["file"], files, assume_unique=True)
        new = np.setdiff1d(files, packed["file"], assume_unique=True)
        counts = [
            f"{len(names)} {word} (first: {os.fsdecode(names[0])})"
            for names, word in ((new, "added"), (gone, "removed"))
            if len(names)
        ]
        return f"files in {source.root}: {', '.join(counts)}"
    names = [name.encode("utf-8", "surrogateescape") for name in source.classes]
    if classes != names or not np.array_equal(packed["target"], targets):
        return f"the classes of {source.root} are others"
    stamps = file_stamps(source)[order]
    changed = np.flatnonzero(
        (packed["bytes"] != stamps[:, 0]) | (packed["mtime_ns"] != stamps[:, 1])
    )
    if len(changed):
        first = os.fsdecode(files[changed[0]])
        return f"{len(changed)} files in {source.root} have changed (first: {first})"
    return None
