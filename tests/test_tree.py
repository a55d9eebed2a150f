"""Data sets one folder too deep, and data sets without train/."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from conftest import SMALL
from imgnet_mini.data.layout import find_data_root
from imgnet_mini.data.tree import describe_folders, find_splits, find_val
from imgnet_mini.errors import DataError

DATA = Path("data")


@pytest.mark.parametrize("inner", ["data", "imagenet-mini", "ILSVRC/Data/CLS-LOC"])
def test_a_data_set_one_folder_too_deep_is_found(make_folder, inner):
    make_folder(DATA / inner)
    (DATA / "pack").mkdir()
    (DATA / ".hidden" / "x").mkdir(parents=True)
    assert find_data_root(DATA) == DATA / inner
    train, val = find_splits(DATA)
    assert (train.root, val.root) == (DATA / inner / "train", DATA / inner / "val")


def test_several_data_sets_in_a_folder_are_named(make_folder):
    for name in ("a", "b"):
        make_folder(DATA / name)
    with pytest.raises(DataError, match=r"holds several data sets: .* data/a, data/b with --data"):
        find_splits(DATA)


@pytest.mark.parametrize("missing", ["train", "val"])
def test_half_a_data_set_is_not_completed_by_another_one(make_folder, missing):
    make_folder(DATA)
    make_folder(DATA / "other")
    shutil.rmtree(DATA / missing)
    with pytest.raises(DataError, match=f"it has no folder {missing}/"):
        find_splits(DATA)


def test_a_folder_of_many_classes_is_not_searched(make_folder):
    for number in range(51):
        make_folder(DATA / f"{number}", train=1, val=1, classes=1)
    with pytest.raises(DataError, match="it has no folder train/"):
        find_splits(DATA)


@pytest.mark.parametrize("command", ["train", "check", "prepare", "evaluate"])
def test_each_command_names_the_folder_that_it_found(run_small, cli, command):
    if command == "evaluate":
        assert run_small("train", "--epochs", 1) == 0
    Path("data").rename("inner")
    Path("data").mkdir()
    Path("inner").rename("data/inner")
    short = {
        "train": (*SMALL, "--epochs", 1),
        "check": ("--data-root", "data"),
        "prepare": ("--data-root", "data", "--img-size", 32),
        "evaluate": (),
    }
    assert cli(command, *short[command]) == 0, cli.err
    assert "Note: the images of data are in data/inner" in cli.out


def test_the_classes_of_a_checkpoint_number_those_of_val(make_folder):
    make_folder(DATA, classes=["b", "c"])
    shutil.rmtree(DATA / "train")
    train, val = find_val(DATA, ["a", "b", "c"], allow_missing_val_classes=True)
    assert (len(train), train.classes, val.classes) == (0, ("a", "b", "c"), ("a", "b", "c"))
    assert np.unique(val.targets).tolist() == [1, 2]
    with pytest.raises(
        DataError, match=r"only in the checkpoint: a\n.*\n.*--allow-missing-val"
    ) as error:
        find_val(DATA, ["a", "b", "c"], allow_missing_val_classes=False)
    assert "the checkpoint and data/val do not hold the same classes" in str(error.value)
    with pytest.raises(DataError, match="only in val/: c"):
        find_val(DATA, ["a", "b"], allow_missing_val_classes=True)
    assert find_val(DATA, None, allow_missing_val_classes=False)[1].classes == ("b", "c")


def test_a_checkpoint_is_evaluated_on_val_alone(run_small, cli):
    assert run_small("train", "--name", "a", "--epochs", 1) == 0
    assert cli("evaluate", "--name", "a") == 0
    path = Path("reports/a/metrics.json")
    before = json.loads(path.read_text())
    Path("elsewhere").mkdir()
    shutil.copytree("data/val", "elsewhere/data/val")
    shutil.rmtree("data/train")
    for root in ("data", "elsewhere"):
        assert cli("evaluate", "--name", "a", "--data-root", root) == 0, cli.err
        again = json.loads(path.read_text())
        for name in ("top1", "top5", "loss", "images", "classes"):
            assert again[name] == before[name]
    assert "Note: the images of elsewhere are in elsewhere/data" in cli.out
    assert run_small("train", "--name", "b") == 4
    assert cli.says("it has no folder train/")


@pytest.mark.parametrize("name", ["valid", "validation", "Valid", "test", "Testing"])
def test_other_names_of_the_validation_folder_are_taken_and_named(make_folder, name):
    make_folder(DATA)
    (DATA / "val").rename(DATA / name)
    splits = find_splits(DATA)
    assert (len(splits[1]), splits[1].data_root) == (6, DATA)
    note, *advice = describe_folders(DATA, *splits)
    assert note == f"Note: data/{name} is taken as val/"
    assert bool(advice) == name.lower().startswith("test")


def test_each_command_takes_test_images_for_validation(run_small, cli):
    Path("data/val").rename("data/test")
    assert run_small("train", "--epochs", 1) == 0, cli.err
    assert "Note: data/test is taken as val/" in cli.out
    assert "to keep them for a final test" in cli.out
    assert cli("report") == 0, cli.err
    assert "cannot be read" not in cli.out
    assert cli("prepare", "--data-root", "data", "--img-size", 32) == 0, cli.err
    assert "Note: data/test is taken as val/" in cli.out


def test_val_comes_before_other_names(make_folder):
    make_folder(DATA)
    for name in ("valid", "test"):
        shutil.copytree(DATA / "val", DATA / name)
    assert find_splits(DATA)[1].root == DATA / "val"
    shutil.rmtree(DATA / "val")
    assert find_splits(DATA)[1].root == DATA / "valid"
    (DATA / "train").rename(DATA / "Training")
    assert find_splits(DATA)[0].root == DATA / "Training"


def test_test_images_without_classes_are_no_validation_images(make_folder):
    make_folder(DATA)
    shutil.rmtree(DATA / "val")
    (DATA / "test").mkdir()
    shutil.copy(next((DATA / "train").rglob("*.png")), DATA / "test")
    with pytest.raises(DataError, match="it has no folder val/"):
        find_splits(DATA)


def test_broken_images_of_another_name_are_left_out_of_the_pack_too(run_small, cli):
    Path("data/val").rename("data/valid")
    Path("data/valid/class_00/000.JPEG").write_bytes(b"")
    prepare = ("prepare", "--data-root", "data", "--img-size", 32, "--skip-bad")
    assert run_small("train", "--name", "a", "--epochs", 1, "--skip-bad") == 0, cli.err
    assert cli(*prepare) == 0, cli.err
    assert run_small("train", "--name", "b", "--epochs", 1, "--loader", "pack") == 0, cli.err
    assert "1 broken image file(s) left out, 0 of train/ and 1 of valid/" in cli.out
