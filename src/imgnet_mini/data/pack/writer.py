"""Write a pack: each image decoded whole, on all cores, in a folder that is renamed at the end."""

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from imgnet_mini.data.pack.build import OnImage, PackBuilder
from imgnet_mini.data.pack.format import PackManifest, array_files
from imgnet_mini.data.pack.place import PackFolder
from imgnet_mini.data.pack.plan import PackPlan
from imgnet_mini.errors import WriteError
from imgnet_mini.utils.console import format_bytes


def write_pack(plan: PackPlan, pack_dir: Path, *, skip: bool, on_image: OnImage) -> PackManifest:
    """Build a pack, going on where an interrupted build of the same plan stopped.

    A pack that is there already is replaced once the new one is complete.

    skip: leave out files that cannot be decoded; else they end the build, once all are known.

    Raises:
        ConfigError: the folder holds something that is no pack, or is no place for one.
        DataError: files are broken, or so many that a class has none left.
        WriteError: the folder cannot be written, or the disk is too small.
        InUseError: another process builds this pack.
    """
    with _explaining_writes(pack_dir):
        place = PackFolder(pack_dir, [images.root for images in plan.splits.values()])
        _check_free_space(plan, place.partial)
        place.partial.mkdir(parents=True, exist_ok=True)
        with place.locked():
            place.remove_temporary_files()
            with closing(PackBuilder(plan, place.partial)) as build:
                build.run(on_image)
                build.check_images(skip=skip)
                manifest = build.finish()
            place.put()
    return manifest


def _check_free_space(plan: PackPlan, partial: Path) -> None:
    there = sum(path.stat().st_size for path in array_files(partial) if path.exists())
    parent = next(folder for folder in partial.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(parent).free
    if plan.nbytes - there > free:
        raise WriteError(
            f"the pack takes {format_bytes(plan.nbytes)}, and {parent} has {format_bytes(free)} "
            "free: make room, name another disk with --pack-dir, or choose a smaller --pack-size"
        )


@contextmanager
def _explaining_writes(pack_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"cannot write {error.filename or pack_dir}: {error.strerror or error}. What is packed "
            "so far is kept: run imgnet-mini prepare again, or name another place with --pack-dir"
        ) from error
