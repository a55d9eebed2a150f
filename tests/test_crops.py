import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as TF

from imgnet_mini.data.rng import uniforms
from imgnet_mini.data.transforms import (
    CROP_NUMBERS,
    Crop,
    crop_batch,
    crop_image,
    sample_crop,
    squash_crop,
)

DRAWS = 3000
SHAPES = [(500, 375), (200, 200), (90, 300), (900, 120), (40, 33)]
EXTREMES = [(1, 1), (1, 5000), (5000, 3), (2, 3), (17, 1), (4, 3)]
"""Width and height."""


def crops_of(width, height, *, crop_scale_min=0.08, flip=True, draws=DRAWS):
    numbers = uniforms(1, 0, np.arange(draws), CROP_NUMBERS).tolist()
    return [
        sample_crop(drawn, width, height, crop_scale_min=crop_scale_min, flip=flip)
        for drawn in numbers
    ]


def torchvision_crops(width, height, crop_scale_min):
    image = torch.empty(3, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(DRAWS):
            top, left, h, w = RandomResizedCrop.get_params(
                image, [crop_scale_min, 1.0], [3 / 4, 4 / 3]
            )
            yield left, top, w, h


@pytest.mark.parametrize("crop_scale_min", [0.08, 0.6])
@pytest.mark.parametrize("shape", SHAPES)
def test_crops_are_distributed_as_those_of_torchvision(shape, crop_scale_min):
    ours = np.array([crop[:4] for crop in crops_of(*shape, crop_scale_min=crop_scale_min)])
    theirs = np.array(list(torchvision_crops(*shape, crop_scale_min)))

    def measures(crops):
        left, top, w, h = crops.T.astype(float)
        room = np.array(shape)[:, None] - [w, h]
        yield from (left, top, w, h, w * h, w / h)
        yield from np.array([left, top]) / np.maximum(room, 1)

    for mine, other in zip(measures(ours), measures(theirs), strict=True):
        assert stats.ks_2samp(mine, other).pvalue > 1e-3
        assert mine.mean() == pytest.approx(other.mean(), abs=4 * other.std() / np.sqrt(DRAWS))


def test_the_five_numbers_of_a_crop_are_drawn_apart():
    crops = crops_of(1000, 1000, crop_scale_min=0.2)
    left, top, w, h, hflip = np.array(crops, float).T
    free = [left / (1001 - w), top / (1001 - h), w * h, w / h, hflip]
    correlations = np.corrcoef(free) - np.eye(5)
    assert np.abs(correlations).max() < 4 / np.sqrt(DRAWS)


def test_half_of_the_crops_are_mirrored_and_none_with_flip_off():
    hflip = sum(crop.hflip for crop in crops_of(60, 40))
    assert hflip == pytest.approx(DRAWS / 2, abs=4 * np.sqrt(DRAWS / 4))
    assert not any(crop.hflip for crop in crops_of(60, 40, flip=False))
    assert [c[:4] for c in crops_of(60, 40)] == [c[:4] for c in crops_of(60, 40, flip=False)]


def assert_inside(crop, width, height):
    assert 0 <= crop.left < crop.left + crop.width <= width
    assert 0 <= crop.top < crop.top + crop.height <= height


@pytest.mark.parametrize("crop_scale_min", [1e-9, 0.08, 1.0])
@pytest.mark.parametrize("shape", EXTREMES)
def test_a_crop_is_inside_its_image_whatever_its_shape(shape, crop_scale_min):
    for crop in crops_of(*shape, crop_scale_min=crop_scale_min, draws=500):
        assert_inside(crop, *shape)
    for number in (0.0, np.nextafter(1, 0)):
        crop = sample_crop(
            [number] * CROP_NUMBERS, *shape, crop_scale_min=crop_scale_min, flip=True
        )
        assert_inside(crop, *shape)


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 3), (100, 2), (3, 47), (700, 11)])
def test_where_no_try_fits_the_crop_is_the_middle_one_of_torchvision(shape):
    width, height = shape
    # The whole area of so long an image fits no ratio, so that torchvision draws none either.
    image = torch.empty(3, height, width)
    top, left, h, w = RandomResizedCrop.get_params(image, [1.0, 1.0], [3 / 4, 4 / 3])
    for crop in crops_of(*shape, crop_scale_min=1.0, draws=5):
        assert crop[:4] == (left, top, w, h)


def test_an_image_of_a_moderate_shape_is_kept_whole_where_no_try_fits():
    numbers = [np.nextafter(1, 0)] * CROP_NUMBERS  # the widest crop of the whole area
    for width, height in ((9, 12), (12, 9), (10, 10), (30, 31)):
        crop = sample_crop(numbers, width, height, crop_scale_min=1.0, flip=False)
        assert crop == (0, 0, width, height, False)


@pytest.mark.parametrize("side", [1, 32, 256])
@pytest.mark.parametrize("shape", [*SHAPES, *EXTREMES])
def test_a_squashed_crop_is_the_same_part_of_the_square(shape, side):
    width, height = shape
    for crop in crops_of(width, height, draws=300):
        squashed = squash_crop(crop, width, height, side)
        assert_inside(squashed, side, side)
        assert squashed.hflip == crop.hflip
        for start, length, whole, first, count in (
            (crop.left, crop.width, width, squashed.left, squashed.width),
            (crop.top, crop.height, height, squashed.top, squashed.height),
        ):
            assert abs(first - start * side / whole) <= 1
            assert abs(first + count - (start + length) * side / whole) <= 1


def test_squashing_to_the_size_that_it_has_changes_nothing():
    for side in (1, 37, 256, 999):
        for crop in crops_of(side, side, draws=300):
            assert squash_crop(crop, side, side, side) == crop


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)


CROPS = [
    Crop(0, 0, 90, 70, False),
    Crop(13, 7, 61, 48, False),
    Crop(13, 7, 61, 48, True),
    Crop(0, 0, 32, 32, False),
    Crop(58, 38, 32, 32, True),
    Crop(5, 0, 9, 70, False),
    Crop(0, 66, 90, 4, True),
    Crop(40, 30, 1, 1, False),
    Crop(89, 69, 1, 1, True),
    Crop(89, 0, 1, 70, True),
]


@pytest.mark.parametrize("size", [32, 33, 100])
@pytest.mark.parametrize("crop", CROPS, ids=str)
def test_one_image_is_cropped_as_by_torchvision_bit_by_bit(pixels, crop, size):
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    expected = TF.resized_crop(
        image, crop.top, crop.left, crop.height, crop.width, [size, size], antialias=True
    )
    if crop.hflip:
        expected = TF.horizontal_flip(expected)
    ours = crop_image(pixels, crop, size)
    assert (ours.shape, ours.dtype) == ((3, size, size), torch.uint8)
    assert torch.equal(ours, expected)


def test_a_crop_shares_no_memory_with_its_image(pixels):
    before = pixels.copy()
    crop_image(pixels, Crop(0, 0, 32, 32, False), 32).zero_()
    assert np.array_equal(pixels, before)


SIZES = [(64, 32), (64, 64), (48, 100), (150, 33), (1, 32)]
"""Sides of the images and of what is cut from them."""


def squares(kind, side, count):
    if kind == "noise":
        return np.random.default_rng(1).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    ramp = np.linspace(0, 255, side).astype(np.uint8)
    image = np.stack([*np.meshgrid(ramp, ramp), np.full((side, side), 255)], 2)
    return np.stack([image] * count).astype(np.uint8)


def crops_with_edges(side):
    crops = crops_of(side, side, draws=20)
    crops += [Crop(0, 0, side, side, hflip) for hflip in (False, True)]
    crops += [Crop(x, y, 1, 1, x == y) for x in (0, side - 1) for y in (0, side - 1)]
    return [*crops, Crop(side - 1, 0, 1, side, True), Crop(0, side - 1, side, 1, False)]


def cropped(images, crops, size):
    return crop_batch(torch.from_numpy(images), torch.tensor(crops, dtype=torch.float32), size)


@pytest.mark.parametrize("kind", ["noise", "ramps"])
@pytest.mark.parametrize(("side", "size"), SIZES)
def test_a_batch_is_cropped_as_image_by_image_within_one_grey_level(kind, side, size):
    crops = crops_with_edges(side)
    images = squares(kind, side, len(crops))
    batch = cropped(images, crops, size)
    assert (batch.shape, batch.dtype) == ((len(crops), 3, size, size), torch.uint8)
    for image, crop, ours in zip(images, crops, batch, strict=True):
        assert int((ours.int() - crop_image(image, crop, size).int()).abs().max()) <= 1


@pytest.mark.parametrize(("side", "size"), SIZES)
def test_a_batch_is_rounded_once_from_the_exact_resize(side, size):
    crops = crops_with_edges(side)
    images = squares("noise", side, len(crops))
    for image, crop, ours in zip(images, crops, cropped(images, crops, size), strict=True):
        left, top, width, height, hflip = crop
        part = torch.from_numpy(image)[top : top + height, left : left + width].double()
        exact = TF.resize(part.permute(2, 0, 1), [size, size], antialias=True)
        exact = exact.flip(2) if hflip else exact
        assert float((ours - exact).abs().max()) < 0.501


def test_a_batch_is_left_as_it_was():
    images = torch.from_numpy(squares("noise", 20, 3))
    crops = torch.tensor([[2, 3, 10, 9, 1]] * 3, dtype=torch.float32)
    before = images.clone(), crops.clone()
    crop_batch(images, crops, 32)
    assert torch.equal(images, before[0])
    assert torch.equal(crops, before[1])
