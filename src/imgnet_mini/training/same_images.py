"""Check that all machines of a run read the same images."""

import hashlib
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from imgnet_mini.data.folder import ImageFolder
from imgnet_mini.data.splits import ImageSplits
from imgnet_mini.distributed.context import DistributedContext
from imgnet_mini.errors import DataError
from imgnet_mini.utils.console import join_names

_Files = dict[str, int]
"""Names of files, and their sizes in bytes; 0 where unknown."""


@dataclass(frozen=True)
class Listing:
    """The images that a machine reads.

    training: the training images are read too. The sizes of files that are not read are left out.
    """

    images: ImageSplits
    training: bool
    node: str = field(default_factory=platform.node)

    @property
    def source(self) -> str:
        """Source of the images, as the end of a sentence about the machine."""
        pack = self.images.pack
        if pack is None:
            return "reads image files"
        return f"reads a pack of {pack.manifest.pack_size} px ({pack.manifest.id[:8]})"

    @cached_property
    def classes(self) -> dict[str, tuple[int, str]]:
        """Number and hash of the images of each `train/<class>` and `val/<class>`."""
        found = {}
        for split, name, rows in self._rows():
            digest = hashlib.sha256(b"\0".join(split.files[rows].tolist()))
            if self._has_sizes(split):
                digest.update(split.stamps[rows, 0].tobytes())
            found[f"{split.part or split.root.name}/{name}"] = (
                rows.stop - rows.start,
                digest.hexdigest(),
            )
        return found

    @property
    def digest(self) -> str:
        """Hash of all but the name of the machine."""
        return hashlib.sha256(repr((self.source, self.classes)).encode()).hexdigest()

    def files(self, wanted: str) -> _Files:
        """Return the files of a class, such as `train/cat`."""
        for split, name, rows in self._rows():
            if f"{split.part or split.root.name}/{name}" == wanted:
                names = map(split.path_in_root, range(rows.start, rows.stop))
                sizes = split.stamps[rows, 0].tolist() if self._has_sizes(split) else None
                return dict(zip(names, sizes, strict=True)) if sizes else dict.fromkeys(names, 0)
        return {}

    def _has_sizes(self, split: ImageFolder) -> bool:
        return self.images.pack is None and (self.training or split is self.images.val)

    def _rows(self) -> Iterator[tuple[ImageFolder, str, slice]]:
        """Yield the classes, with the rows of their images in their split."""
        for split in (self.images.train, self.images.val):
            bounds = np.searchsorted(split.targets, np.arange(len(split.classes) + 1)).tolist()
            for name, first, end in zip(split.classes, bounds, bounds[1:], strict=False):
                yield split, name, slice(first, end)


def check_same_images(
    listing: Listing | None, digest: str, data_root: Path, distributed: DistributedContext
) -> None:
    """Compare the images of all machines; all ranks must call.

    listing: None on ranks that are not the first of their machine.
    digest: of the listing of this machine.

    Raises:
        DataError: names two machines and their first difference.
    """
    digests = distributed.all_gather(digest)
    other = next((rank for rank, found in enumerate(digests) if found != digests[0]), None)
    if other is None:
        return
    takes_part = listing is not None and distributed.rank in (0, other)
    nodes = distributed.all_gather(
        (listing.node, listing.source, listing.classes) if listing and takes_part else None
    )
    (here, source, ours), (there, other_source, theirs) = (node for node in nodes if node)
    if here == there:
        here, there = f"{here} (rank 0)", f"{there} (rank {other})"
    difference = f"{here} {source}, and {there} {other_source}"
    if source == other_source:
        names = sorted(ours.keys() | theirs.keys())
        name = next(name for name in names if ours.get(name) != theirs.get(name))
        files = distributed.all_gather(listing.files(name) if listing and takes_part else {})
        difference = _describe(name, here, files[0], there, files[other])
    raise DataError(
        f"the images in {data_root} differ between machines: {difference}. Copy them again, or "
        "pass a folder that all machines share with --data-root"
    )


def _describe(name: str, here: str, ours: _Files, there: str, theirs: _Files) -> str:
    """Describe the difference between the files of a class on two machines."""
    if not (ours and theirs):
        return f"only {here if ours else there} has {name}"
    for node, files, others in ((here, ours, theirs), (there, theirs, ours)):
        more = sorted(files.keys() - others.keys())
        if more:
            return f"only {node} has {join_names(more)}"
    file = min(name for name in ours if ours[name] != theirs[name])
    return f"{file} has {ours[file]} bytes on {here}, and {theirs[file]} on {there}"
