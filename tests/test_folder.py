import dataclasses
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder as TorchvisionFolder

from imgnet_mini.data.folder import (
    describe_ignored,
    file_stamps,
    find_images,
    find_inference_images,
    fingerprint,
)
from imgnet_mini.data.scan import check_images_decode
from imgnet_mini.data.tree import case_collisions, find_splits, find_tree_problems, read_splits
from imgnet_mini.errors import DataError
from imgnet_mini.utils.console import MAX_LISTED, escape_line, join_names

needs_any_name = pytest.mark.skipif(
    sys.platform != "linux", reason="other systems refuse file names that are not UTF-8"
)


@pytest.fixture
def tree(make_folder, tmp_path):
    return make_folder(tmp_path / "data", train=3, val=2, classes=["cat", "dog"])


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def listed(split):
    return [(split.relative_path(i), int(split.targets[i])) for i in range(len(split))]


def test_images_come_by_class_and_then_by_path(tree):
    train, val = find_splits(tree)
    assert train.classes == val.classes == ("cat", "dog")
    assert listed(val) == [
        ("cat/000.JPEG", 0),
        ("cat/001.png", 0),
        ("dog/000.JPEG", 1),
        ("dog/001.png", 1),
    ]
    assert len(train) == 6
    assert train.path(5) == tree / "train" / "dog" / "002.JPEG"
    assert train.targets.dtype == np.int64


def test_order_is_that_of_torchvision_on_a_plain_tree(tmp_path):
    for name in ("n2", "N10", "n1", "ü", "a b"):
        for file in ("b.JPEG", "B.jpg", "a10.png", "a2.webp", "a.b.tif", "Z.BMP", "_.ppm"):
            touch(tmp_path / name / file)
    ours, theirs = find_images(tmp_path), TorchvisionFolder(str(tmp_path))
    assert list(ours.classes) == theirs.classes
    assert [(str(ours.path(i)), ours.targets[i]) for i in range(len(ours))] == theirs.samples


@pytest.mark.parametrize("missing", [".", "train", "val"])
def test_a_missing_folder_is_explained_with_the_layout(tree, missing):
    gone = tree / missing
    gone.rename(tree.parent / "elsewhere")
    with pytest.raises(DataError) as error:
        find_splits(tree)
    message = str(error.value)
    assert str(tree) in message
    assert str(Path("train") / "<class>" / "<image>.JPEG") in message
    assert str(Path("val") / "<class>" / "<image>.JPEG") in message
    assert "imgnet-mini demo" in message
    assert "--data-root" in message
    if missing != ".":
        assert f"it has no folder {missing}/" in message


def test_a_file_in_place_of_a_folder_is_as_good_as_missing(tmp_path):
    for root in (touch(tmp_path / "file"), touch(tmp_path / "data" / "train").parent):
        with pytest.raises(DataError, match="no images at"):
            find_splits(root)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_class_folders_is_refused(tree, split):
    (tree / split).rename(tree.parent / "old")
    touch(tree / split / "image.jpg")  # images lying flat
    with pytest.raises(DataError, match=f"{split} has no class folders"):
        find_splits(tree)


@pytest.mark.parametrize(("split", "other"), [("train", "val"), ("val", "train")])
def test_a_class_in_one_split_only_is_named(tree, split, other):
    touch(tree / split / "mouse" / "0.jpg")
    with pytest.raises(DataError, match=f"only in {split}/: mouse") as error:
        find_splits(tree)
    assert f"only in {other}/" not in str(error.value)


def test_many_different_classes_are_counted(tree):
    for number in range(25):
        touch(tree / "train" / f"extra{number:02d}" / "0.jpg")
    with pytest.raises(DataError, match=r"extra00, .*extra09 and 15 more\n") as error:
        find_splits(tree)
    assert "extra10" not in str(error.value)


def test_classes_that_differ_in_case_only_are_different(tree):
    (tree / "val" / "dog").rename(tree / "val" / "dog2")
    (tree / "val" / "dog2").rename(tree / "val" / "Dog")
    with pytest.raises(DataError, match=r"only in train/: dog\n.*only in val/: Dog"):
        find_splits(tree)


def test_classes_without_images_are_named_with_the_known_extensions(tree):
    (tree / "val" / "mouse").mkdir()
    touch(tree / "val" / "ant" / "notes.txt")
    with pytest.raises(DataError, match=r"no images in ant, mouse of .*val.*\.jpg, \.jpeg"):
        find_splits(tree)


def test_hidden_files_and_folders_and_other_files_are_passed_over(tree):
    before = listed(find_images(tree / "train"))
    for path in (
        ".ipynb_checkpoints/0.jpg",
        "cat/.hidden.jpg",
        "cat/._000.JPEG",
        "cat/.cache/0.jpg",
        "cat/Thumbs.db",
        "cat/desktop.ini",
        "cat/labels.csv",
        "cat/image.jpg.part",
        "cat/jpg",
        "stray.jpg",
        "README.txt",
    ):
        touch(tree / "train" / path)
    assert listed(find_images(tree / "train")) == before


@pytest.mark.parametrize("name", ["a.JPG", "a.Jpeg", "a.PNG", "a.tiff", "a.WebP", "a.b.gif"])
def test_extensions_are_known_in_any_case(tmp_path, name):
    touch(tmp_path / "c" / name)
    assert listed(find_images(tmp_path)) == [(f"c/{name}", 0)]


def test_nested_folders_belong_to_their_class(tmp_path):
    for path in ("c/b/deep/1.jpg", "c/a.jpg", "c/b.jpg", "d/x.jpg/2.jpg"):
        touch(tmp_path / path)
    assert listed(find_images(tmp_path)) == [
        ("c/a.jpg", 0),
        ("c/b.jpg", 0),
        ("c/b/deep/1.jpg", 0),
        ("d/x.jpg/2.jpg", 1),
    ]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_links_that_loop_end(tree):
    before = listed(find_images(tree / "train"))
    (tree / "train" / "cat" / "loop").symlink_to(tree / "train", target_is_directory=True)
    assert listed(find_images(tree / "train")) == before


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_links_to_classes_and_images_are_followed_and_dead_ones_named(tree, tmp_path):
    for split in ("train", "val"):
        (tree / split / "linked").symlink_to(tree / split / "cat", target_is_directory=True)
    (tree / "val" / "dog" / "link.jpg").symlink_to(tree / "val" / "cat" / "000.JPEG")
    splits = find_splits(tree)
    assert splits[0].classes == ("cat", "dog", "linked")
    assert "dog/link.jpg" in dict(listed(splits[1]))
    check_images_decode(*splits)
    dead = tree / "val" / "dog" / "dead.jpg"
    dead.symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError) as error:
        check_images_decode(*find_splits(tree))
    assert str(dead) in str(error.value)


ODD_NAMES = ["two  spaces", "ünï😀", "a,b", "[x](y)", "50%", "#1", "$x$", "e\u0301", "x.jpg"]


def test_odd_names_are_kept_exactly(make_folder, tmp_path):
    root = make_folder(tmp_path / "data", train=1, val=1, classes=sorted(ODD_NAMES))
    train, val = find_splits(root)
    assert list(train.classes) == sorted(ODD_NAMES)
    assert all(train.path(i).is_file() for i in range(len(train)))
    check_images_decode(train, val)


@needs_any_name
def test_names_that_are_not_utf_8_are_kept_exactly(make_folder, tmp_path):
    names = [os.fsdecode(b"caf\xe9"), "new\nline", 'quote"', "plain"]
    root = make_folder(tmp_path / "data", train=2, val=1, classes=names)
    odd = root / "val" / "plain" / os.fsdecode(b"\xff\xfe.jpg")
    (root / "val" / "plain" / "000.JPEG").rename(odd)
    train, val = find_splits(root)
    assert sorted(train.classes) == sorted(names)
    assert odd in [val.path(i) for i in range(len(val))]
    assert all(train.path(i).is_file() for i in range(len(train)))
    check_images_decode(train, val)


def test_a_million_paths_are_one_array(tree):
    files = find_images(tree / "train").files
    assert isinstance(files, np.ndarray)
    assert files.dtype.kind == "S"


def test_a_root_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="absent"):
        find_images(tmp_path / "absent")


def test_names_are_counted_only_above_the_limit():
    names = [f"n{i}" for i in range(MAX_LISTED + 1)]
    assert join_names(names[:MAX_LISTED]) == ", ".join(names[:MAX_LISTED])
    assert join_names(names).endswith(", n9 and 1 more")


def test_stamps_are_the_length_and_the_time_of_each_file(tree):
    images = find_images(tree / "train")
    os.utime(images.path(1), ns=(0, 1_234_567_890_123_456_789))
    stamps = file_stamps(images)
    assert stamps.dtype == np.int64
    assert stamps.tolist() == [
        [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        for stat in (images.path(i).stat() for i in range(len(images)))
    ]
    assert stamps[1, 1] == 1_234_567_890_123_456_789


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_the_stamps_of_a_link_are_those_of_its_file(tree):
    link = tree / "train" / "cat" / "link.jpg"
    link.symlink_to(tree / "val" / "cat" / "000.JPEG")
    images = find_images(tree / "train")
    position = images.files.tolist().index(b"cat/link.jpg")
    stat = (tree / "val" / "cat" / "000.JPEG").stat()
    assert file_stamps(images)[position].tolist() == [
        stat.st_size,
        stat.st_mtime_ns,
        stat.st_ctime_ns,
    ]


@needs_any_name
def test_stamps_are_taken_of_files_of_any_name(tmp_path):
    touch(tmp_path / "c" / os.fsdecode(b"\xff\xfe\n.jpg"))
    assert file_stamps(find_images(tmp_path))[:, 0].tolist() == [1]


def test_a_file_that_has_vanished_has_stamps_of_no_file(tree):
    images = find_images(tree / "train")
    before = file_stamps(images)
    images.path(4).unlink()
    after = file_stamps(images)
    assert after[4].tolist() == [-1, -1, -1]
    assert np.array_equal(np.delete(after, 4, 0), np.delete(before, 4, 0))


def test_all_problems_of_the_classes_are_told_at_once(tree):
    (tree / "train" / "ant").mkdir()
    (tree / "val" / "bee").mkdir()
    problems = find_tree_problems(*read_splits(tree), allow_missing_val_classes=False)
    assert [problem.split(";")[0].split(":")[0] for problem in problems] == [
        f"no images in ant of {tree / 'train'}",
        f"no images in bee of {tree / 'val'}",
        f"{tree / 'train'} and {tree / 'val'} do not hold the same classes",
    ]
    with pytest.raises(DataError) as error:
        find_splits(tree)
    assert str(error.value) == "\n".join(problems)


def test_val_without_a_class_keeps_the_numbers_of_train_where_that_is_allowed(tree):
    (tree / "val" / "cat").rename(tree / "old")
    with pytest.raises(DataError, match="--allow-missing-val-classes"):
        find_splits(tree)
    train, val = find_splits(tree, allow_missing_val_classes=True)
    assert val.classes == train.classes == ("cat", "dog")
    assert listed(val) == [("dog/000.JPEG", 1), ("dog/001.png", 1)]
    (tree / "val" / "cat").mkdir()  # as good as missing
    assert find_splits(tree, allow_missing_val_classes=True)[1].targets.tolist() == [1, 1]
    (tree / "val" / "dog").rename(tree / "val" / "mouse")
    with pytest.raises(DataError, match="only in val/: mouse") as error:
        find_splits(tree, allow_missing_val_classes=True)
    assert "--allow" not in str(error.value)


def test_what_is_passed_over_is_counted_by_kind(tree):
    for path in (
        *("train/cat/a.txt", "train/cat/b.TXT", "val/dog/c.txt", "train/cat/sub/README"),
        *("train/.x/1.jpg", "val/cat/._1.jpg", "train/stray.jpg"),
    ):
        touch(tree / path)
    train, val = find_splits(tree)
    assert describe_ignored(train, val).startswith("3 .txt (train/cat/a.txt), 2 hidden (")
    assert sorted(describe_ignored(train, val).split(", ")) == [
        "1 outside the class folders (train/stray.jpg)",
        "1 without an extension (train/cat/sub/README)",
        "2 hidden (train/.x)",
        "3 .txt (train/cat/a.txt)",
    ]
    assert "hidden" not in describe_ignored(train, val, hidden=False)
    assert sorted(describe_ignored(val).split(", ")) == [
        "1 .txt (val/dog/c.txt)",
        "1 hidden (val/cat/._1.jpg)",
    ]
    assert describe_ignored() == ""


def test_images_are_left_out_by_their_place(tree):
    train, val = find_splits(tree)
    gone = {"train/cat/001.png": "", "val/dog/000.JPEG": "", "train/cat/was never there.jpg": ""}
    assert [relative for relative, _ in listed(train.without(gone))] == [
        *("cat/000.JPEG", "cat/002.JPEG", "dog/000.JPEG", "dog/001.png", "dog/002.JPEG")
    ]
    assert train.without(gone).targets.tolist() == [0, 0, 1, 1, 1]
    assert val.without(gone).targets.tolist() == [0, 0, 1]
    assert [train.path_in_root(i) for i in (0, 5)] == ["train/cat/000.JPEG", "train/dog/002.JPEG"]
    with pytest.raises(DataError, match=f"no image can be decoded in dog of {tree / 'val'}"):
        val.without({f"val/dog/{name}": "" for name in ("000.JPEG", "001.png")})


@needs_any_name
def test_places_of_any_name_can_be_left_out(tree):
    touch(tree / "train" / "cat" / os.fsdecode(b"\xff\n.jpg"))
    train = find_images(tree / "train")
    place = f"train/cat/{os.fsdecode(bytes([255, 10]))}.jpg"
    assert place in [train.path_in_root(i) for i in range(len(train))]
    assert len(train.without({place: ""})) == len(train) - 1


def test_a_fingerprint_does_not_depend_on_where_the_data_lie_or_when_they_were_written(
    make_folder, tmp_path
):
    one, other = (make_folder(tmp_path / name, train=3, val=2) for name in ("one", "other"))
    os.utime(other / "train" / "class_00" / "000.JPEG", ns=(0, 1))
    assert fingerprint(*find_splits(one)) == fingerprint(*find_splits(other))
    assert fingerprint(find_splits(one)[0]) != fingerprint(find_splits(one)[1])


def test_a_fingerprint_does_not_depend_on_the_room_for_names(tree):
    train, _ = find_splits(tree)
    roomy = dataclasses.replace(train, files=train.files.astype("S300"))
    assert fingerprint(roomy) == fingerprint(train)


def test_names_that_differ_in_case_only_are_found():
    assert case_collisions(["Cat", "ant", "cat", "CAT", "bee"]) == ["Cat and cat and CAT"]
    assert case_collisions(["cat", "ant"]) == []


def test_a_text_is_made_one_line():
    assert escape_line("a\nb\x1b[2J\u202ec") == r"a\nb\x1b[2J\u202ec"


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_class_that_is_a_link_to_a_folder_around_it_is_refused(tree):
    for target in (tree / "train", tree, "."):
        link = tree / "train" / "loop"
        link.symlink_to(target)
        with pytest.raises(DataError, match=f"{link} is a link to a folder that contains it"):
            find_splits(tree)
        link.unlink()


def test_files_are_taken_as_they_are_named_and_folders_are_searched(tmp_path):
    for name in ("b/2.png", "b/a/1.JPEG", "a.webp", "c.txt", ".hidden/3.png", "b/.4.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = ["a.webp", "b/2.png", "b/a/1.JPEG"]
    assert find_inference_images([tmp_path]) == [tmp_path / name for name in found]
    places = [tmp_path / "c.txt", tmp_path / "b" / "a", tmp_path / "c.txt"]
    assert find_inference_images(places) == [places[0], tmp_path / "b/a/1.JPEG", places[2]]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("nowhere", "nowhere: no such image or folder"),
        ("empty", "empty contains no images"),
        ("n" * 300, "File name too long"),
        ("pipe", "pipe: no such image or folder"),
    ],
)
def test_what_is_no_image_and_no_folder_is_named(tmp_path, place, words):
    (tmp_path / "empty").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=words):
        find_inference_images([tmp_path / place])


def test_links_to_folders_around_them_are_not_followed(tmp_path):
    (tmp_path / "1.png").touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    assert find_inference_images([tmp_path]) == [tmp_path / "1.png"]
