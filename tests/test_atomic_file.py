import errno
import os
import re
import tempfile
from pathlib import Path

import pytest
import torch

from imgnet_mini.errors import DataError, WriteError
from imgnet_mini.utils.atomic_file import (
    atomic_write,
    check_writable,
    remove_temporary_files,
    translate_write_errors,
    write_text,
)
from imgnet_mini.utils.signals import ImmediateStopError

posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no file modes")


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    path.parent.mkdir()
    path.write_text("old", "utf-8")
    return path


def assert_as_it_was(path):
    assert path.read_text("utf-8") == "old"
    assert list(path.parent.iterdir()) == [path]


def full_disk(*_args, **_settings):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_old_file_is_replaced_when_the_block_ends(target):
    with atomic_write(target) as file:
        file.write(b"new")
        assert target.read_text("utf-8") == "old"
    assert target.read_bytes() == b"new"
    assert list(target.parent.iterdir()) == [target]


def test_missing_folders_are_created(tmp_path):
    path = tmp_path / "a" / "b" / "c.txt"
    write_text(path, "x")
    assert path.read_bytes() == b"x"


def test_text_is_utf_8_with_unix_line_ends_on_every_system(tmp_path):
    write_text(tmp_path / "x", "é😀\nb\n")
    assert (tmp_path / "x").read_bytes() == "é😀\nb\n".encode()


@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt(), DataError("image")])
def test_an_error_in_the_block_keeps_the_old_content_and_is_raised_unchanged(target, error):
    def fail():
        with atomic_write(target) as file:
            file.write(b"half")
            raise error

    with pytest.raises(type(error)) as raised:
        fail()
    assert raised.value is error
    assert_as_it_was(target)


@pytest.mark.parametrize(
    ("place", "name"), [(os, "fsync"), (Path, "replace"), (Path, "mkdir")], ids=str
)
def test_a_full_disk_keeps_the_old_content_and_names_the_file(target, monkeypatch, place, name):
    monkeypatch.setattr(place, name, full_disk)
    with pytest.raises(WriteError) as error:
        write_text(target, "new")
    monkeypatch.undo()
    reason = re.escape(f"cannot write {target}: {os.strerror(errno.ENOSPC)}")
    assert re.fullmatch(rf"{reason} \([\d.]+ [kMG]B free in {target.parent}\)", str(error.value))
    assert_as_it_was(target)


def test_a_full_disk_is_reported_with_the_expected_size(target):
    with (
        pytest.raises(WriteError, match=r"\(205\.0 MB needed, .* free in "),
        atomic_write(target, expected_bytes=205_000_000),
    ):
        full_disk()
    assert_as_it_was(target)


def test_only_temporary_files_are_removed(tmp_path):
    for name in (".checkpoint.pth.x1.tmp", ".log.y.tmp", "mine.tmp", "best.pth", ".lock"):
        (tmp_path / name).write_bytes(b"")
    assert remove_temporary_files(tmp_path, tmp_path / "absent") == 2
    assert {path.name for path in tmp_path.iterdir()} == {"mine.tmp", "best.pth", ".lock"}


@posix
def test_an_existing_symlink_is_not_followed(tmp_path, monkeypatch):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    names = iter(["planted", "free"])
    monkeypatch.setattr(tempfile, "_get_candidate_names", lambda: names)
    (tmp_path / ".x.planted.tmp").symlink_to(precious)
    write_text(tmp_path / "x", "new")
    assert precious.read_text() == "mine"
    assert (tmp_path / "x").read_text() == "new"


class FullFile:
    """A file on a full disk, for torch.save."""

    def write(self, _content):
        full_disk()

    def flush(self):
        pass


def test_a_full_disk_inside_torch_save_is_a_write_error(target):
    with pytest.raises(WriteError, match=os.strerror(errno.ENOSPC)), atomic_write(target):
        torch.save({"x": torch.ones(3)}, FullFile())
    assert_as_it_was(target)


@pytest.mark.parametrize("error", [ImmediateStopError(2), KeyboardInterrupt()], ids=repr)
def test_an_interruption_inside_torch_save_is_raised_as_it_is(target, error):
    writes = iter(range(100))

    class Interrupted(FullFile):
        def write(self, content):
            if next(writes) == 1:  # torch passes on what the first one raises
                raise error
            return len(content)

    with pytest.raises(type(error)) as raised, atomic_write(target):
        torch.save({"x": torch.ones(3)}, Interrupted())
    assert raised.value is error
    assert_as_it_was(target)


def test_a_read_error_in_the_block_is_not_a_write_error(target):
    def read():
        try:
            Path("absent").read_bytes()
        except OSError as error:
            raise DataError("cannot read absent") from error

    with pytest.raises(DataError, match="cannot read absent"), atomic_write(target):
        read()
    assert_as_it_was(target)


def test_an_interruption_after_a_handled_error_is_raised_as_it_is(target):
    def read():
        try:
            Path("absent").read_bytes()
        except OSError:
            raise KeyboardInterrupt  # noqa: B904

    with pytest.raises(KeyboardInterrupt), atomic_write(target):
        read()
    assert_as_it_was(target)


def test_a_file_instead_of_the_folder_is_a_write_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    path = tmp_path / "file" / "x.txt"
    with pytest.raises(WriteError, match=r"cannot write .*x\.txt"):
        write_text(path, "x")


def test_a_folder_instead_of_the_file_is_a_write_error(tmp_path):
    path = tmp_path / "x.txt"
    path.mkdir()
    with pytest.raises(WriteError, match=r"cannot write .*x\.txt"):
        write_text(path, "x")
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_too_long_for_the_disk_is_a_write_error(tmp_path):
    with pytest.raises(WriteError):
        write_text(tmp_path / ("x" * 300), "x")
    assert list(tmp_path.iterdir()) == []


def test_the_error_names_the_file_that_the_system_names(tmp_path):
    other, folder = tmp_path / "other" / "x", tmp_path / "folder"
    with (
        pytest.raises(WriteError, match=f"^cannot write {other}: No such file"),
        translate_write_errors(folder),
    ):
        other.write_text("x")


def test_recent_temporary_files_and_folders_are_kept(tmp_path):
    for name in (".old.tmp", ".new.tmp"):
        (tmp_path / name).write_bytes(b"")
    os.utime(tmp_path / ".old.tmp", (0, 0))
    (tmp_path / ".folder.tmp").mkdir()
    assert remove_temporary_files(tmp_path, older_than=3600) == 1
    assert remove_temporary_files(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == [".folder.tmp"]


@pytest.mark.parametrize("place", ["", "a/b"])
def test_check_writable_leaves_no_file(tmp_path, place):
    check_writable(tmp_path / place)
    assert list(tmp_path.iterdir()) == []


def test_check_writable_refuses_a_folder_below_a_file(target):
    with pytest.raises(WriteError, match=f"cannot write {target}/a/b: Not a directory"):
        check_writable(target / "a" / "b")


@posix
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_umask_is_respected_and_kept(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "x", "x")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == mode


@posix
def test_the_file_is_flushed_before_and_the_folder_after_the_renaming(target, monkeypatch):
    calls = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("flush"), fsync(fd)))
    monkeypatch.setattr(Path, "replace", lambda *paths: (calls.append("rename"), replace(*paths)))
    write_text(target, "new")
    assert calls == ["flush", "rename", "flush"]
