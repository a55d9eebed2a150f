"""Links, helper folders, hidden names and odd endings, in training, check and predict alike."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from helpers.packs import jpeg
from imgnet_mini.data.folder import describe_ignored, find_images, find_inference_images
from imgnet_mini.data.walk import LeftOut, walk_images

posix = pytest.mark.skipif(os.name != "posix", reason="links need a privilege on Windows")
ROOT = Path("train")


def write(path, content=b"x"):
    path = ROOT / path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def found():
    """Names of the images, as predict finds them too, and what is left out."""
    images = find_images(ROOT)
    names = [images.relative_path(index) for index in range(len(images))]
    if names:
        assert find_inference_images([ROOT]) == [ROOT / name for name in sorted(names)]
    return names, describe_ignored(images)


@pytest.mark.parametrize("name", ["0.jfif", "0.JPE", "0.pgm", "0.pnm", "0.apng"])
def test_odd_endings_of_image_formats_are_read(name):
    write(f"cat/{name}")
    assert found() == ([f"cat/{name}"], "")


@pytest.mark.parametrize("name", ["photo", "0.jpg_large", "0.img", "photo.com"])
def test_other_endings_are_decided_by_content(name):
    write(f"cat/{name}", jpeg())
    assert found() == ([f"cat/{name}"], "")
    write(f"cat/{name}", b"no image")
    kind = Path(name).suffix or "without an extension"
    assert found() == ([], f"1 {kind} (train/cat/{name})")


@pytest.mark.parametrize("name", ["0.jpg.part", "0.jpg~", "0.jpg.bak", "0.txt"])
def test_unfinished_and_earlier_copies_are_left_out(name):
    write(f"cat/{name}", jpeg())
    assert found()[0] == []
    assert f"train/cat/{name}" in found()[1]


def test_raw_photographs_which_begin_as_tiff_are_left_out():
    path = write("cat/0.nef")
    Image.new("RGB", (8, 8)).save(path, "TIFF")
    assert found() == ([], "1 .nef (train/cat/0.nef)")


def test_hidden_images_are_left_out_and_told_from_other_hidden_files():
    write("cat/.0.jpg", jpeg())
    write("cat/.DS_Store")
    write("cat/._0.jpg", b"\0\5\x16\7")
    assert found() == ([], "2 hidden (train/cat/.DS_Store), 1 hidden image (train/cat/.0.jpg)")
    assert describe_ignored(find_images(ROOT), hidden=False) == "1 hidden image (train/cat/.0.jpg)"


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", "lost+found"])
def test_helper_folders_are_no_classes_and_hold_no_images(name):
    write("cat/0.jpg", jpeg())
    write(f"cat/{name}/0.jpg", jpeg())
    write(f"{name}/0.jpg", jpeg())
    images = find_images(ROOT)
    assert (images.classes, images.files.tolist()) == (("cat",), [b"cat/0.jpg"])
    assert describe_ignored(images) == f"2 helper folder (train/{min(name, f'cat/{name}')})"


@posix
def test_links_to_folders_are_followed():
    write("cat/0.jpg")
    write("../elsewhere/deep/1.jpg")
    (ROOT / "cat/linked").symlink_to(Path("elsewhere").resolve(), target_is_directory=True)
    assert found() == (["cat/0.jpg", "cat/linked/deep/1.jpg"], "")
    (ROOT / "cat/broken").symlink_to("nowhere")
    assert found()[1] == "1 broken link (train/cat/broken)"


@posix
def test_links_that_lead_back_are_left_out_whatever_their_way():
    for name in ("a", "b"):
        write(f"cat/{name}/0.jpg")
    (ROOT / "cat/a/b").symlink_to("../b")
    (ROOT / "cat/b/a").symlink_to("../a")
    (ROOT / "cat/b/here").symlink_to(".")
    (ROOT / "cat/up").symlink_to("..")
    left_out = LeftOut()
    names = sorted(walk_images(ROOT, "cat/", left_out))
    assert names == ["cat/a/0.jpg", "cat/a/b/0.jpg", "cat/b/0.jpg", "cat/b/a/0.jpg"]
    assert left_out.kinds == {"link to a folder around it": (5, "cat/a/b/a")}


def test_predict_names_what_it_leaves_out(copy_run, cli, tmp_path):
    copy_run(tmp_path, "--epochs", 1)
    folder = Path("holiday")
    shutil.copytree("data/val/class_00", folder)
    (folder / "photo").write_bytes(jpeg())
    (folder / ".x.jpg").write_bytes(jpeg())
    (folder / "notes.txt").write_bytes(b"x")
    assert cli("predict", folder, "--name", "a", "--json") == 0, cli.err
    assert "holiday/photo" in cli.out
    assert cli.says("Note: ignored files: 1 hidden image (holiday/.x.jpg), 1 .txt (holiday/notes")
