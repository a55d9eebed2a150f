import os
import shlex
import threading
from contextlib import contextmanager

import pytest

from helpers.packs import damaged_jpeg
from imgnet_mini.data import scan
from imgnet_mini.data.folder import find_images
from imgnet_mini.data.scan import (
    check_images_decode,
    find_broken_images,
    scan_images,
)
from imgnet_mini.data.tree import find_splits
from imgnet_mini.errors import DataError


@pytest.fixture
def tree(make_folder, tmp_path):
    return make_folder(tmp_path / "data", train=3, val=2, classes=["cat", "dog"])


def test_whole_images_pass_the_check(tree):
    check_images_decode(*find_splits(tree))


def test_broken_images_are_all_listed_at_once_with_two_cures(make_folder, tmp_path):
    root = make_folder(tmp_path / "data", train=8, val=8, classes=2)
    broken = [*sorted((root / "train" / "class_00").iterdir()), *(root / "val").glob("*/003.png")]
    for path in broken:
        path.write_bytes(b"")
    html = [root / "val" / "class_01" / name for name in ("000.JPEG", "002.JPEG")]
    for path in html:
        path.write_bytes(b"<html>")
    with pytest.raises(DataError) as error:
        check_images_decode(*find_splits(root))
    first, *lines, cures, command = str(error.value).splitlines()
    assert first == "12 broken image file(s):"
    expected = [f"  {path}: the file is empty" for path in broken]
    expected += [f"  {path}: not an image" for path in html]
    assert sorted(lines) == sorted(expected)
    assert "--skip-bad" in cures
    assert command == f"  imgnet-mini check --data-root {shlex.quote(str(root))}"


def test_one_broken_image_is_named_with_its_problem(tree):
    path = tree / "val" / "dog" / "001.png"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"^1 broken image") as error:
        check_images_decode(*find_splits(tree))
    assert str(path) in str(error.value)
    assert "more" not in str(error.value)


def test_very_many_broken_images_are_counted_after_a_hundred(make_folder, tmp_path):
    root = make_folder(tmp_path / "data", train=60, val=1, classes=2)
    for path in (root / "train").rglob("*.*"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"^120 broken") as error:
        check_images_decode(*find_splits(root))
    assert len(str(error.value).splitlines()) == 1 + 100 + 1 + 2
    assert "  and 20 more\n" in str(error.value)


def test_a_file_takes_one_line_whatever_its_name(tree):
    if os.name == "posix":
        (tree / "val" / "dog" / "a\n\x1b[2Jb.jpg").write_bytes(b"")
        with pytest.raises(DataError) as error:
            check_images_decode(*find_splits(tree))
        assert str(error.value).splitlines()[1].endswith(r"/dog/a\n\x1b[2Jb.jpg: the file is empty")


def damage_three(tree):
    """Two broken images, of which a glance finds one, and one that is damaged inside."""
    (tree / "train" / "cat" / "000.JPEG").write_bytes(b"")
    hidden = tree / "train" / "cat" / "001.png"
    content = hidden.read_bytes()
    half = len(content) // 2
    hidden.write_bytes(content[:half] + content[half + 9 :])
    (tree / "train" / "dog" / "000.JPEG").write_bytes(damaged_jpeg())


def test_a_scan_decodes_all_and_tells_broken_from_suspect_by_position(tree):
    damage_three(tree)
    split = find_images(tree / "train")
    done = []
    findings = scan_images(split, done.append)
    assert done == [1, 2, 3, 4, 5, 6]
    assert findings.broken.keys() == {0, 1}
    assert findings.broken[0] == "the file is empty"
    assert str(tree) not in "".join(findings.broken.values())
    assert findings.suspect.keys() == {3}


def test_what_ends_a_scan_ends_its_threads(tree):
    class StopError(Exception):
        pass

    def stop(_done):
        raise StopError

    with pytest.raises(StopError):
        scan_images(find_images(tree / "train"), stop)
    assert not [thread for thread in threading.enumerate() if "imgnet-mini" in thread.name]


def test_broken_images_are_found_by_place_and_reason_under_a_bar_for_each_split(tree, monkeypatch):
    damage_three(tree)
    shown = []

    class ProgressBar:
        def __init__(self, label):
            self._label = label

        def show(self, done):
            shown.append((self._label, done))

    @contextmanager
    def progress_bar(label, total):
        yield ProgressBar(f"{label} of {total}")

    monkeypatch.setattr(scan, "progress_bar", progress_bar)
    broken = find_broken_images(*find_splits(tree))
    assert list(broken) == ["train/cat/000.JPEG", "train/cat/001.png"]
    assert broken["train/cat/000.JPEG"] == "the file is empty"
    assert shown[5:7] == [("check train of 6", 6), ("check val of 4", 1)]
