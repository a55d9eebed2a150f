"""`organize`: from the layouts that data sets come in to train/ and val/ with class folders."""

import csv
import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from conftest import write_folder
from imgnet_mini.config.data_settings import HoldOut
from imgnet_mini.data.organize import transfer
from imgnet_mini.data.tree import find_splits

IDS = ["n01440764", "n01443537", "n01484850"]
SOURCE, DEST = Path("raw"), Path("out")


def files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def pictures(folder):
    return sorted(path for path in folder.rglob("*.*") if path.suffix in (".JPEG", ".png"))


def images(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in pictures(folder)}


def flatten(val, name):
    """Put the images of class folders into the folder itself; return (stem, class) of each."""
    rows = []
    for number, path in enumerate(pictures(val), start=1):
        target = val / f"{name}{number:08d}{path.suffix}"
        path.rename(target)
        rows.append((target.stem, path.parent.name))
    for folder in val.iterdir():
        if folder.is_dir():
            folder.rmdir()
    return rows


def write_csv(path, *rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def write_devkit(folder, numbers):
    """Write `meta.mat` as the development kit has it, with synsets that are no classes."""
    names = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children")
    synsets = np.zeros((len(numbers) + 1, 1), dtype=[(name, "O") for name in names])
    for row, (wnid, number) in enumerate([*numbers.items(), ("n00001740", 1001)]):
        leaf = number < 1000
        synsets[row, 0] = (
            number,
            wnid,
            "w",
            "g",
            0 if leaf else 2,
            np.array([] if leaf else [1.0, 2.0]),
        )
    folder.mkdir(parents=True)
    savemat(folder / "meta.mat", {"synsets": synsets})


def nested():
    write_folder(SOURCE / "raw", classes=IDS)
    (SOURCE / "raw/val").rename(SOURCE / "raw/valid")


def kaggle():
    root = SOURCE / "ILSVRC/Data/CLS-LOC"
    write_folder(root, classes=IDS)
    rows = flatten(root / "val", "ILSVRC2012_val_")
    boxes = [(file, f"{name} 1 2 30 40 {name} 5 6 70 80 ") for file, name in reversed(rows)]
    write_csv(SOURCE / "LOC_val_solution.csv", ("ImageId", "PredictionString"), *boxes)
    for split in ("train", "val"):
        (SOURCE / "ILSVRC/Annotations/CLS-LOC" / split / IDS[0]).mkdir(parents=True)
    (root / "test").mkdir()
    shutil.copy(next((root / "val").iterdir()), root / "test/ILSVRC2012_test_00000001.JPEG")


def devkit(meta=True):
    write_folder(SOURCE, classes=IDS)
    rows = flatten(SOURCE / "val", "ILSVRC2012_val_")
    numbers = dict(zip(IDS, (3, 1, 2), strict=True))
    write_devkit(SOURCE / "ILSVRC2012_devkit_t12/data", numbers)
    text = "".join(f"{numbers[name]}\n" for _, name in rows)
    (SOURCE / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt").write_text(text)


def tiny():
    write_folder(SOURCE, classes=IDS)
    rows = flatten(SOURCE / "val", "val_")
    (SOURCE / "val/images").mkdir()
    for path in pictures(SOURCE / "val"):
        path.rename(SOURCE / "val/images" / path.name)
    suffixes = {path.stem: path.suffix for path in (SOURCE / "val/images").iterdir()}
    lines = [f"{file}{suffixes[file]}\t{name}\t0\t0\t62\t62\n" for file, name in rows]
    (SOURCE / "val/val_annotations.txt").write_text("".join(lines))


@pytest.mark.parametrize(
    ("make", "place", "inner"),
    [
        (nested, "valid", ""),
        (kaggle, "LOC_val_sol", ""),
        (devkit, "truth.txt", ""),
        (tiny, "val_annotations", "images/"),
    ],
)
def test_each_known_layout_is_put_right(cli, make, place, inner):
    make()
    before = files(SOURCE)
    reference = write_folder(Path("reference"), classes=IDS)
    assert cli("organize", SOURCE, DEST) == 0, cli.err
    assert place in cli.out
    assert "Nothing is changed yet" in cli.out
    assert "  imgnet-mini organize raw out --link\n" in cli.out
    assert not DEST.exists()
    assert cli("organize", SOURCE, DEST, "--copy") == 0, cli.err
    assert "out/train: 12 images of 3 classes\nout/val: 6 images of 3 classes" in cli.out
    assert "Next: imgnet-mini prepare --data-root out\n" in cli.out
    assert images(DEST / "train") == images(reference / "train")
    by_class = {name: sorted(images(DEST / "val" / name / inner).values()) for name in IDS}
    assert by_class == {name: sorted(images(reference / "val" / name).values()) for name in IDS}
    assert files(SOURCE) == before
    assert len(find_splits(DEST)[1]) == 6


def test_class_folders_alone_are_split_as_train_splits_them(cli, make_folder):
    make_folder(SOURCE, train=10)
    shutil.rmtree(SOURCE / "val")
    (SOURCE / "train").rename("flat")
    split = ("--val-split", 0.2, "--val-split-seed", 5)
    assert cli("organize", "flat", DEST) == 4
    assert cli.says("to hold out a tenth of the images for validation, add --val-split 0.1")
    assert cli("organize", "flat", DEST, *split) == 0
    assert "organize flat out --val-split 0.2 --val-split-seed 5 --move" in cli.out
    held_out = find_splits(Path("flat"), hold_out=HoldOut(val_split=0.2, val_split_seed=5))[1]
    assert cli("organize", "flat", DEST, *split, "--move") == 0
    assert files(DEST / "val") == {held_out.relative_path(i) for i in range(len(held_out))}
    assert not any(Path("flat").iterdir())
    record = json.loads((DEST / "organized.json").read_text())
    assert len(record["files"]) == 30
    assert cli("organize", "flat", DEST, *split, "--move") == 4
    assert cli.says("were moved to out before")


@pytest.mark.parametrize("way", ["column", "folders", "no header", "held out"])
def test_a_table_of_files_and_labels_is_followed(cli, make_folder, way):
    make_folder(Path("reference"), train=6, classes=["a", "b"])
    rows = []
    for split in ("train", "val"):
        folder = SOURCE / (split if way == "folders" else "images")
        folder.mkdir(parents=True, exist_ok=True)
        for path in pictures(Path("reference") / split):
            name = f"{split}-{path.parent.name}-{path.name}"
            path.rename(folder / name)
            file = (
                f"/elsewhere/{folder.name}/{name}"
                if way == "no header"
                else f"{folder.name}/{name}"
            )
            rows.append([file, path.parent.name, {"train": "Training", "val": "TEST"}[split]])
    shutil.copy(
        SOURCE / "images" / rows[0][0].rpartition("/")[2]
        if way != "folders"
        else SOURCE / rows[0][0],
        SOURCE / "more.JPEG",
    )
    header = {
        "column": ["Image Path", "Class", "data set"],
        "folders": ["id", "breed"],
        "held out": ["file", "label"],
    }
    columns = 3 if way == "column" else 2
    table = [header[way]] if way in header else []
    write_csv(Path("table.csv"), *table, *(row[:columns] for row in rows))
    arguments = ["organize", SOURCE, DEST, "--labels", "table.csv", "--link"]
    if way in ("held out", "no header"):
        assert cli(*arguments) == 4
        assert cli.says("table.csv does not tell training from validation images")
        arguments += ["--val-split", 0.25]
    assert cli(*arguments) == 0, cli.err
    assert "1 images without a label (more.JPEG)" in cli.out
    made = files(DEST) - {"organized.json"}
    assert len(made) == 16
    assert all(f"-{name.split('/')[1]}-" in name for name in made)
    if way in ("column", "folders"):
        assert all(f"/{name.split('/')[0]}-" in name for name in made)
    else:
        assert sum(name.startswith("val/") for name in made) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\n", "holds no labels"),
        ("a,b,c\n1,2,3\n", "no columns of files and labels among a, b, c: name them file and"),
        ("file,label\nx.png,up/a\n", "line 2: label 'up/a': a folder cannot have /"),
        ("file,label\nx.png,.up\n", "folders that begin with a dot are hidden"),
        ("file,label\nx.png, \n", "the label is empty"),
        ("file,label\nx.png,a\nx.png,b\n", "line 3: x.png is of b here, and of a before"),
        ("file,label\nx.png\n", "line 2: it has 1 column(s), too few"),
        ("file,label\n000.JPEG,a\n", "000.JPEG may be class_00/000.JPEG, class_01/000.JPEG"),
        ("file,label\nx.png,a\n", "names none of the 6 images in raw/val: its first is x.png"),
        ("1\n2\n", "meta.mat, which tells their ImageNet ids, is not there"),
        (b"\xff\xfa,\xff", "is not text in UTF-8"),
    ],
)
def test_a_wrong_table_is_refused_by_line(cli, make_folder, text, message):
    make_folder(SOURCE)
    (SOURCE / "train").rename("aside")
    (SOURCE / "train/other").mkdir(parents=True)
    shutil.copy("aside/class_00/000.JPEG", SOURCE / "train/other")
    Path("t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert cli("organize", SOURCE, DEST, "--labels", "t.csv", "--copy") == 4
    assert cli.says(message), cli.err
    assert not DEST.exists()


def test_what_cannot_be_organized_is_named_with_the_cure(cli, make_folder):
    assert cli("organize", SOURCE, DEST) == 4
    assert cli.says("raw: there is no such folder")
    make_folder(SOURCE)
    assert cli("organize", SOURCE, SOURCE / "new", "--move") == 2
    assert cli.says("raw/new lies in raw: name a new folder beside it")
    assert cli("organize", SOURCE / "train/class_00", SOURCE) == 2
    assert cli.says("lies in a split of raw")
    assert cli("organize", SOURCE, DEST, "--move", "--copy") == 2
    assert cli("organize", SOURCE, DEST, "--labels", "t.csv") == 4
    assert cli.says("raw/val has class folders already; leave it out")
    flatten(SOURCE / "val", "x")
    assert cli("organize", SOURCE, DEST) == 4
    assert cli.says("no file of labels was found: give one with --labels FILE")
    shutil.rmtree(SOURCE / "val")
    assert cli("organize", SOURCE, DEST) == 4
    assert cli.says("has no folder of validation images: to hold out a tenth")
    shutil.rmtree(SOURCE / "train")
    (SOURCE / "images.tar").touch()
    assert cli("organize", SOURCE, DEST) == 4
    assert cli.says("Unpack images.tar first")


def test_nothing_is_replaced(cli, make_folder):
    make_folder(SOURCE)
    target = DEST / "train/class_00/000.JPEG"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"mine")
    assert cli("organize", SOURCE, DEST, "--copy") == 4
    assert cli.says("exist with other contents: train/class_00/000.JPEG. Nothing is replaced")
    target.rename(target.with_name("mine.JPEG"))
    assert cli("organize", SOURCE, DEST, "--move") == 4
    assert cli.says("holds 1 other file(s) in train/ and val/ (first: train/class_00/mine.JPEG)")
    assert files(DEST) == {"train/class_00/mine.JPEG"}
    assert len(files(SOURCE)) == 18


@pytest.fixture
def failing_copy(monkeypatch):
    """Files are copied, as across disks; the disk is full after seven."""
    copied = []

    def copy(source, target):
        if len(copied) == 7:
            target.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        copied.append(source)
        target.write_bytes(source.read_bytes())

    def rename(source, target):
        if source.name != transfer._TEMPORARY:
            raise OSError(errno.EXDEV, "other disk")
        source.rename(target)

    monkeypatch.setattr(transfer.shutil, "copyfile", copy)
    monkeypatch.setattr(transfer, "_rename_new", rename)
    return copied


@pytest.mark.parametrize("how", ["copy", "move"])
def test_an_interrupted_command_continues_with_the_same_split(cli, make_folder, failing_copy, how):
    make_folder(SOURCE, train=10)
    shutil.rmtree(SOURCE / "val")
    before = images(SOURCE / "train")
    command = ("organize", SOURCE, DEST, f"--{how}", "--val-split", 0.2)
    assert cli("organize", SOURCE, "whole", "--link", "--val-split", 0.2) == 0
    assert cli(*command) == 5
    assert cli.says("No space left on device")
    assert len(images(DEST)) == 7
    assert len(images(SOURCE)) == (23 if how == "move" else 30)
    assert cli(*command[:-2], "--val-split", 0.3) == 2
    assert f"imgnet-mini organize {SOURCE.resolve()} out --{how} --val-split 0.2" in cli.err
    failing_copy.append(None)  # the disk has room again
    done = DEST / "train/class_00/000.JPEG"
    if done.exists():  # as if killed before the source was removed
        (SOURCE / "train/class_00/000.JPEG").write_bytes(done.read_bytes())
    assert cli(*command) == 0, cli.err
    assert "7 of 30 files are there already" in cli.out
    for split in ("train", "val"):
        assert images(DEST / split) == images(Path("whole") / split)
    assert len(images(DEST)) == 30
    assert images(SOURCE) == ({} if how == "move" else {f"train/{k}": v for k, v in before.items()})
    assert files(DEST) - {"organized.json"} == set(images(DEST))


def test_links_are_symbolic_across_disks(cli, make_folder, monkeypatch):
    make_folder(SOURCE)

    def refuse(source, target):
        raise OSError(errno.EXDEV, "other disk")

    assert cli("organize", SOURCE, "hard", "--link") == 0
    assert "hard links: the source may be removed" in cli.out
    assert Path("hard/val/class_00/000.JPEG").samefile(SOURCE / "val/class_00/000.JPEG")
    monkeypatch.setattr(transfer, "_hard_link", refuse)
    assert cli("organize", SOURCE, DEST, "--link") == 0
    assert "symbolic links: keep the source where it is" in cli.out
    assert (DEST / "val/class_00/000.JPEG").is_symlink()
    assert cli("organize", SOURCE, DEST, "--move") == 0  # moves no file away under its link
    assert len(files(SOURCE)) == 18


def test_a_copy_that_does_not_fit_is_not_begun(cli, make_folder, monkeypatch):
    make_folder(SOURCE)
    monkeypatch.setattr(transfer, "free_bytes", lambda path: 10_000)
    assert cli("organize", SOURCE, DEST, "--copy") == 5
    assert cli.says("kB, and the disk of out has 10.0 kB free: make room, choose another disk, or")
    assert not DEST.exists()
    assert cli("organize", SOURCE, DEST, "--link") == 0
