import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from imgnet_mini.data import index, scan
from imgnet_mini.data.folder import find_images
from imgnet_mini.data.index import find_images_cached
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
    """A split whose folders have been as they are for a while."""
    make_folder(DATA, train=3, val=1, classes=["a", "b", "c"])
    (DATA / "train/b/deep").mkdir()
    shutil.copy(DATA / "train/a/000.JPEG", DATA / "train/b/deep/x.JPEG")
    (DATA / "train/notes.txt").touch()
    return settle(DATA / "train")


def settle(root):
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        os.utime(folder, (HOUR_AGO, HOUR_AGO))
    return root


@pytest.fixture
def nothing_is_listed(monkeypatch):
    def forbid():
        monkeypatch.setattr(index, "find_images", lambda _: pytest.fail("listed anew"))

    return forbid


def same(ours, theirs):
    return (
        (ours.root, ours.classes, dict(ours.ignored))
        == (theirs.root, theirs.classes, dict(theirs.ignored))
        and np.array_equal(ours.files, theirs.files)
        and np.array_equal(ours.targets, theirs.targets)
        and (ours.files.dtype, ours.targets.dtype) == (theirs.files.dtype, theirs.targets.dtype)
    )


def test_a_folder_that_has_not_changed_is_not_listed_again(train, nothing_is_listed):
    first = find_images_cached(train)
    assert same(first, find_images(train))
    nothing_is_listed()
    again = find_images_cached(train)
    assert same(again, first)
    assert isinstance(again.files.base, np.memmap)
    assert same(
        find_images_cached(train.absolute().parent / "train"), find_images(train.absolute())
    )


def test_a_folder_that_has_just_changed_is_not_trusted(make_folder, cache):
    make_folder(DATA)
    find_images_cached(DATA / "train")
    assert not cache.exists()


def changes():
    train = DATA / "train"
    return {
        "added": lambda: shutil.copy(train / "a/000.JPEG", train / "a/new.JPEG"),
        "added deep": lambda: shutil.copy(train / "a/000.JPEG", train / "b/deep/new.JPEG"),
        "removed": (train / "c/002.JPEG").unlink,
        "renamed": lambda: (train / "c/002.JPEG").rename(train / "c/003.JPEG"),
        "a class more": lambda: shutil.copytree(train / "a", train / "d"),
        "a class less": lambda: shutil.rmtree(train / "c"),
        "a class renamed": lambda: (train / "c").rename(train / "d"),
    }


@pytest.mark.parametrize("change", changes())
def test_each_change_of_names_is_seen(train, change):
    before = find_images_cached(train)
    changes()[change]()
    assert same(find_images_cached(train), find_images(train))
    assert not same(find_images_cached(train), before)


def test_what_is_kept_is_known_to_be_whole(train, cache):
    find_images_cached(train)
    for path in cache.rglob("*.npy"):
        whole = path.read_bytes()
        for damage in (whole[:-1], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
            path.write_bytes(damage)
            assert same(find_images_cached(train), find_images(train))
            path.write_bytes(whole)


@pytest.mark.parametrize(
    "change",
    [
        lambda _: "",
        lambda _: "[]",
        lambda text: text.replace('"format":2', '"format":3'),
        lambda text: json.dumps(json.loads(text) | {"root": "/elsewhere"}),
        lambda text: json.dumps(json.loads(text) | {"files": "../../files.npy"}),
        lambda text: json.dumps(json.loads(text) | {"more": 1}),
    ],
)
def test_a_list_that_is_not_ours_is_not_used(train, cache, change):
    find_images_cached(train)
    (path,) = cache.rglob("index.json")
    path.write_text(change(path.read_text("utf-8")), "utf-8")
    assert same(find_images_cached(train), find_images(train))


def test_where_nothing_can_be_kept_all_is_found_all_the_same(train, cache):
    cache.write_text("a file in the place of the folder")
    for _ in range(2):
        images = find_images_cached(train)
        assert same(images, find_images(train))
        check_images_decode(images)


def test_files_that_were_whole_are_not_looked_at_again(train, monkeypatch):
    check_images_decode(find_images_cached(train))
    looked = []
    monkeypatch.setattr(scan, "find_problem", looked.append)
    check_images_decode(find_images_cached(train))
    assert not looked
    os.utime(train / "a/001.png", (HOUR_AGO, HOUR_AGO))
    check_images_decode(find_images_cached(train))
    assert looked == [train / "a/001.png"]
    looked.clear()
    check_images_decode(find_images_cached(train))
    assert not looked


def test_a_file_that_breaks_later_is_found(train):
    check_images_decode(find_images_cached(train))
    (train / "a/001.png").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(DataError, match=r"1 broken .*\n.*a/001\.png: the file is empty"):
            check_images_decode(find_images_cached(train))
    (train / "b/001.png").unlink()
    (train / "b/001.png").symlink_to("nowhere.png")
    settle(train)
    with pytest.raises(DataError, match=r"2 broken image file"):
        check_images_decode(find_images_cached(train))


def test_without_some_files_the_others_are_known_all_the_same(train, monkeypatch):
    broken = {"train/a/001.png": "the file is empty"}
    check_images_decode(find_images_cached(train).without(broken))
    looked = []
    monkeypatch.setattr(scan, "find_problem", looked.append)
    check_images_decode(find_images_cached(train).without(broken))
    assert not looked
    check_images_decode(find_images_cached(train))
    assert looked == [train / "a/001.png"]


def test_old_lists_do_not_pile_up(train, cache):
    check_images_decode(find_images_cached(train))
    for number in range(3):
        shutil.copy(train / "a/000.JPEG", train / f"a/{number}.JPEG")
        settle(train)
        os.utime(train / "a", (HOUR_AGO + number + 1, HOUR_AGO + number + 1))
        check_images_decode(find_images_cached(train))
    assert len(list(cache.rglob("*.npy"))) == 3
    assert len(list(cache.rglob("*.tmp"))) == 0
