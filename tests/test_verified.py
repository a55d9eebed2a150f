import os
import shutil
from pathlib import Path

import pytest

from imgnet_mini.data import scan
from imgnet_mini.data.folder import find_images
from imgnet_mini.data.scan import check_images_decode
from imgnet_mini.errors import DataError

DATA = Path("data")
HOUR_AGO = 1_000_000_000


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def train(make_folder):
    make_folder(DATA, train=3, val=1, classes=["a", "b", "c"])
    (DATA / "train/b/deep").mkdir()
    shutil.copy(DATA / "train/a/000.JPEG", DATA / "train/b/deep/x.JPEG")
    check_images_decode(find_images(DATA / "train"))
    return DATA / "train"


@pytest.fixture
def looked(monkeypatch):
    """`looked()` is the names of the files that another start looks at."""

    def look():
        paths = []
        with monkeypatch.context() as patch:
            patch.setattr(scan, "find_problem", lambda path, **_: paths.append(path))
            images = find_images(DATA / "train")
            check_images_decode(images)
        return sorted(path.relative_to(images.root).as_posix() for path in paths)

    return look


def test_files_that_were_whole_are_not_looked_at_again(train, looked):
    assert looked() == []
    os.utime(train / "a/001.png", (HOUR_AGO, HOUR_AGO))
    assert looked() == ["a/001.png"]
    assert looked() == []


def test_a_file_whose_time_was_set_back_is_looked_at(train, looked):
    path = train / "a/001.png"
    stat = path.stat()
    content = path.read_bytes()
    path.write_bytes(content[::-1])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_mtime_ns == stat.st_mtime_ns
    assert looked() == ["a/001.png"]


def test_only_new_files_are_looked_at(train, looked):
    shutil.copy(train / "a/000.JPEG", train / "a/new.JPEG")
    shutil.copytree(train / "a", train / "0")
    (train / "b/001.png").rename(train / "b/renamed.png")
    (train / "c/001.png").unlink()
    names = ["0/000.JPEG", "0/001.png", "0/002.JPEG", "0/new.JPEG", "a/new.JPEG", "b/renamed.png"]
    assert looked() == names
    assert looked() == []


def test_a_damaged_record_is_not_used(train, looked, cache):
    (path,) = (path for path in cache.rglob("*") if path.is_file())
    whole = path.read_bytes()
    for damage in (b"", whole[:40], whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b"x" + whole):
        path.write_bytes(damage)
        assert len(looked()) == 10
    path.write_bytes(whole)
    assert looked() == []


def test_without_a_cache_folder_all_is_checked(train, looked, cache):
    shutil.rmtree(cache)
    cache.write_text("a file in the place of the folder")
    for _ in range(2):
        assert len(looked()) == 10


def test_a_file_that_breaks_later_is_found(train):
    (train / "a/001.png").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(DataError, match=r"1 broken .*\n.*a/001\.png: the file is empty"):
            check_images_decode(find_images(train))
    (train / "b/001.png").unlink()
    (train / "b/001.png").symlink_to("nowhere.png")
    with pytest.raises(DataError, match=r"2 broken image file"):
        check_images_decode(find_images(train))


def test_without_some_files_the_others_are_known_all_the_same(train, looked):
    broken = {"train/a/001.png": "the file is empty"}
    os.utime(train / "a/001.png", (HOUR_AGO, HOUR_AGO))
    check_images_decode(find_images(train).without(broken))
    assert looked() == ["a/001.png"]


def test_old_records_do_not_pile_up(train, looked, cache):
    for number in range(3):
        shutil.copy(train / "a/000.JPEG", train / f"a/{number}.JPEG")
        looked()
    assert len([path for path in cache.rglob("*") if path.is_file()]) == 1
