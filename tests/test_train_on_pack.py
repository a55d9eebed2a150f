import json
import os
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from conftest import SMALL
from helpers.packs import DATA, PACK
from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.runs.records import read_csv

TRAIN = DATA / "train" / "class_01" / "001.png"
VAL = DATA / "val" / "class_02" / "000.JPEG"
SHORT = (*SMALL, "--epochs", 1, "--batch-size", 4)


@pytest.fixture
def prepare(cli, data):
    return lambda *args: cli("prepare", "--data-root", DATA, "--img-size", 32, *args)


def weights(name):
    return torch.load(f"checkpoints/{name}/checkpoint.pth", weights_only=True)["model"]


def assert_same_weights(one, other):
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def manifest():
    return json.loads((PACK / "manifest.json").read_text("utf-8"))


def metrics():
    """What an evaluation has found, but for its speed."""
    found = json.loads(Path("reports/a/metrics.json").read_text("utf-8"))
    return found | {"imgs_per_sec": 0, "seconds": 0}, Path("reports/a/predictions.csv").read_text()


def remove(image):
    image.unlink()


def touch(image):
    os.utime(image, ns=(0, 1))


def test_training_on_a_pack_says_so_and_records_it(prepare, cli):
    for path in (TRAIN, VAL):
        path.write_bytes(b"")
    assert prepare("--skip-bad") == 0
    assert cli("train", *SHORT, "--name", "a") == 0, cli.err
    assert "(pack of 48 px)" in cli.out
    assert "23 training and 8 validation images" in cli.out
    assert RunConfig.read(Path("out/a/config.toml")).data.loader == "pack"
    environment = json.loads(Path("out/a/environment.json").read_text("utf-8"))
    assert environment["loader"] == "pack of 48 px"
    assert environment["skipped"] == manifest()["skipped"]
    assert (environment["train_images"], environment["val_images"]) == (23, 8)


def test_training_on_files_records_that(cli, data):
    assert cli("train", *SHORT, "--name", "a") == 0, cli.err
    assert "(image files)" in cli.out
    assert RunConfig.read(Path("out/a/config.toml")).data.loader == "folder"
    environment = json.loads(Path("out/a/environment.json").read_text("utf-8"))
    assert environment["loader"] == "image files"
    assert environment["skipped"] == []


@pytest.mark.parametrize("flags", [(), ("--use-class-style-aug", "--workers", 2)], ids=len)
def test_where_all_images_are_the_packs_squares_the_run_is_that_on_files_bit_by_bit(
    prepare, cli, flags
):
    for path in DATA.rglob("*.*"):
        with Image.open(path) as image:
            square = image.resize((36, 36))
        square.save(path, "PNG")
    assert prepare() == 0
    assert manifest()["pack_size"] == 36
    for name in ("pack", "folder"):
        code = cli("train", *SHORT, "--name", name, "--epochs", 2, "--loader", name, *flags)
        assert code == 0, cli.err
    assert_same_weights("pack", "folder")
    ours, theirs = (read_csv(Path(f"out/{name}/train_log.csv")) for name in ("pack", "folder"))
    assert [(r.loss, r.top1) for r in ours] == [(r.loss, r.top1) for r in theirs]


@pytest.mark.parametrize("change", [remove, touch], ids=lambda change: change.__name__)
def test_a_stale_pack_is_told_in_training_and_the_files_are_used(prepare, cli, change):
    assert prepare() == 0
    change(TRAIN)
    assert cli("train", *SHORT, "--name", "b", "--loader", "pack") == 4
    for words in ("data/pack is out of date", "first: class_01/001.png", "imgnet-mini prepare"):
        assert cli.says(words)
    assert not Path("out").exists()
    assert cli("train", *SHORT, "--name", "a") == 0, cli.err
    assert "Note: the pack in data/pack is out of date" in cli.out
    assert "(image files)" in cli.out
    assert cli("train", *SHORT, "--name", "c", "--loader", "folder") == 0
    assert "Note" not in cli.out
    assert_same_weights("a", "c")
    assert prepare() == 0
    assert cli("train", *SHORT, "--name", "d") == 0
    assert "Note" not in cli.out
    assert "(pack of 48 px)" in cli.out


@pytest.mark.parametrize("name", ["train_images.npy", "val_index.npy", "manifest.json"])
def test_a_damaged_pack_is_told_in_training_and_the_files_are_used(prepare, cli, name):
    assert prepare() == 0
    os.truncate(PACK / name, (PACK / name).stat().st_size // 2)
    assert cli("train", *SHORT, "--name", "b", "--loader", "pack") == 4
    assert cli.says(str(PACK / name))
    assert cli("train", *SHORT, "--name", "a") == 0, cli.err
    assert str(PACK / name) in cli.out
    assert "(image files)" in cli.out


def test_a_pack_that_was_asked_for_and_is_not_there_names_the_cure(data, cli):
    assert cli("train", *SHORT, "--loader", "pack") == 4
    assert cli.says("no pack in data/pack; make one with imgnet-mini prepare")
    assert not Path("out").exists()


def test_training_on_a_pack_for_another_size_validates_as_on_files(prepare, cli):
    assert prepare("--img-size", 40, "--pack-size", 48) == 0
    assert cli("train", *SHORT, "--name", "a") == 0, cli.err
    assert "(pack of 48 px)" in cli.out
    assert cli("evaluate", "--name", "a") == 0, cli.err
    ours = metrics()
    shutil.rmtree(PACK)
    assert cli("evaluate", "--name", "a") == 0, cli.err
    assert metrics() == ours


@pytest.mark.parametrize("state", ["removed", "stale", "damaged"])
def test_evaluation_without_the_pack_is_the_same_from_the_files(prepare, cli, state):
    assert prepare() == 0
    assert cli("train", *SHORT, "--name", "a") == 0, cli.err
    assert cli("evaluate", "--name", "a") == 0, cli.err
    ours = metrics()
    if state == "removed":
        shutil.rmtree(PACK)
    elif state == "stale":
        touch(TRAIN)
    else:
        (PACK / "val_images.npy").unlink()
    assert cli("evaluate", "--name", "a") == 0, cli.err
    assert metrics() == ours


def forget_contents():
    """Make the pack one of version 0.2.0, which has no hashes to compare the files with."""
    for path in PACK.glob("*_source.npy"):
        path.unlink()


def test_an_evaluation_on_the_pack_does_not_open_the_files(prepare, cli):
    assert prepare() == 0
    forget_contents()
    assert cli("train", *SHORT, "--name", "a") == 0, cli.err
    assert cli("evaluate", "--name", "a") == 0
    ours = metrics()
    for path in DATA.glob("val/*/*"):
        stat = path.stat()
        path.write_bytes(bytes(stat.st_size))
        os.utime(path, ns=(0, stat.st_mtime_ns))
    assert cli("evaluate", "--name", "a", "--loader", "pack") == 0, cli.err
    assert metrics() == ours


def test_the_learning_rate_is_searched_on_the_pack_too(prepare, cli):
    assert prepare() == 0
    forget_contents()
    for path in DATA.glob("*/*/*"):
        stat = path.stat()
        path.write_bytes(bytes(stat.st_size))
        os.utime(path, ns=(0, stat.st_mtime_ns))
    options = [*SMALL[: SMALL.index("--epochs")], "--end-lr", 50, "--num-iter", 30]
    options += ["--trials", 2, "--trial-steps", 20]
    assert cli("find-lr", *options) == 0, cli.err
    assert len(list(Path("lr_finder_plots").glob("*.png"))) == 1
    shutil.rmtree(PACK)
    assert cli("find-lr", *options, "--loader", "pack") == 4
    assert cli.says("no pack in data/pack")


@pytest.mark.parametrize("packed", [True, False])
def test_a_pack_is_asked_onto_a_gpu_only_where_both_are_there(run_small, cli, packed):
    if packed:
        assert cli("prepare", "--data-root", "data", "--img-size", 32) == 0, cli.err
    assert run_small("train", "--device", "cpu", "--pack-on-device", "on") == 2
    assert cli.says("requires CUDA" if packed else "imgnet-mini prepare")
    assert not Path("checkpoints").exists()


def test_files_the_run_went_without_are_in_its_report_and_its_readme(prepare, run_small, cli):
    TRAIN.write_bytes(b"")
    assert prepare("--skip-bad") == 0, cli.err
    assert run_small("train", "--epochs", 2, "--name", "a") == 0, cli.err
    assert cli("report", "--name", "a", "--workers", 0) == 0, cli.err
    assert "1 broken image file(s) were skipped" in cli.out
    (problem,) = Path("reports/a/skipped_images.txt").read_text("utf-8").splitlines()
    assert "train/class_01/001.png" in problem
    assert cli("readme", "--name", "a") == 0, cli.err
    block = Path("README.md").read_text("utf-8")
    assert "<summary>1 broken image file skipped</summary>" in block
    assert problem in block


def test_the_command_that_makes_a_pack_works_when_pasted(run_small, cli, data):
    data.rename("my data")
    asked = ("train", "--name", "a", "--epochs", 1, "--data-root", "my data", "--loader", "pack")
    assert run_small(*asked) == 4
    command = shlex.split(cli.err.splitlines()[-1])
    assert command[:4] == ["imgnet-mini", "prepare", "--data-root", "my data"]
    assert cli(*command[1:]) == 0, cli.err
    assert run_small(*asked) == 0, cli.err
