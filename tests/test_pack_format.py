import json
import os
import pickle
import sys
import zipfile
from datetime import datetime
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from numpy.lib.recfunctions import rename_fields
from PIL import Image

from helpers.packs import DATA, PACK, arrays, build, damaged_jpeg, jpeg, opened
from imgnet_mini import __version__
from imgnet_mini.data.images import read_pixels
from imgnet_mini.data.pack.format import array_files, index_dtype
from imgnet_mini.data.pack.plan import squash
from imgnet_mini.data.transforms import EvalCrop
from imgnet_mini.data.tree import find_splits
from imgnet_mini.errors import DataError
from imgnet_mini.utils.console import escape_control_chars

needs_any_name = pytest.mark.skipif(
    sys.platform != "linux", reason="other systems refuse file names that are not UTF-8"
)


def split_of(name):
    return find_splits(DATA)[("train", "val").index(name)]


def test_a_pack_holds_what_is_documented_and_nothing_else(pack):
    assert set(PACK.iterdir()) == {*array_files(PACK), PACK / "manifest.json"}


def test_every_array_is_a_plain_file_for_numpy(pack):
    for path in PACK.glob("*.npy"):
        array = np.load(path)  # refuses pickles
        mapped = np.load(path, mmap_mode="r")
        assert np.array_equal(mapped, array)
    assert np.load(PACK / "train_images.npy").shape == (24, 48, 48, 3)
    assert np.load(PACK / "val_images.npy").shape == (9, 32, 32, 3)
    assert np.load(PACK / "train_images.npy").dtype == np.uint8


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_index_describes_each_file(pack, split):
    images = split_of(split)
    index = np.load(PACK / f"{split}_index.npy")
    assert index.dtype == index_dtype(images.files.itemsize)
    assert len(index) == len(images)
    for position, row in enumerate(index):
        path = images.path(position)
        assert os.fsdecode(row["file"]) == path.relative_to(images.root).as_posix()
        assert images.classes[row["target"]] == path.parent.name
        with Image.open(path) as image:
            assert (row["width"], row["height"]) == image.size
        assert row["bytes"] == path.stat().st_size
        assert row["mtime_ns"] == path.stat().st_mtime_ns


def test_the_classes_are_listed_in_their_order(pack):
    assert [name.decode() for name in np.load(PACK / "classes.npy")] == [
        "class_00",
        "class_01",
        "class_02",
    ]


def test_the_manifest_records_settings_and_versions(pack):
    saved = json.loads((PACK / "manifest.json").read_text("utf-8"))
    assert saved == pack.model_dump()
    assert saved["format"] == 1
    assert saved["imgnet_mini"] == __version__
    assert saved["pillow"] == PIL.__version__
    assert saved["torch"] == str(torch.__version__)
    assert datetime.fromisoformat(saved["created"]).tzinfo is not None
    assert (saved["pack_size"], saved["img_size"]) == (48, 32)
    assert saved["images"] == {"train": 24, "val": 9}
    assert saved["skipped"] == saved["suspect"] == []


def test_the_channel_statistics_are_those_of_the_packed_training_pixels(pack):
    pixels = np.load(PACK / "train_images.npy").reshape(-1, 3)
    assert pack.mean == pytest.approx(pixels.mean(0), abs=5.01e-4)
    assert pack.std == pytest.approx(pixels.std(0), abs=5.01e-4)


def test_validation_pixels_are_those_of_evaluation_bit_by_bit(pack):
    images = split_of("val")
    crop = EvalCrop(32)
    for position, square in enumerate(np.load(PACK / "val_images.npy")):
        assert np.array_equal(square.transpose(2, 0, 1), crop.load(images.path(position)).numpy())


def test_training_pixels_are_the_whole_image_squashed(pack):
    images = split_of("train")
    for position, square in enumerate(np.load(PACK / "train_images.npy")):
        assert np.array_equal(square, squash(read_pixels(images.path(position)), 48))


def test_an_image_of_the_pack_size_is_stored_unchanged(data):
    for path in DATA.glob("train/*/*.png"):
        with Image.open(path) as image:
            image.resize((40, 40)).save(path)
    build(pack_size=40)
    images = split_of("train")
    index = [i for i in range(len(images)) if images.relative_path(i).endswith("png")]
    packed = np.load(PACK / "train_images.npy")
    assert all(np.array_equal(packed[i], read_pixels(images.path(i))) for i in index)


def test_an_opened_pack_gives_its_arrays_and_its_images_in_order(pack):
    both = opened()
    assert both.manifest == pack
    for split, packed in (("train", both.train), ("val", both.val)):
        index = np.load(PACK / f"{split}_index.npy")
        assert np.array_equal(packed.pixels, np.load(PACK / f"{split}_images.npy"))
        assert packed.images.files.tolist() == split_of(split).files.tolist()
        assert packed.images.targets.tolist() == split_of(split).targets.tolist()
        assert packed.images.targets.dtype == np.int64
        assert packed.images.classes == split_of(split).classes
        assert packed.sizes.tolist() == [[row["width"], row["height"]] for row in index]


def test_pixels_stay_on_the_disk_and_a_write_to_them_does_not_reach_it(pack):
    before = arrays()
    pixels = opened().train.pixels
    assert isinstance(pixels.base, np.memmap)
    pixels[:] = 7
    assert arrays() == before


@pytest.mark.parametrize("split", ["train", "val"])
def test_skipped_files_are_in_the_skipped_array_only(data, split):
    broken = DATA / split / "class_01" / "001.png"
    broken.write_bytes(b"<html>")
    manifest = build(skip=True)
    skipped = np.load(PACK / f"{split}_skipped.npy")
    assert skipped["file"].tolist() == [b"class_01/001.png"]
    assert skipped["target"].tolist() == [1]
    assert skipped["bytes"].tolist() == [6]
    assert skipped["mtime_ns"].tolist() == [broken.stat().st_mtime_ns]
    assert b"class_01/001.png" not in np.load(PACK / f"{split}_index.npy")["file"]
    assert manifest.images[split] == len(split_of(split)) - 1
    assert len(manifest.skipped) == 1
    assert broken.relative_to(DATA).as_posix() in manifest.skipped[0]
    packed = getattr(opened(), split)
    assert len(packed.images) == len(packed.pixels) == len(packed.sizes) == manifest.images[split]
    position = packed.images.files.tolist().index(b"class_01/002.JPEG")
    path = packed.images.path(position)
    expected = read_pixels(path)
    expected = squash(expected, 48) if split == "train" else np.array(EvalCrop(32)(expected))
    assert np.array_equal(packed.pixels[position], expected)


def test_a_damaged_jpeg_that_can_be_decoded_is_packed_and_listed_as_suspect(data):
    path = DATA / "train" / "class_01" / "002.JPEG"
    path.write_bytes(damaged_jpeg())
    manifest = build()
    assert manifest.skipped == []
    assert len(manifest.suspect) == 1
    assert manifest.suspect[0].startswith("train/class_01/002.JPEG: ")
    packed = opened().train
    position = packed.images.files.tolist().index(b"class_01/002.JPEG")
    assert np.array_equal(packed.pixels[position], squash(read_pixels(path), 48))


def test_a_problem_names_the_file_relative_to_the_data_root(make_folder):
    make_folder(DATA, train=2, val=1, classes=["data", "mydata", "x."])
    for path in DATA.glob("train/*/001.png"):
        path.write_bytes(b"")
    named = [problem.split(": ")[0] for problem in build(skip=True).skipped]
    assert named == ["train/data/001.png", "train/mydata/001.png", "train/x./001.png"]


def test_a_folder_without_a_manifest_is_no_pack(data):
    for nothing in (PACK, DATA / "train"):
        with pytest.raises(DataError, match=f"no pack in {nothing}.*imgnet-mini prepare"):
            opened(nothing)


def add(image):
    for number in range(2):
        image.with_name(f"0000{number}.png").write_bytes(image.read_bytes())
    return "2 added (first: class_01/00000.png)"


def remove(image):
    image.unlink()
    return "1 removed (first: class_01/001.png)"


def rename(image):
    image.rename(image.with_name("new.png"))
    return "1 added (first: class_01/new.png), 1 removed (first: class_01/001.png)"


def move(image):
    image.rename(image.parent.with_name("class_02") / "new.png")
    return "1 added (first: class_02/new.png), 1 removed (first: class_01/001.png)"


def swap(image):
    """Exchange two images of two classes."""
    other = image.parent.with_name("class_02") / image.name
    content = image.read_bytes(), other.read_bytes()
    other.write_bytes(content[0])
    image.write_bytes(content[1])
    return "2 files", "(first: class_01/001.png)"


def replace(image):
    image.write_bytes(jpeg())
    return "1 files", "(first: class_01/001.png)"


def replace_with_the_time_of_before(image):
    stat = image.stat()
    image.write_bytes(jpeg())
    os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return "1 files", "(first: class_01/001.png)"


def touch(image):
    os.utime(image, ns=(0, image.stat().st_mtime_ns + 1))
    return "1 files", "(first: class_01/001.png)"


def new_class(image):
    for split in ("train", "val"):
        folder = DATA / split / "class_00a"
        folder.mkdir()
        (folder / "x.png").write_bytes(image.read_bytes())
    return "1 added (first: class_00a/x.png)"


CHANGES = [
    *(add, remove, rename, move, swap, replace, replace_with_the_time_of_before, touch),
    new_class,
]


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_source_is_reported_with_count_and_first_file(pack, split, change):
    expected = change(DATA / split / "class_01" / "001.png")
    with pytest.raises(DataError, match=f"pack in {PACK} is out of date") as error:
        opened()
    for words in [expected] if isinstance(expected, str) else expected:
        assert words in str(error.value)
    assert str(DATA / split) in str(error.value) or change is new_class
    assert "imgnet-mini prepare" in str(error.value)


@pytest.mark.parametrize("change", [add, remove, rename, touch], ids=lambda change: change.__name__)
def test_a_reverted_change_leaves_the_pack_valid(pack, change):
    image = DATA / "train" / "class_01" / "001.png"
    content, stat = image.read_bytes(), image.stat()
    before = set(DATA.rglob("*"))
    change(image)
    for path in set(DATA.rglob("*")) - before:
        path.unlink()
    image.write_bytes(content)
    os.utime(image, ns=(0, stat.st_mtime_ns))
    assert opened().manifest == pack


def test_a_repaired_skipped_file_makes_the_pack_outdated(data):
    broken = DATA / "train" / "class_01" / "001.png"
    content = broken.read_bytes()
    broken.write_bytes(b"")
    build(skip=True)
    opened()
    broken.write_bytes(content)
    with pytest.raises(DataError, match=r"1 files .* have changed \(first: class_01/001.png\)"):
        opened()


def test_images_elsewhere_with_the_same_names_and_times_fit_the_pack(pack, tmp_path):
    DATA.rename(tmp_path / "moved")
    packed = opened(tmp_path / "moved" / "pack", root=tmp_path / "moved")
    assert packed.train.images.path(0).is_file()


def cut(path):
    os.truncate(path, path.stat().st_size - 1)


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_bytes(b"<html>")


def missing(path):
    path.unlink()


def zipped(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", b"x")


def folder(path):
    path.unlink()
    path.mkdir()


def wrong_shape(path):
    array = np.load(path)
    np.save(path, np.stack([array, array], -1))


def wrong_dtype(path):
    np.save(path, np.zeros(np.load(path).shape, np.float32))


def scalar(path):
    np.save(path, np.zeros((), np.load(path).dtype))


def one_row_less(path):
    np.save(path, np.load(path)[1:])


DAMAGE = [cut, empty, text, missing, zipped, folder, wrong_shape, wrong_dtype, scalar]


@pytest.mark.parametrize("name", ["train_images", "val_images", "train_index", "val_index"])
@pytest.mark.parametrize("damage", [*DAMAGE, one_row_less], ids=lambda damage: damage.__name__)
def test_a_damaged_array_is_refused_with_its_path(pack, name, damage):
    path = PACK / f"{name}.npy"
    damage(path)
    with pytest.raises(DataError, match="imgnet-mini prepare") as error:
        opened()
    assert str(PACK if damage is one_row_less else path) in str(error.value)


@pytest.mark.parametrize("name", ["train_index", "val_skipped"])
def test_an_index_of_other_fields_is_refused_with_its_path(pack, name):
    path = PACK / f"{name}.npy"
    np.save(path, rename_fields(np.load(path), {"mtime_ns": "mtime"}))
    with pytest.raises(DataError, match=str(path)):
        opened()


@pytest.mark.parametrize("name", ["val_skipped", "classes"])
@pytest.mark.parametrize("damage", [cut, empty, text, missing, zipped, folder, wrong_dtype])
def test_a_damaged_class_list_or_skipped_array_is_refused_with_its_path(pack, name, damage):
    path = PACK / f"{name}.npy"
    damage(path)
    with pytest.raises(DataError, match="imgnet-mini prepare") as error:
        opened()
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "null", "7", '"x"', "{}", '{"format": 1}'),
        *('{"format": 1, "pack_size": "x"}', "\x00\x00"),
    ],
)
def test_an_invalid_manifest_is_refused_with_its_path(pack, content):
    (PACK / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"(?s)damaged.*imgnet-mini prepare") as error:
        opened()
    assert str(PACK / "manifest.json") in str(error.value)


def test_the_error_of_an_invalid_manifest_is_one_line(pack):
    (PACK / "manifest.json").write_text('{"format": 1}')
    with pytest.raises(DataError) as error:
        opened()
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("number", [0, 2, "1", None])
def test_another_format_is_refused_with_both_numbers(pack, number):
    manifest = json.loads((PACK / "manifest.json").read_text("utf-8")) | {"format": number}
    (PACK / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=f"has format {number!r}.* reads 1; .*prepare") as error:
        opened()
    assert str(PACK) in str(error.value)


@pytest.mark.parametrize("setting", ["pack_size", "eval_size"])
def test_a_manifest_that_does_not_fit_the_pixels_is_refused(pack, setting):
    manifest = json.loads((PACK / "manifest.json").read_text("utf-8"))
    manifest[setting] += 1
    (PACK / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="damaged"):
        opened()


def test_unknown_fields_of_the_manifest_are_ignored(pack):
    manifest = json.loads((PACK / "manifest.json").read_text("utf-8")) | {"new": 1}
    (PACK / "manifest.json").write_text(json.dumps(manifest))
    assert opened().manifest == pack


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


@pytest.mark.parametrize("name", [path.name for path in array_files(PACK)])
@pytest.mark.parametrize("inside", ["array", "file"])
def test_a_pickle_planted_in_a_pack_is_not_run(pack, name, inside):
    if inside == "array":
        np.save(PACK / name, np.array([Bomb()], object), allow_pickle=True)
    else:
        (PACK / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError, match=name):
        opened()
    assert not Path("exploded").exists()


ODD = [b"caf\xe9", b"new\nline", b"\x1b[31mred", b"\xff\xfe", b"quote\"'", "ünï😀".encode()]


@needs_any_name
def test_file_names_of_any_bytes_are_kept_and_escaped_in_messages(make_folder):
    classes = sorted(map(os.fsdecode, ODD))
    make_folder(DATA, train=2, val=1, classes=classes)
    odd = DATA / "train" / classes[0] / os.fsdecode(b"\xff\x1b[2J\n" + b"x" * 200 + b".png")
    (DATA / "train" / classes[0] / "001.png").rename(odd)
    build(pack_size=40)
    packed = opened()
    assert [os.fsdecode(name) for name in np.load(PACK / "classes.npy")] == classes
    assert odd in [packed.train.images.path(i) for i in range(len(packed.train.images))]
    for position in range(len(packed.train.images)):
        expected = squash(read_pixels(packed.train.images.path(position)), 40)
        assert np.array_equal(packed.train.pixels[position], expected)
    odd.write_bytes(b"")
    with pytest.raises(DataError, match="1 files"):
        opened()
    manifest = build(pack_size=40, skip=True)
    assert len(manifest.skipped) == 1
    assert escape_control_chars(manifest.skipped[0]) == manifest.skipped[0]
    assert opened().manifest == manifest
