"""Files that were exchanged for others of the same names, sizes and times."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.packs import DATA, PACK, build, opened, plan_of
from imgnet_mini.data.folder import find_images
from imgnet_mini.data.pack.contents import SOURCE_DTYPE, content_digest, find_changed_contents
from imgnet_mini.data.pack.writer import write_pack
from imgnet_mini.data.tree import find_splits
from imgnet_mini.errors import DataError

CLASSES = ("black", "gray", "white")
OLD = 1_000_000_000_000_000_000


def draw(root, *levels):
    """Uncompressed images of one gray level per class: sizes and times are all the same."""
    for split in ("train", "val"):
        for name, level in zip(CLASSES, levels, strict=True):
            for number in range(3):
                path = root / split / name / f"{number}.bmp"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 32), (level, level, number)).save(path)
                os.utime(path, ns=(OLD, OLD))
            os.utime(path.parent, ns=(OLD, OLD))
        os.utime(root / split, ns=(OLD, OLD))
    return root


@pytest.fixture(autouse=True)
def data():
    return draw(DATA, 0, 100, 255)


def exchange(split="train"):
    """Exchange two class folders."""
    one, other, aside = (DATA / split / name for name in ("black", "white", "aside"))
    one.rename(aside)
    other.rename(one)
    aside.rename(other)
    os.utime(DATA / split, ns=(OLD, OLD))


def without_change_times():
    """Make the pack as on a system without change times: they are always those of today."""
    for split in find_splits(DATA):
        path = PACK / f"{split.root.name}_source.npy"
        source = np.load(path)
        source["ctime_ns"] = split.stamps[:, 2]
        np.save(path, source)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("change_times", [True, False])
def test_a_pack_of_exchanged_folders_is_out_of_date(split, change_times):
    build()
    exchange(split)
    if not change_times:
        without_change_times()
    words = rf"files in {DATA / split} have other contents, .* \(first: black/0\.bmp\)"
    with pytest.raises(DataError, match=words):
        opened()


def test_prepare_packs_exchanged_folders_again(cli):
    prepare = ("prepare", "--data-root", DATA, "--img-size", 32, "--pack-size", 32)
    assert cli(*prepare) == 0
    exchange()
    assert cli(*prepare) == 0, cli.err
    pack = opened()
    assert [int(pixels[0, 0, 0]) for pixels in pack.train.pixels[::3]] == [255, 100, 0]
    assert pack.train.images.targets[::3].tolist() == [0, 1, 2]
    assert cli(*prepare) == 0
    assert "is up to date" in cli.out


def test_an_interrupted_build_does_not_keep_the_images_of_exchanged_folders():
    class StopError(Exception):
        pass

    def stop(split, count):
        if split == "val":
            raise StopError

    with pytest.raises(StopError):
        build(pack_size=32, on_image=stop)
    exchange()
    build(pack_size=32)
    assert [int(pixels[0, 0, 0]) for pixels in opened().train.pixels[::3]] == [255, 100, 0]


def test_one_file_that_was_exchanged_is_noticed_by_its_change_time():
    build()
    path = DATA / "train" / "gray" / "1.bmp"
    path.write_bytes((DATA / "train" / "gray" / "2.bmp").read_bytes())
    os.utime(path, ns=(OLD, OLD))
    with pytest.raises(DataError, match=r"first: gray/1\.bmp"):
        opened()


def test_a_copied_data_set_fits_the_pack():
    plan = plan_of(draw(Path("elsewhere"), 0, 100, 255))
    write_pack(plan, PACK, skip=False, on_image=lambda *_: None)
    assert opened().has_contents


def test_a_sample_of_files_with_other_change_times_is_read(monkeypatch):
    images = find_images(DATA / "train")
    packed = np.zeros(len(images), SOURCE_DTYPE)
    packed["digest"] = [content_digest(images.path(index)) for index in range(len(images))]
    assert find_changed_contents(images, packed) == []
    packed["digest"] += 1
    assert find_changed_contents(images, packed) == list(range(9))
    packed["ctime_ns"] = images.stamps[:, 2]
    assert find_changed_contents(images, packed) == [0, 3, 6]
    packed["ctime_ns"][[1, 4, 5, 8]] += 1
    monkeypatch.setattr("imgnet_mini.data.pack.contents._MOST_CHANGED", 2)
    assert find_changed_contents(images, packed) == [0, 1, 3, 5, 6]


def test_a_file_that_cannot_be_read_has_changed():
    images = find_images(DATA / "train")
    packed = np.zeros(len(images), SOURCE_DTYPE)
    images.path(0).unlink()
    assert 0 in find_changed_contents(images, packed)


def test_a_pack_without_hashes_is_used_with_a_note_and_prepare_adds_them(cli):
    short = ("--data-root", DATA, "--img-size", 32)
    build()
    for path in PACK.glob("*_source.npy"):
        path.unlink()
    assert not opened().has_contents
    train = ("train", *short, "--arch", "shufflenet_v2_x0_5", "--batch-size", 3, "--epochs", 1)
    assert cli(*train, "--workers", 0, "--pct-start", 0.5) == 0, cli.err
    assert "made by version 0.2.0, without hashes of the image files" in cli.out
    assert cli("prepare", *short) == 0
    assert "Wrote" in cli.out
    assert opened().has_contents


def test_a_damaged_array_of_hashes_is_refused():
    build()
    np.save(PACK / "train_source.npy", np.zeros(3, SOURCE_DTYPE))
    with pytest.raises(DataError, match=r"the pack is damaged: .*train_source\.npy"):
        opened()
