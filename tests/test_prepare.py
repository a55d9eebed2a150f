import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from conftest import SMALL, squeezed
from helpers.packs import DATA, PACK, arrays, build, damaged_jpeg, jpeg, opened, siblings
from helpers.real_runs import RealRun
from imgnet_mini.data.pack.plan import ImagePacker

posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals and links")

TRAIN = DATA / "train" / "class_01" / "001.png"
VAL = DATA / "val" / "class_02" / "000.JPEG"
PARTIAL = Path("data/pack.partial")


@pytest.fixture
def prepare(cli, data):
    return lambda *args: cli("prepare", "--data-root", DATA, "--img-size", 32, *args)


def manifest(pack_dir=PACK):
    return json.loads((pack_dir / "manifest.json").read_text("utf-8"))


def tree(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in Path(folder).rglob("*")}


def test_progress_and_result_are_printed(prepare, cli):
    assert prepare() == 0, cli.err
    assert "Packing 24 training images at 48 px and 9 validation images at 32 px" in cli.out
    assert "into data/pack" in cli.out
    assert re.search(r"Wrote data/pack: 33 images, .* kB, in \d+ s \(\d+ images/s\)", cli.out)
    assert cli.err == ""
    opened()


def test_a_pack_that_is_up_to_date_is_left_unchanged(prepare, cli, pack):
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in PACK.iterdir()}
    assert prepare() == 0
    assert "up to date" in cli.out
    assert "Packing" not in cli.out
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in before} == before


@pytest.mark.parametrize("flags", [("--pack-size", 33), ("--img-size", 33)])
def test_other_sizes_make_another_pack(prepare, pack, flags):
    assert prepare(*flags) == 0
    assert manifest()[flags[0].strip("-").replace("-", "_")] == 33
    opened()
    assert siblings() == {"pack"}


@pytest.mark.parametrize("flags", [("--pack-size", 31), ("--pack-size", 2049), ("--img-size", 31)])
def test_settings_out_of_bounds_are_refused(prepare, cli, flags):
    assert prepare(*flags) == 2
    assert cli.says(flags[0])
    assert siblings() == set()


@pytest.mark.parametrize("flag", ["--batch-size", "--workers", "--loader", "--name", "--seed"])
def test_training_settings_are_no_options(prepare, cli, flag):
    assert prepare(flag, 1) == 2
    assert cli.says("No such option")


def test_settings_come_from_a_file_and_flags_win(prepare):
    Path("c.toml").write_text("[prepare]\npack_size = 50\n[data]\nskip_bad = true\n")
    TRAIN.write_bytes(b"")
    assert prepare("--config", "c.toml") == 0
    assert manifest()["pack_size"] == 50
    assert len(manifest()["skipped"]) == 1
    assert prepare("--config", "c.toml", "--pack-size", 60) == 0
    assert manifest()["pack_size"] == 60


def test_a_missing_data_root_suggests_the_demo(cli):
    assert cli("prepare", "--data-root", "nowhere") == 4
    assert cli.says("imgnet-mini demo")
    assert not Path("nowhere").exists()


def cut(path, size):
    content = jpeg()
    path.write_bytes(content[: len(content) // 2] if size == "half" else content[:-20])


@pytest.fixture
def broken(data):
    paths = [DATA / "train" / "class_01" / f"broken{n}.jpg" for n in range(4)]
    paths.append(DATA / "val" / "class_02" / "broken4.jpg")
    paths[0].write_bytes(b"")
    paths[1].write_bytes(b"<html>not found</html>")
    cut(paths[2], "half")
    cut(paths[4], "end")
    if os.name == "posix":
        paths[3].symlink_to("nowhere")
    else:
        cut(paths[3], "half")
    return paths


def test_all_broken_files_are_listed_and_no_pack_is_written(prepare, cli, broken):
    assert prepare() == 4
    problems = (PARTIAL / "problems.txt").read_text("utf-8").splitlines()
    assert len(problems) == 5
    for path, problem in zip(broken, problems, strict=True):
        assert path.relative_to(DATA).as_posix() in problem
        assert cli.says(problem)
    assert cli.says("5 file(s) in data cannot be decoded")
    assert cli.says(str(PARTIAL / "problems.txt"))
    assert cli.says("--skip-bad")
    assert not PACK.exists()


def test_skip_bad_continues_without_decoding_again_and_lists_the_files(
    prepare, cli, broken, monkeypatch
):
    assert prepare() == 4
    monkeypatch.setattr(ImagePacker, "__call__", lambda *_: pytest.fail("decoded again"))
    assert prepare("--skip-bad") == 0, cli.err
    assert len(manifest()["skipped"]) == 5
    assert "5 broken" in cli.out
    for path, problem in zip(broken, manifest()["skipped"], strict=True):
        assert path.relative_to(DATA).as_posix() in problem
        assert problem in cli.out
    assert siblings() == {"pack"}
    assert (len(opened().train.images), len(opened().val.images)) == (24, 9)


@pytest.mark.parametrize("content", [b"", b"<html>", jpeg()[:-20], jpeg()[: len(jpeg()) // 2]])
def test_broken_files_of_every_kind_are_left_out_and_the_rest_is_packed(prepare, content):
    VAL.write_bytes(content)
    assert prepare("--skip-bad") == 0
    assert np.load(PACK / "val_skipped.npy")["file"].tolist() == [b"class_02/000.JPEG"]
    assert manifest()["images"] == {"train": 24, "val": 8}


@posix
@pytest.mark.parametrize("path", [TRAIN, VAL])
def test_a_dangling_link_is_a_broken_file(prepare, cli, path):
    path.unlink()
    path.symlink_to("nowhere")
    assert prepare() == 4
    assert cli.says(path.relative_to(DATA).as_posix())
    assert cli.says("1 file(s) in data cannot be decoded")
    assert prepare("--skip-bad") == 0, cli.err
    assert path.relative_to(DATA).as_posix() in manifest()["skipped"][0]
    assert prepare("--skip-bad") == 0
    assert "up to date" in cli.out


def test_many_broken_files_are_counted_and_the_list_on_disk_is_complete(prepare, cli, data):
    for number in range(30):
        TRAIN.with_name(f"broken{number:02d}.jpg").write_bytes(b"")
    assert prepare() == 4
    assert cli.says("30 file(s) in data cannot be decoded")
    assert cli.says("broken09.jpg")
    assert not cli.says("broken10.jpg")
    assert len((PARTIAL / "problems.txt").read_text("utf-8").splitlines()) == 30
    assert prepare("--skip-bad") == 0
    assert "30 broken" in cli.out
    assert len(manifest()["skipped"]) == 30


def test_a_pack_with_skipped_files_is_refused_without_skip_bad(prepare, cli):
    TRAIN.write_bytes(b"")
    assert prepare("--skip-bad") == 0
    before = tree(PACK)
    assert prepare() == 4
    assert tree(PACK) == before
    assert prepare("--skip-bad") == 0
    assert "up to date" in cli.out


def test_skipping_all_images_of_a_class_is_refused_with_its_name(prepare, cli):
    for path in (DATA / "val" / "class_02").iterdir():
        path.write_bytes(b"")
    assert prepare("--skip-bad") == 4
    assert cli.says("class_02")
    assert not cli.says("class_01")
    assert cli.says("data/val")
    assert not PACK.exists()


def test_a_damaged_jpeg_that_can_be_decoded_is_packed_and_listed(prepare, cli):
    VAL.write_bytes(damaged_jpeg())
    assert prepare() == 0, cli.err
    assert "1 damaged image(s)" in cli.out
    assert "val/class_02/000.JPEG" in cli.out
    assert len(manifest()["suspect"]) == 1
    assert manifest()["skipped"] == []
    assert prepare() == 0
    assert "up to date" in cli.out


def test_a_repaired_file_is_packed(prepare, cli):
    content = TRAIN.read_bytes()
    TRAIN.write_bytes(b"")
    assert prepare() == 4
    TRAIN.write_bytes(content)
    assert prepare() == 0, cli.err
    assert manifest()["images"] == {"train": 24, "val": 9}


@posix
def test_file_names_with_control_characters_are_packed_and_escaped(prepare, cli):
    odd = TRAIN.with_name(os.fsdecode(b"\xff\x1b[2J\n" + b"x" * 240 + b".jpg"))
    odd.write_bytes(b"")
    also = TRAIN.with_name(os.fsdecode(b"\x1b]0;title\x07\xe9.JPEG"))
    also.write_bytes(damaged_jpeg())
    for folder in (DATA / "train", DATA / "val"):
        (folder / "class_02").rename(folder / os.fsdecode(b"caf\xe9\x1b[31m"))
    assert prepare() == 4
    for text in (cli.err, (PARTIAL / "problems.txt").read_text("utf-8")):
        assert all(char.isprintable() or char == "\n" for char in text)
    assert prepare("--skip-bad") == 0
    assert all(char.isprintable() or char == "\n" for char in cli.out)
    assert len(manifest()["skipped"]) == len(manifest()["suspect"]) == 1
    odd.unlink()
    assert cli("train", *SMALL, "--loader", "pack") == 4
    assert all(char.isprintable() or char == "\n" for char in cli.err)
    assert cli.says("1 removed")


def test_a_problem_takes_one_line_even_if_the_name_has_a_newline(prepare):
    for name in ("a\nb.jpg", "c\nd.jpg"):
        TRAIN.with_name(name).write_bytes(b"")
    assert prepare() == 4
    assert len((PARTIAL / "problems.txt").read_text("utf-8").splitlines()) == 2


@pytest.mark.parametrize("inside", ["notes.txt", "manifest.json/x", "sub/manifest.json", ".hidden"])
def test_a_folder_with_other_files_is_refused_and_not_touched(prepare, cli, inside):
    path = Path("mine") / inside
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    before = tree("mine")
    assert prepare("--pack-dir", "mine") == 2
    assert cli.says("--pack-dir mine")
    assert tree("mine") == before


def test_a_file_as_pack_dir_is_refused(prepare, cli):
    Path("mine").write_text("mine")
    assert prepare("--pack-dir", "mine") == 2
    assert cli.says("--pack-dir mine")
    assert Path("mine").read_text() == "mine"


def test_a_folder_with_a_foreign_manifest_is_not_replaced(prepare):
    Path("mine").mkdir()
    Path("mine/manifest.json").write_text('{"name": "mine"}')
    assert prepare("--pack-dir", "mine") == 2
    assert Path("mine/manifest.json").read_text() == '{"name": "mine"}'


def test_a_pack_with_a_foreign_file_in_it_is_left_unchanged(prepare, cli, pack):
    (PACK / "notes.txt").write_text("mine")
    before = tree(PACK)
    assert prepare("--pack-size", 33) == 2
    assert cli.says("notes.txt")
    assert tree(PACK) == before


def test_an_empty_folder_is_used(prepare):
    Path("elsewhere").mkdir()
    assert prepare("--pack-dir", "elsewhere") == 0
    opened(Path("elsewhere"))


@pytest.mark.parametrize("name", [".", "..", "x" * 300, "y" * 250])
def test_an_impossible_folder_name_is_refused(prepare, cli, monkeypatch, name):
    images = DATA.absolute()
    Path("a/b").mkdir(parents=True)
    monkeypatch.chdir("a/b")
    code = cli("prepare", "--data-root", images, "--pack-dir", name)
    assert code in (2, 5)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_pack_inside_a_split_is_refused(prepare, split):
    before = tree(DATA)
    assert prepare("--pack-dir", DATA / split / "pack") == 2
    assert tree(DATA) == before


def test_a_read_only_data_folder_suggests_pack_dir(prepare, cli, monkeypatch):
    mkdir = Path.mkdir

    def read_only(self, *args, **settings):
        if self.absolute().is_relative_to(DATA.absolute()):
            raise OSError(30, os.strerror(30), str(self))
        mkdir(self, *args, **settings)

    monkeypatch.setattr(Path, "mkdir", read_only)
    assert prepare() == 5
    assert cli.says("--pack-dir")
    assert cli.says(os.strerror(30))
    assert prepare("--pack-dir", "elsewhere/pack") == 0, cli.err
    opened(Path("elsewhere/pack"))
    assert cli("train", *SMALL, "--epochs", 1, "--pack-dir", "elsewhere/pack") == 0, cli.err
    assert siblings() == set()
    assert [path.name for path in Path("elsewhere").iterdir()] == ["pack"]


def test_a_full_disk_is_reported_with_needed_and_free_space(prepare, cli, monkeypatch):
    usage = shutil._ntuple_diskusage(2**40, 2**39, 2**26)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert prepare("--pack-size", 2048) == 5
    assert cli.says("302.0 MB")
    assert cli.says("67.1 MB free")
    assert cli.says("--pack-size")
    assert not PACK.exists()


def test_a_second_process_is_refused(prepare, cli):
    with FileLock(".data.lock"), FileLock(DATA / ".pack.partial.lock"):
        assert prepare() == 3
    assert cli.says("another prepare")
    assert prepare() == 0
    assert siblings() == {"pack"}


def add(image):
    image.with_name("new.png").write_bytes(image.read_bytes())


def remove(image):
    image.unlink()


def touch(image):
    os.utime(image, ns=(0, 1))


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("change", [add, remove, touch], ids=lambda change: change.__name__)
def test_an_outdated_pack_is_rebuilt(prepare, cli, pack, split, change):
    change(DATA / split / "class_01" / "001.png")
    assert prepare() == 0
    assert "Packing" in cli.out
    assert siblings() == {"pack"}
    opened()
    build(Path("whole"))
    assert arrays() == arrays(Path("whole"))


def truncated(path):
    os.truncate(path, path.stat().st_size // 2)


def garbage(path):
    path.write_bytes(b"\x00garbage")


def floats(path):
    with path.open("wb") as file:
        np.save(file, np.zeros((3, 3), np.float32))


@pytest.mark.parametrize(
    "name", ["manifest.json", "classes.npy", "train_images.npy", "val_index.npy"]
)
@pytest.mark.parametrize("damage", [truncated, garbage, floats, Path.unlink])
def test_a_damaged_pack_is_rebuilt(prepare, cli, pack, name, damage):
    before = arrays()
    damage(PACK / name)
    assert prepare() == 0, cli.err
    assert arrays() == before
    opened()


def test_a_pack_of_another_format_is_rebuilt(prepare, cli, pack):
    (PACK / "manifest.json").write_text(json.dumps(manifest() | {"format": 99}))
    assert cli("train", *SMALL, "--loader", "pack") == 4
    assert cli.says("format 99")
    assert prepare() == 0
    assert manifest()["format"] == 1


def pack_slowly():
    """Take 50 ms more for each image, in the process of a test."""
    pack = ImagePacker.__call__

    def slow(self, path):
        time.sleep(0.05)
        return pack(self, path)

    ImagePacker.__call__ = slow


def start():
    """Start a build in another process; return once it has packed some images."""
    words = ("prepare", "--data-root", DATA, "--img-size", 32)
    process = RealRun(Path.cwd(), words, before=pack_slowly)
    pixels = PARTIAL / "train_images.npy"
    process.wait_for(lambda: pixels.exists() and pixels.stat().st_size > 3 * 3 * 48**2)
    return process


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_it_and_the_same_command_continues(prepare, cli, pack_once, number, code):
    process = start()
    process.send(number)
    assert process.wait() == code
    text = process.log.read_text("utf-8")
    assert "Traceback" not in text
    done = int(re.search(rf"stoppedby{number.name}after(\d+)of33images", squeezed(text))[1])
    assert 0 < done < 33
    assert not PACK.exists()
    rows = json.loads((PARTIAL / "progress.json").read_text())["rows"]
    assert rows["train_index.npy"] + rows["val_index.npy"] == done

    assert prepare() == 0, cli.err
    assert opened().manifest.id == pack_once.id
    build(Path("undisturbed"))
    assert arrays() == arrays(Path("undisturbed"))
    assert siblings() == {"pack"}


@posix
def test_two_processes_do_not_build_one_pack_together(prepare, cli):
    process = start()
    process.send(signal.SIGSTOP)
    assert prepare() == 3
    process.send(signal.SIGCONT)
    assert process.wait() == 0, process.log.read_text("utf-8")
    opened()
    assert siblings() == {"pack"}
