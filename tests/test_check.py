import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.packs import DATA, damaged_jpeg, jpeg

posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals")


@pytest.fixture
def check(cli, data):
    return lambda *args: cli("check", "--data-root", DATA, *args)


def test_a_clean_folder_is_one_line_and_0(check, cli):
    assert check() == 0, cli.err
    assert cli.out == "Decoded 33 of 33 images in data: no problems found\n"
    assert cli.err == ""


def test_every_broken_image_is_listed_with_path_and_reason(check, cli):
    broken = [DATA / "train" / "class_01" / f"broken{number:02d}.jpg" for number in range(30)]
    broken += [DATA / "val" / "class_02" / "broken.jpg"]
    for path in broken:
        path.write_bytes(b"<html>")
    assert check() == 4
    lines = cli.out.splitlines()
    assert lines[0] == "31 image(s) that cannot be decoded:"
    assert lines[1:32] == [f"  {path}: not an image" for path in broken]
    assert lines[32] == "Decoded 33 of 64 images in data"
    assert cli.says("31 image(s) that cannot be decoded, listed above")
    assert cli.says("--skip-bad")


def test_damage_that_only_decoding_finds_is_found(check, cli):
    path = DATA / "train" / "class_01" / "001.png"
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + content[half + 9 :])
    assert check() == 4
    assert f"  {path}: " in cli.out


def test_damage_that_can_be_decoded_is_told_and_no_error(check, cli):
    path = DATA / "val" / "class_02" / "000.JPEG"
    path.write_bytes(damaged_jpeg())
    assert check() == 0
    assert "1 damaged image(s) that can be decoded:" in cli.out
    assert f"  {path}: " in cli.out


def test_a_problem_of_the_folders_does_not_keep_images_from_being_checked(check, cli):
    (DATA / "train" / "empty").mkdir()
    (DATA / "val" / "class_02").rename(DATA / "val" / "Class_02")
    path = DATA / "val" / "Class_02" / "000.JPEG"
    path.write_bytes(b"")
    assert check() == 4
    for text in (
        *("no images in empty of data/train", "only in train/: class_02, empty"),
        *("only in val/: Class_02", "differing in case only: class_02 and Class_02"),
        *(f"  {path}: the file is empty", "Decoded 32 of 33 images"),
    ):
        assert text in cli.out
    assert cli.says("2 problem(s) with the folders and 1 image(s) that cannot be decoded")


def test_flat_images_are_told(check, cli):
    (DATA / "train").rename(DATA / "old")
    (DATA / "train").mkdir()
    (DATA / "train" / "1.jpg").write_bytes(jpeg())
    assert check() == 4
    assert "data/train has no class folders" in cli.out
    assert "1 outside the class folders" in cli.out


def test_a_missing_folder_is_explained_as_in_training(check, cli):
    (DATA / "val").rename(DATA / "old")
    assert check() == 4
    assert cli.says("it has no folder val/")


@posix
def test_classes_that_differ_in_case_only_are_told_and_no_error(check, cli):
    for split in ("train", "val"):
        (DATA / split / "Class_02").mkdir()
        (DATA / split / "Class_02" / "1.jpg").write_bytes(jpeg())
    if len(list((DATA / "train").iterdir())) < 4:
        pytest.skip("this system takes both names for one")
    assert check() == 0
    assert "differ only in case" in cli.out
    assert "  Class_02 and class_02" in cli.out


def test_ignored_files_are_counted(check, cli):
    for name in ("notes.txt", "more.TXT", ".hidden.jpg"):
        (DATA / "train" / "class_00" / name).write_bytes(b"x")
    assert check() == 0
    folder = "train/class_00"
    ignored = f"2 .txt ({folder}/more.TXT), 1 hidden ({folder}/.hidden.jpg)"
    assert f"Ignored files: {ignored}" in cli.out


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_how_far_it_came(tmp_path, number, code):
    for split in ("train", "val"):
        for name in ("a", "b"):
            folder = Path("data") / split / name
            folder.mkdir(parents=True)
            (folder / "0.jpg").write_bytes(jpeg(1000))
            for copy in range(1, 400):
                (folder / f"{copy}.jpg").hardlink_to(folder / "0.jpg")
    ready = tmp_path / "ready"
    code_of_child = (
        "import sys; from pathlib import Path; from imgnet_mini.commands import check as command\n"
        "scan = command.scan_images\n"
        f"command.scan_images = lambda *args: (Path({str(ready)!r}).touch(), scan(*args))[1]\n"
        "from imgnet_mini.cli import main; main(['check', '--data-root', 'data'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code_of_child], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not ready.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code, errors
    assert f"stopped by {number.name} after" in errors
    assert "of 1600 images" in errors
