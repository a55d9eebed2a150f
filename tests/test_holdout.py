"""`--val-split`: validation images that are held out of the training images."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import StratifiedShuffleSplit

from conftest import SMALL
from imgnet_mini.checkpoint.reader import load_tensors
from imgnet_mini.config.data_settings import HoldOut
from imgnet_mini.data.holdout import choose_held_out
from imgnet_mini.data.splits import ImageSplits
from imgnet_mini.data.tree import find_splits
from imgnet_mini.errors import DataError
from imgnet_mini.training.same_images import Listing

FIFTH = HoldOut(val_split=0.2)
ONE_EPOCH = ("--epochs", 1, "--batch-size", 4)


def names(split):
    return [split.relative_path(index) for index in range(len(split))]


def choose(counts, settings):
    classes = list(counts)
    files = [f"{name}/{i:04d}.jpg".encode() for name in classes for i in range(counts[name])]
    held_out = choose_held_out(files, classes, [*counts.values()], settings)
    return [file.decode() for file, is_held in zip(files, held_out, strict=True) if is_held]


def test_the_share_of_each_class_is_that_of_scikit_learn_to_within_an_image():
    counts = {f"c{i}": 20 + i for i in range(60)}
    held_out = choose(counts, HoldOut(val_split=0.15))
    ours = np.bincount([int(name[1:].split("/")[0]) for name in held_out])
    targets = np.repeat(np.arange(60), [*counts.values()])
    split = StratifiedShuffleSplit(1, test_size=0.15, random_state=0)
    theirs = np.bincount(targets[next(split.split(targets, targets))[1]])
    assert np.abs(ours - theirs).max() <= 1
    assert abs(ours.sum() - 0.15 * len(targets)) < 12  # shares are rounded up as often as down


@pytest.mark.parametrize(
    ("images", "fraction", "held_out"),
    [(1, 0.5, 0), (2, 0.01, 1), (2, 0.99, 1), (3, 0.999, 2), (100, 0.1, 10)],
)
def test_each_class_keeps_an_image_and_gives_one(images, fraction, held_out):
    assert len(choose({"c": images}, HoldOut(val_split=fraction))) == held_out


def test_the_choice_in_a_class_depends_on_seed_and_names_alone():
    few = {"a": 10, "b": 15}
    chosen = choose(few, FIFTH)
    assert chosen == choose(few, FIFTH)
    assert [name for name in choose({"0": 7, "b": 15, "z": 3}, FIFTH) if name[0] == "b"] == [
        name for name in chosen if name[0] == "b"
    ]
    assert chosen != choose(few, HoldOut(val_split=0.2, val_split_seed=1))
    assert choose({"a": 40}, FIFTH) == [f"a/{i:04d}.jpg" for i in OF_40]


OF_40 = (3, 6, 7, 11, 13, 18, 19, 31)
"""Runs of other versions and machines hold out the same."""


def test_both_splits_come_from_train_or_from_class_folders_alone(make_folder):
    make_folder(Path("data"), train=10)
    train, val = find_splits(Path("data"), hold_out=FIFTH)
    assert (len(train), len(val)) == (24, 6)
    assert not set(names(train)) & set(names(val))
    assert val.root == Path("data/train")
    flat = Path("flat/inner")
    flat.parent.mkdir()
    Path("data/train").rename(flat)
    assert names(find_splits(Path("flat"), hold_out=FIFTH)[1]) == names(val)
    assert find_splits(Path("flat"), hold_out=FIFTH)[1].data_root == flat


def test_machines_compare_both_parts(make_folder):
    make_folder(Path("data"), train=10)
    listing = Listing(ImageSplits(*find_splits(Path("data"), hold_out=FIFTH)), training=True)
    counts = {name: count for name, (count, _) in listing.classes.items()}
    assert counts == {f"{s}/class_0{i}": n for s, n in (("train", 8), ("val", 2)) for i in range(3)}


def test_a_single_image_per_class_cannot_be_split(make_folder):
    make_folder(Path("data"), train=1)
    with pytest.raises(DataError, match=r"data/train has no two images of one class .*split 0\.2"):
        find_splits(Path("data"), hold_out=FIFTH)


@pytest.mark.parametrize("value", ["1", "-0.1", "ten"])
def test_a_fraction_is_below_one(cli, value):
    assert cli("train", "--val-split", value) == 2
    assert cli.says(f"--val-split {value}")


def test_without_val_the_error_names_the_cure(run_small, cli):
    shutil.rmtree("data/val")
    assert run_small("train") == 4
    assert cli.says("it has no folder val/. To hold out a tenth of the training images")
    Path("data/train").rename("flat")
    assert run_small("train", "--data-root", "flat") == 4
    assert cli.says("If its folders are classes, hold out validation images with --val-split 0.1.")


def val_images():
    return json.loads(Path("reports/a/metrics.json").read_text())["images"]


def test_a_run_keeps_its_split(run_small, cli):
    """In its settings and its checkpoint; resumed and evaluated; after images were added."""
    shutil.rmtree("data/val")
    assert run_small("train", "--name", "a", "--val-split", 0.2, *ONE_EPOCH) == 0, cli.err
    held_out = names(find_splits(Path("data"), hold_out=FIFTH)[1])
    assert f"{len(held_out)} of 24 images of data/train are held out for validation" in cli.out
    assert load_tensors(Path("checkpoints/a/best.pth"))["config"]["data"]["val_split"] == 0.2
    assert "val_split = 0.2" in Path("out/a/config.toml").read_text()
    for name in ("class_00", "class_01", "class_02"):
        for number in range(9):
            shutil.copy(f"data/train/{name}/000.JPEG", f"data/train/{name}/{number}.JPEG")
    assert names(find_splits(Path("data"), hold_out=FIFTH)[1]) != held_out
    assert cli("evaluate", "--name", "a") == 0, cli.err
    assert val_images() == len(held_out)
    predictions = Path("reports/a/predictions.csv").read_text()
    assert all(name in predictions for name in held_out)
    assert cli("resume", "--name", "a", "--epochs", 2, "--replan") == 0, cli.err
    assert "27 added since the start, left out" in cli.out
    assert cli("report", "--name", "a") == 0, cli.err
    assert "cannot be read" not in cli.out
    (Path("data/train") / held_out[0]).unlink()
    assert cli("evaluate", "--name", "a") == 0
    assert f"1 of the {len(held_out)} images that the run held out are gone" in cli.out
    assert cli("evaluate", "--name", "a", "--val-split", 0.5) == 0
    assert "--val-split 0.5: the run held out other images" in cli.err
    assert cli("resume", "--name", "a", "--val-split", 0.5) == 2
    assert cli.says("--val-split 0.5: this run was started with 0.2")


def test_files_and_pack_train_alike(run_small, cli):
    split = ("--val-split", 0.2, "--val-split-seed", 3)
    assert run_small("train", "--name", "a", *ONE_EPOCH, *split) == 0
    assert "data/val is not used (for that, --val-split 0)" in cli.out
    assert cli("prepare", "--data-root", "data", "--img-size", 32, *split) == 0, cli.err
    assert run_small("train", "--name", "b", *ONE_EPOCH, "--loader", "pack", *split) == 0
    assert run_small("train", "--name", "c", *ONE_EPOCH, "--loader", "pack") == 4
    assert cli.says("out of date")
    assert cli("check", "--data-root", "data", *split) == 0
    assert "Decoded 24 of 24" in cli.out


def test_broken_images_are_found_in_both_parts(data, cli):
    split = ("--data-root", "data", "--val-split", 0.2)
    held_out = data / "train" / names(find_splits(data, hold_out=FIFTH)[1])[0]
    held_out.write_bytes(b"")
    assert cli("train", *SMALL, *split) == 4
    assert cli.says(str(held_out.relative_to(data.parent)))
    assert "imgnet-mini check --data-root data --val-split 0.2" in cli.err
    assert cli("train", *SMALL, *split, "--skip-bad", *ONE_EPOCH) == 0, cli.err
    assert "1 broken image file(s) left out, 1 of train/" in cli.out
    assert cli("prepare", *split, "--img-size", 32, "--skip-bad") == 0, cli.err
    assert cli("train", *SMALL, *split, "--loader", "pack", "--name", "p", *ONE_EPOCH) == 0
