import os

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.packs import DATA, PACK, build, damaged_jpeg, plan_of
from imgnet_mini.data.pack.plan import ImagePacker, squash
from imgnet_mini.data.transforms import EvalCrop
from imgnet_mini.errors import DataError

NOISE = np.random.default_rng(0).integers(0, 256, (40, 36, 3), dtype=np.uint8)


def picture(path, width, height):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(NOISE).resize((width, height)).save(path)
    return path


@pytest.fixture
def sides(tmp_path):
    """`sides([(w, h), ...])` makes training images of these sizes; others tell nothing."""

    def make(sizes):
        for number, (width, height) in enumerate(sizes):
            picture(DATA / "train" / "c" / f"{number}.png", width, height)
        picture(DATA / "train" / "d" / "0.png", 1, 1)
        for name in ("c", "d"):
            picture(DATA / "val" / name / "0.png", 500, 500)

    return make


def test_a_square_of_the_right_size_is_not_resized():
    pixels = NOISE[:36]
    assert squash(pixels, 36) is pixels


@pytest.mark.parametrize("side", [8, 24, 36, 40, 100])
def test_squash_equals_pillows_bicubic_resize_within_one_gray_level(side):
    expected = Image.fromarray(NOISE).resize((side, side), Image.Resampling.BICUBIC)
    ours = squash(NOISE, side)
    assert ours.shape == (side, side, 3)
    assert np.abs(ours.astype(int) - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 2000)])
def test_any_shape_is_squashed_to_a_square_of_its_color(shape):
    pixels = np.full((*shape, 3), (10, 128, 255), np.uint8)
    assert np.array_equal(squash(pixels, 32), np.full((32, 32, 3), (10, 128, 255)))


@pytest.mark.parametrize(
    ("sizes", "img_size", "expected"),
    [
        ([(500, 400)], 224, 336),
        ([(10, 300)], 224, 300),
        ([(255, 200), (10, 254)], 224, 255),
        ([(32, 32)], 224, 32),
        ([(500, 500)], 32, 48),
        ([(36, 30)], 32, 36),
        ([(30, 20), (60, 20), (90, 20)], 64, 90),
    ],
)
def test_the_default_size_is_one_and_a_half_crops_or_the_longest_training_side(
    sides, sizes, img_size, expected
):
    sides(sizes)
    assert plan_of(img_size=img_size).pack_size == expected


@pytest.mark.parametrize("pack_size", [32, 100, 2048])
def test_a_given_size_is_used(sides, pack_size):
    sides([(50, 40)])
    assert plan_of(pack_size=pack_size).pack_size == pack_size


def test_files_that_are_not_images_do_not_affect_the_size(sides):
    sides([(50, 40)])
    for name, content in (("a.jpg", b""), ("b.png", b"\x89PNG\r\n\x1a\nx"), ("c.jpg", b"<html>")):
        (DATA / "train" / "c" / name).write_bytes(content)
    assert plan_of(img_size=224).pack_size == 50


@pytest.mark.parametrize("name", ["class_00/000.JPEG", "class_00/001.png"])
def test_a_validation_row_is_what_evaluation_reads_from_the_file(data, name):
    path = DATA / "val" / name
    packed = ImagePacker(plan_of(img_size=32), "val")(path)
    assert np.array_equal(packed.square, EvalCrop(32).load(path).permute(1, 2, 0).numpy())


def test_a_training_row_is_the_squashed_image_with_its_size_and_histogram(data):
    path = DATA / "train" / "class_01" / "001.png"
    packed = ImagePacker(plan_of(pack_size=40), "train")(path)
    image = np.array(Image.open(path))
    assert np.array_equal(packed.square, squash(image, 40))
    assert (packed.height, packed.width) == image.shape[:2]
    for channel in range(3):
        counts = np.bincount(packed.square[..., channel].ravel(), minlength=256)
        assert np.array_equal(packed.histogram[channel], counts)
    assert packed.warning is None


def test_damage_that_pillow_ignores_is_a_warning(data):
    path = DATA / "train" / "class_01" / "000.JPEG"
    path.write_bytes(damaged_jpeg())
    packed = ImagePacker(plan_of(), "train")(path)
    assert packed.warning
    with Image.open(path) as image:
        assert (packed.width, packed.height) == image.size


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_file_that_cannot_be_decoded_is_named_in_the_error(data, split):
    path = DATA / split / "class_01" / "000.JPEG"
    plan = plan_of()
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=str(path)):
        ImagePacker(plan, split)(path)


def test_the_size_on_disk_is_predicted_within_1_percent(make_folder):
    make_folder(DATA, train=8, val=4)
    plan = plan_of(img_size=224, pack_size=256)
    build(pack_size=256, img_size=224)
    size = sum(path.stat().st_size for path in PACK.iterdir())
    assert plan.nbytes == pytest.approx(size, rel=0.01)


def test_the_same_files_and_settings_give_the_same_plan_in_any_folder(data, tmp_path):
    before = plan_of()
    data.rename(tmp_path / "moved")
    after = plan_of(tmp_path / "moved")
    assert (before.id, before.key) == (after.id, after.key)


def touch(image):
    os.utime(image, ns=(0, image.stat().st_mtime_ns + 1))


def grow(image):
    image.write_bytes(image.read_bytes() + b" ")


def rename(image):
    image.rename(image.with_name("new.png"))


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("change", [grow, rename], ids=lambda change: change.__name__)
def test_other_files_are_another_plan(data, split, change):
    before = plan_of()
    change(DATA / split / "class_00" / "001.png")
    assert plan_of().id != before.id
    assert plan_of().key != before.key


def test_a_touched_file_changes_the_key_but_not_the_id(data):
    before = plan_of()
    touch(DATA / "val" / "class_00" / "001.png")
    assert plan_of().id == before.id
    assert plan_of().key != before.key


@pytest.mark.parametrize("settings", [{"pack_size": 33}, {"img_size": 33}])
def test_other_sizes_are_another_plan(data, settings):
    assert plan_of(**({"pack_size": 40} | settings)).id != plan_of(pack_size=40).id


def test_the_same_plan_does_not_depend_on_threads_of_torch(data):
    rows = []
    threads = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        rows.append(squash(NOISE, 100))
    torch.set_num_threads(threads)
    assert np.array_equal(*rows)
