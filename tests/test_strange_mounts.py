"""Folders whose file system or name lacks what others have: the work goes on, or is refused."""

import errno
import os
from pathlib import Path

import pytest

from imgnet_mini.utils import atomic_file
from imgnet_mini.utils.atomic_file import write_text

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has no such calls or names")


@pytest.fixture
def refuse(monkeypatch):
    """`refuse(call)` makes a function of `os` fail as on a network mount."""
    monkeypatch.setattr(atomic_file, "_noted", set())

    def refuse(call, number=errno.EPERM):
        real = getattr(os, call)

        def refused(target, *args, **settings):
            if call == "fsync" and not os.path.isdir(f"/proc/self/fd/{target}"):  # noqa: PTH112
                return real(target)
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, call, refused)

    return refuse


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="it looks into /proc")
def test_a_mount_without_modes_and_flushing_is_noted_once(refuse, run_small, cli):
    refuse("chmod")
    refuse("fsync", errno.EINVAL)
    assert run_small("train", "--name", "a", "--epochs", 2) == 0, cli.err
    assert cli.err.count("takes no file modes: others may be unable to read its files") == 1
    assert cli.err.count("cannot be flushed: a power cut may undo the last save") == 1


def test_a_real_failure_of_the_disk_is_still_an_error(refuse, tmp_path):
    refuse("chmod", errno.EIO)
    with pytest.raises(atomic_file.WriteError, match="Input/output error"):
        write_text(tmp_path / "a", "x")


@pytest.mark.parametrize("flag", ["--data-root", "--output-dir", "--pack-dir"])
def test_a_folder_whose_name_is_not_utf8_is_refused_before_anything_is_made(run_small, cli, flag):
    before = set(Path().iterdir())
    assert run_small("train", "--name", "a", flag, os.fsdecode(b"d\xffta")) == 2
    assert cli.says(f"{flag[2:].replace('-', '_')}: its name is not valid UTF-8")
    assert set(Path().iterdir()) == before


def test_a_current_folder_whose_name_is_not_utf8_is_no_trouble(run_small, cli, monkeypatch, data):
    folder = Path(os.fsdecode(b"d\xffta"))
    folder.mkdir()
    data.rename(folder / "data")
    monkeypatch.chdir(folder)
    assert run_small("train", "--name", "a", "--epochs", 1) == 0, cli.err
    assert cli("resume", "--name", "a") == 0, cli.err
