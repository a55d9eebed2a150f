"""Image files in a folder and its subfolders, and the entries that are left out."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from imgnet_mini.data.images import EXTENSIONS, is_image
from imgnet_mini.errors import DataError

HIDDEN: Final = "hidden"

_HELPER_FOLDERS: Final = {
    *("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information"),
    *("lost+found", "__pycache__"),
}
"""Folders that archives, storage devices and systems add; some hold thumbnails."""

_OTHER_FILES: Final = (
    *(".txt", ".md", ".html", ".htm", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".py"),
    *(".npy", ".npz", ".mat", ".pkl", ".pt", ".pth", ".db", ".ini", ".lnk", ".url"),
    *(".zip", ".tar", ".gz", ".7z", ".rar", ".pdf", ".mp4", ".avi", ".mov"),
    *(".part", ".crdownload", ".download", ".tmp", ".swp", ".bak", ".orig", ".old", "~"),
)
"""Endings that are not looked into: of other files, and of unfinished or earlier copies."""


class LeftOut:
    """Entries of folders that are left out, by kind: their number and the first path."""

    def __init__(self) -> None:
        self.kinds: dict[str, tuple[int, str]] = {}

    def add(self, kind: str, path: str, count: int = 1) -> None:
        """Count an entry, or several of which `path` is the first."""
        before, first = self.kinds.get(kind, (0, path))
        self.kinds[kind] = before + count, min(first, path)


def is_visible_folder(path: Path) -> bool:
    """Return whether a path is a folder, and neither hidden nor a helper folder."""
    return path.is_dir() and not path.name.startswith(".") and path.name not in _HELPER_FOLDERS


def class_names(root: Path, left_out: LeftOut) -> Iterator[str]:
    """Yield the names of the class folders in a split.

    Raises:
        DataError: one is a link to a folder that contains it.
    """
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                left_out.add(_hidden_kind(entry), entry.name)
            elif not entry.is_dir():
                left_out.add("outside the class folders", entry.name)
            elif entry.name in _HELPER_FOLDERS:
                left_out.add("helper folder", entry.name)
            elif entry.is_symlink() and root.resolve().is_relative_to(Path(entry).resolve()):
                raise DataError(f"{root / entry.name} is a link to a folder that contains it")
            else:
                yield entry.name


def walk_images(root: Path, prefix: str, left_out: LeftOut) -> Iterator[str]:
    """Yield the image files below `root / prefix`, relative to `root`.

    Files are images if their ending or their content is that of an image. Links to folders are
    followed, unless they lead to a folder around them.
    """
    return _walk(root, prefix, left_out, (Path(root).resolve(), Path(root, prefix).resolve()))


def _walk(root: Path, prefix: str, left_out: LeftOut, around: tuple[Path, ...]) -> Iterator[str]:
    """See `walk_images`; around: the resolved folders that a link was followed to."""
    with os.scandir(root / prefix) as entries:
        for entry in entries:
            path = prefix + entry.name
            if _is_image(entry):
                yield path
            elif (kind := _left_out_kind(entry, around)) is not None:
                left_out.add(kind, path)
            else:
                yield from _walk(root, f"{path}/", left_out, _with_target(entry, around))


def _is_image(entry: os.DirEntry[str]) -> bool:
    name = entry.name.lower()
    if name.startswith("."):
        return False
    if name.endswith(EXTENSIONS):
        # Dangling links are reported by a later check; reading a pipe would block.
        return entry.is_symlink() or entry.is_file()
    return _has_image_content(entry)


def _has_image_content(entry: os.DirEntry[str]) -> bool:
    is_other = entry.name.lower().endswith(_OTHER_FILES)
    return not is_other and entry.is_file() and is_image(Path(entry))


def _left_out_kind(entry: os.DirEntry[str], around: tuple[Path, ...]) -> str | None:
    """Return the kind of an entry that is no image; None for a folder to search."""
    if entry.name.startswith("."):
        return _hidden_kind(entry)
    if not entry.is_dir():
        if entry.is_symlink() and not Path(entry).exists():
            return "broken link"
        return Path(entry.name).suffix.lower() or "without an extension"
    if entry.name in _HELPER_FOLDERS:
        return "helper folder"
    if entry.is_symlink():
        *folders, target = _with_target(entry, around)
        if any(folder.is_relative_to(target) for folder in folders):
            return "link to a folder around it"
    return None


def _with_target(entry: os.DirEntry[str], around: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return the resolved folders around an entry, and its own target if it is a link."""
    if not entry.is_symlink():
        return around
    path = Path(entry)
    return (*around, path.parent.resolve(), path.resolve())


def _hidden_kind(entry: os.DirEntry[str]) -> str:
    # macOS adds a ._ file to each file on disks of other systems.
    looked_into = not entry.name.startswith("._")
    return "hidden image" if looked_into and _has_image_content(entry) else HIDDEN
