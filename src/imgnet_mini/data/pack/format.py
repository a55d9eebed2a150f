"""Format of a pack: decoded and resized images in `.npy` files, to be memory-mapped.

    manifest.json       format, settings, channel statistics, skipped files
    classes.npy         (C,) bytes
    <split>_images.npy  (N, S, S, 3) uint8; train: whole images, val: as evaluated
    <split>_index.npy   (N,) of `index_dtype`: source file, class, original size, and file stamps
    <split>_source.npy  (N,) of `SOURCE_DTYPE`: content hashes; version 0.2.0 did not write it
    <split>_skipped.npy the index of files that were left out

The manifest is written last: a folder without it is not a pack.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from imgnet_mini.config.data_settings import EARLIER_DECODING, Decoding
from imgnet_mini.data.folder import ImageFolder
from imgnet_mini.data.pack.contents import SOURCE_DTYPE, find_changed_contents
from imgnet_mini.errors import DataError
from imgnet_mini.utils.console import escape_line

FORMAT: Final = 1
"""Increased when an earlier version could not read, or would misread, the files."""

SPLITS: Final = ("train", "val")
MANIFEST: Final = "manifest.json"
CLASSES: Final = "classes.npy"
PROGRESS: Final = "progress.json"
"""Only in a partial pack."""
PROBLEMS: Final = "problems.txt"
"""Only in a partial pack: the files that cannot be decoded."""

Index = NDArray[np.void]
"""(N,) of `index_dtype`."""


def index_dtype(name_bytes: int) -> np.dtype[np.void]:
    """Return the dtype of an index row; `file` is the path relative to the folder of the split."""
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
    """The folder is not a pack."""


class StalePackError(DataError):
    """The source files of a pack have changed."""


class PackManifest(BaseModel):
    """Contents of `manifest.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int
    imgnet_mini: str
    pillow: str
    torch: str
    created: str
    pack_size: int
    """Side of the training images in pixels."""
    img_size: int
    """`--img-size` that the pack was made for."""
    eval_size: int
    """Side of the validation images in pixels."""
    images: dict[str, int]
    """Number of images by split."""
    mean: list[float]
    """Mean of red, green and blue over the training images, from 0 to 255."""
    std: list[float]
    id: str
    """`PackPlan.id`: hash of the settings and of the names, classes and sizes of the files."""
    skipped: list[str]
    """`train/<class>/<image>: <reason>` of each file that was left out."""
    decoding: Decoding = EARLIER_DECODING
    """Decoding of the files; earlier versions did not write it."""
    suspect: list[str]
    """Place and reason of each damaged JPEG file that could be decoded and was packed."""


@dataclass(frozen=True)
class PackedSplit:
    """N packed images.

    pixels: (N, S, S, 3) uint8, memory-mapped.
    sizes: (N, 2) int32, original width and height.
    """

    images: ImageFolder
    pixels: NDArray[np.uint8]
    sizes: NDArray[np.int32]


@dataclass(frozen=True)
class Pack:
    """An open pack.

    skipped: maps `train/<class>/<image>` to the reason it was left out.
    has_contents: whether the contents of source files can be compared.
    """

    manifest: PackManifest
    train: PackedSplit
    val: PackedSplit
    skipped: Mapping[str, str]
    has_contents: bool


def split_file(pack_dir: Path, split: str, content: str) -> Path:
    """Return the path of an array of a split: `images`, `index`, `source` or `skipped`."""
    return pack_dir / f"{split}_{content}.npy"


def array_files(pack_dir: Path) -> list[Path]:
    """Return the paths of all arrays of a pack."""
    arrays = product(SPLITS, ("images", "index", "source", "skipped"))
    return [pack_dir / CLASSES, *(split_file(pack_dir, *array) for array in arrays)]


def open_pack(
    pack_dir: Path, train: ImageFolder, val: ImageFolder, *, checked: bool = False
) -> Pack:
    """Open the pack of these images.

    checked: skip the comparison with the source files; another process has just made it.

    Raises:
        NoPackError: the folder is not a pack.
        StalePackError: its source files have changed.
        DataError: the pack is damaged, or of another format.
    """
    if not os.path.isfile(pack_dir / MANIFEST):  # noqa: PTH113 - Path's fails on too long a name
        raise NoPackError(f"there is no pack in {pack_dir}; make one with imgnet-mini prepare")
    manifest = _read_manifest(pack_dir)
    classes = _read_array(pack_dir / CLASSES, "S", 1).tolist()
    splits, places = {}, list[str]()
    for split, source in (("train", train), ("val", val)):
        index = _read_index(split_file(pack_dir, split, "index"))
        skipped = _read_index(split_file(pack_dir, split, "skipped"))
        if not checked:
            change = _find_change(np.concatenate([index, skipped]), classes, source)
            change = change or _find_content_change(pack_dir, split, index, source)
            if change:
                raise StalePackError(
                    f"the pack in {pack_dir} is out of date: {change}; rebuild it with "
                    "imgnet-mini prepare"
                )
        side = manifest.pack_size if split == "train" else manifest.eval_size
        splits[split] = _packed_split(pack_dir, split, source, index, side)
        places += [f"{source.root.name}/{os.fsdecode(file)}" for file in skipped["file"]]
    skipped_reasons = _reasons(pack_dir, places, manifest.skipped)
    has_contents = all(split_file(pack_dir, split, "source").exists() for split in SPLITS)
    return Pack(manifest, **splits, skipped=skipped_reasons, has_contents=has_contents)


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
        f"the pack in {pack_dir} has format {number!r}, and this version reads {FORMAT}; rebuild "
        "it with imgnet-mini prepare"
    )


def _read_array(path: Path, kind: str, dimensions: int) -> NDArray[Any]:
    """Memory-map an array, copy-on-write."""
    try:
        array = open_memmap(path, mode="c")  # unlike numpy.load, it opens .npy files only
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path, error) from error
    if array.dtype.kind != kind or array.ndim != dimensions:
        raise _damaged(path, f"unexpected array of {array.dtype} with shape {array.shape}")
    return array.view(np.ndarray)  # methods of numpy.memmap are slow


def _read_index(path: Path) -> Index:
    index = _read_array(path, "V", 1)
    fields: Mapping[str, Any] = index.dtype.fields or {}
    if "file" not in fields or index.dtype != index_dtype(fields["file"][0].itemsize):
        raise _damaged(path, f"unexpected fields {', '.join(fields)}")
    return index


def _damaged(path: Path, reason: object) -> DataError:
    return DataError(f"the pack is damaged: {path}: {reason}; rebuild it with imgnet-mini prepare")


def _packed_split(
    pack_dir: Path, split: str, source: ImageFolder, index: Index, side: int
) -> PackedSplit:
    path = split_file(pack_dir, split, "images")
    pixels = _read_array(path, "u", 4)
    expected = (len(index), side, side, 3)
    if pixels.shape != expected or pixels.dtype != np.uint8:
        raise _damaged(
            path, f"{pixels.dtype} of shape {pixels.shape}, expected uint8 of {expected}"
        )
    images = replace(
        source,
        files=np.ascontiguousarray(index["file"]),
        targets=index["target"].astype(np.int64),
    )
    return PackedSplit(images, pixels, np.stack([index["width"], index["height"]], 1))


def _reasons(pack_dir: Path, places: list[str], problems: list[str]) -> dict[str, str]:
    """Map places to the reasons in the manifest, which lists them in the same order."""
    if len(places) != len(problems):
        raise _damaged(
            pack_dir / MANIFEST, f"lists {len(problems)} skipped files, expected {len(places)}"
        )
    return {
        place: problem.removeprefix(f"{escape_line(place)}: ")
        for place, problem in zip(places, problems, strict=True)
    }


def _find_change(packed: Index, classes: list[bytes], source: ImageFolder) -> str | None:
    """Describe the difference between the packed files and the present ones; None if equal."""
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
        return f"the classes of {source.root} have changed"
    stamps = source.stamps[order]
    changed = np.flatnonzero(
        (packed["bytes"] != stamps[:, 0]) | (packed["mtime_ns"] != stamps[:, 1])
    )
    if len(changed):
        first = os.fsdecode(files[changed[0]])
        return f"{len(changed)} files in {source.root} have changed (first: {first})"
    return None


def _find_content_change(
    pack_dir: Path, split: str, index: Index, source: ImageFolder
) -> str | None:
    """Describe the difference of contents between files of equal names, sizes and times."""
    path = split_file(pack_dir, split, "source")
    if not path.exists():
        return None
    contents = _read_array(path, "V", 1)
    if contents.dtype != SOURCE_DTYPE or len(contents) != len(index):
        raise _damaged(path, f"unexpected array of {contents.dtype} with shape {contents.shape}")
    packed = source.select(np.isin(source.files, index["file"]))  # in the order of the index
    changed = find_changed_contents(packed, contents)
    if not changed:
        return None
    first = packed.relative_path(changed[0])
    return (
        f"files in {source.root} have other contents, with the same names, sizes and times "
        f"(first: {first})"
    )
