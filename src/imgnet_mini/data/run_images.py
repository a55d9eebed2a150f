"""The images that a run was started with, to resume it after files were removed or repaired.

`images.npy` of a run lists them: names, sizes, and the content hash of one image per class. The
digest in the checkpoint tells whether it is the list of that run.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from imgnet_mini.config.data_settings import Decoding
from imgnet_mini.data.folder import ImageFolder, find_rows, fingerprint, fingerprint_with_sizes
from imgnet_mini.data.holdout import split_as_listed
from imgnet_mini.data.images import ImageError, decode
from imgnet_mini.data.pack.contents import content_digests, differing, one_per_class
from imgnet_mini.errors import DataError
from imgnet_mini.utils.atomic_file import atomic_write
from imgnet_mini.utils.console import join_names

_ENDINGS_OF_0_2_0: Final = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"),
)
_REMOVED: Final = "removed after the start of the run"
_EFFECT: Final = (
    "In training, the next image of its class takes the place of a missing one, so the order of "
    "the others stays; validation goes without it"
)


class ListedSplit(NamedTuple):
    """N images as they were at the start of a run.

    sizes: (N,) in bytes.
    digests: (N,) uint64, content hashes; 0 where unknown.
    """

    images: ImageFolder
    sizes: NDArray[np.int64]
    digests: NDArray[np.uint64]


class _Difference(NamedTuple):
    """Files that differ from those of a list, by `train/<class>/<image>`; changed: new sizes."""

    removed: list[str]
    changed: dict[str, int]
    added: list[str]


@dataclass(frozen=True)
class RunImages:
    """The images of a run to resume.

    digest: `fingerprint` of the images at the start of the run.
    skipped: files that were left out from the start, and the reasons.
    dropped: files that were removed or broken later, and the reasons. In training, the next image
        of its class takes the place of each; validation goes without them.
    changed: new sizes in bytes of files that were changed later.
    listed: train and val at the start of the run; None: not known.
    allow_changes: accept further changes. skip_bad: drop further files that are gone or broken.
    notes: lines on changes since the last start, to show to the user.
    """

    digest: str
    skipped: Mapping[str, str]
    dropped: Mapping[str, str] = field(default_factory=dict)
    changed: Mapping[str, int] = field(default_factory=dict)
    listed: tuple[ListedSplit, ListedSplit] | None = None
    allow_changes: bool = False
    skip_bad: bool = False
    notes: tuple[str, ...] = ()

    def restore(self, train: ImageFolder, val: ImageFolder, decoding: Decoding) -> "RunImages":
        """Return the images of the run, with the changes of the files that are there now.

        Raises:
            DataError: there are changes that are not accepted.
        """
        if self.listed is None:
            return self._as_they_are(train, val)
        if train.part:  # images that were added or removed may have changed the choice
            train, val = split_as_listed(train, val, self.listed[1].images.files)
        listed_train, listed_val = (
            listed._replace(
                images=replace(
                    now,
                    classes=listed.images.classes,
                    files=listed.images.files,
                    targets=listed.images.targets,
                )
            )
            for listed, now in zip(self.listed, (train, val), strict=True)
        )
        found = [self._compare(listed_train, train), self._compare(listed_val, val)]
        dropped = {path: _REMOVED for difference in found for path in difference.removed}
        changed = {p: size for difference in found for p, size in difference.changed.items()}
        added = [path for difference in found for path in difference.added]
        if self.skip_bad:
            broken = _find_broken(train.root.parent, changed, decoding)
            dropped |= broken
            changed = {path: size for path, size in changed.items() if path not in broken}
        if not self.allow_changes and (changed or (dropped and not self.skip_bad)):
            raise DataError(_explain(train.root.parent, dropped, changed))
        return replace(
            self,
            listed=(listed_train, listed_val),
            dropped={**self.dropped, **dropped},
            changed={**self.changed, **changed},
            notes=_describe(dropped, changed, added),
        )

    def drop(self, broken: Mapping[str, str]) -> "RunImages":
        """Return the images of the run without further files."""
        if not broken:
            return self
        notes = (*self.notes, *_describe(broken, {}, []))
        return replace(self, dropped={**self.dropped, **broken}, notes=notes)

    def splits(self) -> tuple[ImageFolder, ImageFolder]:
        """Return the images to train and to validate on, after `restore`.

        Raises:
            DataError: a class has lost all of its images.
        """
        if self.listed is None:
            raise ValueError("the images are not restored")
        train, val = self.listed
        return train.images.with_stand_ins(self.dropped), val.images.without(self.dropped)

    def has_new(self, earlier: "RunImages") -> bool:
        """Return whether files were dropped, or changed, that `earlier` does not know of."""
        return (self.dropped, self.changed) != (earlier.dropped, earlier.changed)

    def _as_they_are(self, train: ImageFolder, val: ImageFolder) -> "RunImages":
        """Return the images of a run without a list, such as of 0.2.0, if they are unchanged."""
        for name_endings in ((), _ENDINGS_OF_0_2_0):
            listed = [_list_split(split, name_endings) for split in (train, val)]
            splits = [split.images for split in listed]
            if fingerprint(*splits) == self.digest:
                more = len(train) + len(val) - sum(map(len, splits))
                note = f"Note: {more} image(s) with endings that 0.2.0 ignored are left out"
                return replace(self, listed=(listed[0], listed[1]), notes=(note,) if more else ())
        raise DataError(
            f"the images in {train.root.parent} are not those the run was started on: some "
            "were added, removed, renamed or changed. Restore them, or start a new run under "
            "another --name"
        )

    def _compare(self, listed: ListedSplit, now: ImageFolder) -> _Difference:
        """Return the differences that are not known yet."""
        images = listed.images
        rows = find_rows(now.files, images.files)
        sizes = np.where(rows >= 0, now.stamps[rows, 0], -1)
        changed = (sizes >= 0) & (sizes != listed.sizes)
        sample = np.flatnonzero((sizes >= 0) & ~changed & (listed.digests != 0))
        changed[differing(images, sample, listed.digests[sample])] = True
        new_sizes = {images.path_in_root(i): int(sizes[i]) for i in _where(changed)}
        gone = [images.path_in_root(i) for i in _where(sizes < 0)]
        added = _where(find_rows(images.files, now.files) < 0)
        return _Difference(
            [path for path in gone if path not in self.dropped],
            {
                path: size
                for path, size in new_sizes.items()
                if path not in self.dropped and self.changed.get(path) != size
            },
            [now.path_in_root(i) for i in added],
        )


def _list_split(images: ImageFolder, endings: tuple[str, ...]) -> ListedSplit:
    """List the images as they are; endings: of those to list, empty for all."""
    if endings:
        names = map(os.fsdecode, images.files.tolist())
        images = images.select(np.array([name.lower().endswith(endings) for name in names], bool))
    return ListedSplit(images, images.stamps[:, 0], np.zeros(len(images), np.uint64))


def _where(mask: NDArray[np.bool_]) -> list[int]:
    indices: list[int] = np.flatnonzero(mask).tolist()
    return indices


def _find_broken(data_root: Path, paths: Iterable[str], decoding: Decoding) -> dict[str, str]:
    """Return those files that cannot be decoded, and the reasons."""
    broken = {}
    for path in paths:
        try:
            decode(data_root / path, decoding)
        except ImageError as error:
            broken[path] = error.reason
    return broken


def _explain(data_root: Path, dropped: Mapping[str, str], changed: Mapping[str, int]) -> str:
    return (
        f"the images in {data_root} are not those the run was started on:\n"
        f"{_list_changes(dropped, changed)}\n"
        f"Restore them, or resume with --allow-image-changes. {_EFFECT}"
    )


def _list_changes(dropped: Mapping[str, str], changed: Mapping[str, int]) -> str:
    kinds = {
        "removed": [path for path, reason in dropped.items() if reason == _REMOVED],
        "broken": [path for path, reason in dropped.items() if reason != _REMOVED],
        "changed": [f"{path} ({size} bytes now)" for path, size in changed.items()],
    }
    lines = [
        f"  {len(names)} {kind}: {join_names(names)}" for kind, names in kinds.items() if names
    ]
    return "\n".join(lines)


def _describe(
    dropped: Mapping[str, str], changed: Mapping[str, int], added: list[str]
) -> tuple[str, ...]:
    """Return notes on accepted changes."""
    notes = []
    if dropped or changed:
        changes = _list_changes(dropped, changed)
        notes += [f"Note: the images changed since the last start:\n{changes}\n  {_EFFECT}"]
    if added:
        notes += [f"Note: {len(added)} added since the start, left out: {join_names(added)}"]
    return tuple(notes)


def write_image_list(path: Path, train: ImageFolder, val: ImageFolder) -> None:
    """Write the list of the images of a run.

    Raises:
        WriteError: the file cannot be written.
    """
    width = max(train.files.itemsize, val.files.itemsize)
    dtype = [("split", "S5"), ("file", f"S{width}"), ("target", "<i4"), ("bytes", "<i8")]
    rows = np.zeros(len(train) + len(val), [*dtype, ("digest", "<u8")])
    for name, split, part in (
        (b"train", train, rows[: len(train)]),
        (b"val", val, rows[len(train) :]),
    ):
        part["split"], part["file"], part["target"] = name, split.files, split.targets
        part["bytes"] = split.stamps[:, 0]
        sample = one_per_class(split)
        part["digest"][sample] = [digest or 0 for digest in content_digests(split, sample)]
    with atomic_write(path) as file:
        np.save(file, rows)


def read_image_list(
    path: Path, classes: list[str], digest: str
) -> tuple[ListedSplit, ListedSplit] | None:
    """Read the list of a run; None if it is missing, damaged, or of other images.

    digest: `fingerprint` of the images at the start of the run.
    """
    try:
        rows = np.array(open_memmap(path, mode="r"))  # unlike numpy.load, it opens .npy files only
        parts = [rows[rows["split"] == name] for name in (b"train", b"val")]
        train, val = (
            ListedSplit(
                ImageFolder(
                    Path(name), tuple(classes), part["file"], part["target"].astype(np.int64)
                ),
                part["bytes"],
                part["digest"],
            )
            for name, part in zip(("train", "val"), parts, strict=True)
        )
    except (OSError, ValueError, IndexError, KeyError):
        return None
    known = fingerprint_with_sizes(*((split.images, split.sizes) for split in (train, val)))
    return (train, val) if known == digest else None
