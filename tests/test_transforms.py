import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch.overrides import TorchFunctionMode
from torchvision import transforms
from torchvision.transforms import RandomResizedCrop, v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from imgnet_mini.config.data_settings import DataConfig
from imgnet_mini.data.augment.erasing import RandomAffineErase, RandomErasing
from imgnet_mini.data.crops import (
    CROP_NUMBERS,
    Crop,
    crop_batch,
    crop_image,
    sample_crop,
    scale_crop,
)
from imgnet_mini.data.images import read_image
from imgnet_mini.data.rng import uniforms
from imgnet_mini.data.transforms import MEAN, EvalCrop, Normalize, TrainCrop, eval_resize

CPU = torch.device("cpu")
MEAN_COLOUR = torch.tensor([round(value) for value in MEAN], dtype=torch.uint8)
SIDE = 64


@pytest.fixture
def save(tmp_path):
    def write(pixels):
        path = tmp_path / "image.png"
        Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
        return path

    return write


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def draws(count, times):
    return uniforms(0, 0, np.arange(times), count)


def loads(path, times=50, **settings):
    crop = TrainCrop(DataConfig(**settings))
    for numbers in draws(CROP_NUMBERS, times).tolist():
        yield crop.load(path, numbers, settings["img_size"])


@pytest.mark.parametrize("side", [32, 64, 176, 224])
@pytest.mark.parametrize(
    "shape", [(50, 70), (333, 250), (37, 37), (256, 600), (20, 20), (1, 1), (300, 7)]
)
def test_evaluation_equals_torchvision_bit_by_bit(save, side, shape):
    pixels = noise(*shape)
    path = save(pixels)
    standard = transforms.Compose(
        [
            transforms.Resize(round(side * 256 / 224)),
            transforms.CenterCrop(side),
            transforms.PILToTensor(),
        ]
    )
    expected = standard(read_image(path))
    ours = EvalCrop(side).load(path)
    assert ours.dtype == torch.uint8
    assert torch.equal(ours, expected)
    assert np.array_equal(np.asarray(EvalCrop(side)(pixels)), expected.permute(1, 2, 0))


@pytest.mark.parametrize(("side", "resize"), [(224, 256), (32, 37), (64, 73), (112, 128)])
def test_the_short_side_is_eight_sevenths_of_the_crop(side, resize):
    assert eval_resize(side) == resize


def test_nothing_is_drawn_from_the_global_generators(save):
    path = save(noise(50, 60))
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    EvalCrop(32).load(path)
    images = torch.stack(list(loads(path, 5, img_size=32)))
    RandomAffineErase(CPU).transform(images, draws(RandomAffineErase.NUMBERS, 5))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_normalised_pixels_equal_torchvision():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    standard = transforms.Compose(
        [
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    images = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
    ours = Normalize(CPU)(images)
    assert torch.allclose(ours[0], standard(Image.fromarray(pixels)), rtol=0, atol=1e-6)
    assert ours.dtype == torch.float32
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert images.dtype == torch.uint8


def test_normalising_leaves_the_pixels_as_they_were():
    images = torch.from_numpy(noise(2, 8, 8)).permute(0, 3, 1, 2)
    before = images.clone()
    Normalize(CPU)(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("shape", [(20, 90), (90, 20), (32, 32), (300, 200), (1, 1)])
def test_training_images_are_squares_of_bytes_whatever_the_source(save, shape):
    for pixels in loads(save(noise(*shape)), 5, img_size=48):
        assert pixels.shape == (3, 48, 48)
        assert pixels.dtype == torch.uint8


def test_a_training_image_is_the_crop_that_its_numbers_stand_for(save):
    pixels = noise(60, 45)
    path = save(pixels)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    crop = TrainCrop(DataConfig(img_size=32))
    for numbers in draws(CROP_NUMBERS, 20).tolist():
        left, top, width, height, hflip = crop.sample(numbers, 45, 60)
        expected = TF.resized_crop(image, top, left, height, width, [32, 32], antialias=True)
        assert torch.equal(crop.load(path, numbers, 32), expected.flip(2) if hflip else expected)


@pytest.mark.parametrize("crop", [TrainCrop(DataConfig(img_size=32)), EvalCrop(32)])
def test_a_crop_may_be_sent_to_a_process_that_was_started_afresh(save, crop):
    path = save(noise(60, 45))
    numbers = draws(CROP_NUMBERS, 1)[0].tolist()
    sent = pickle.loads(pickle.dumps(crop.load))
    assert torch.equal(sent(path, numbers, 32), crop.load(path, numbers, 32))


def hflip(path, **settings):
    """Of an image that is dark on its left: how many crops are darker on their right."""
    halves = (pixels.float().chunk(2, dim=2) for pixels in loads(path, **settings))
    return sum(bool(left.mean() > right.mean()) for left, right in halves)


def test_with_flip_off_nothing_is_ever_mirrored(save):
    path = save(np.linspace(0, 255, SIDE)[None, :, None].repeat(SIDE, 0).repeat(3, 2))
    settings = {"img_size": 32, "crop_scale_min": 0.5}
    assert hflip(path, flip=False, **settings) == 0
    assert 10 < hflip(path, flip=True, **settings) < 40


@pytest.mark.parametrize("crop_scale_min", [0.08, 0.9])
def test_a_crop_keeps_at_least_the_share_asked_for(save, crop_scale_min):
    side = 100
    ramp = np.linspace(0, 255, side)
    pixels = np.stack([*np.meshgrid(ramp, ramp), np.zeros((side, side))], axis=2)
    shares = []
    for crop in loads(save(pixels), img_size=64, crop_scale_min=crop_scale_min):
        width, height = (float(crop[c].max()) - float(crop[c].min()) for c in (0, 1))
        shares.append(width * height / 255**2)
    assert crop_scale_min * 0.9 < min(shares) < crop_scale_min + 0.1
    assert max(shares) > 0.85


def test_without_class_style_augmentation_no_foreign_colour_appears(save):
    for pixels in loads(save(np.zeros((SIDE, SIDE, 3))), img_size=32):
        assert not pixels.any()


WARP, HOLE = 0, 5
"""The numbers that say whether an image is warped, and whether it gets a hole."""


def style_numbers(times, *, warp=None, hole=None):
    """Random numbers, but for those that decide on a warp or a hole where these are given."""
    numbers = draws(RandomAffineErase.NUMBERS, times)
    for column, chosen in ((WARP, warp), (HOLE, hole)):
        if chosen is not None:
            numbers[:, column] = 0.499 if chosen else 0.5
    return numbers


def styled(images, numbers):
    before = images.clone()
    result = RandomAffineErase(CPU).transform(images, numbers)
    assert torch.equal(images, before)
    assert (result.shape, result.dtype) == (images.shape, torch.uint8)
    return result


def noisy(times, side=SIDE):
    return torch.from_numpy(noise(times, side, side)).permute(0, 3, 1, 2)


def black(times, side=SIDE):
    return torch.zeros(times, 3, side, side, dtype=torch.uint8)


def holes(images):
    """Where black images took the mean colour: (N, S, S)."""
    return (images == MEAN_COLOUR.view(3, 1, 1)).all(1)


def extent(masks):
    """First index and length along the last axis but one of (N, S, S), and along the last."""
    for mask in (masks.any(2), masks.any(1)):
        first, last = mask.int().argmax(1), masks.shape[1] - 1 - mask.flip(1).int().argmax(1)
        yield from (first, last - first + 1)


def test_an_image_that_is_chosen_for_nothing_is_untouched():
    images = noisy(20)
    assert torch.equal(styled(images, style_numbers(20, warp=False, hole=False)), images)


def test_about_half_of_the_images_get_a_warp_and_about_half_a_hole_independently():
    images = noisy(400, side=32)
    changed = {}
    for name, off in (("warp", {"hole": False}), ("hole", {"warp": False}), ("any", {})):
        result = styled(images, style_numbers(400, **off))
        changed[name] = (result != images).flatten(1).any(1)
    for name in ("warp", "hole"):
        assert int(changed[name].sum()) == pytest.approx(200, abs=40)
    assert int((changed["warp"] & changed["hole"]).sum()) == pytest.approx(100, abs=35)
    assert torch.equal(changed["any"], changed["warp"] | changed["hole"])


def test_what_is_uncovered_takes_the_mean_colour():
    solid = MEAN_COLOUR.view(3, 1, 1).expand(100, 3, SIDE, SIDE).contiguous()
    assert torch.equal(styled(solid, style_numbers(100)), solid)
    corners = styled(black(100), style_numbers(100, warp=True, hole=False))[..., [0, -1]]
    assert holes(corners).any()


def test_a_hole_is_one_rectangle_distributed_as_those_that_torchvision_erases():
    found = holes(styled(black(1000), style_numbers(1000, warp=False, hole=True)))
    top, height, left, width = extent(found)
    assert torch.equal(found.sum((1, 2)), height * width)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        erase = [black(1)[0], RandomAffineErase.ERASED_AREA, (1 / 3.3, 3.3), [0.0]]
        theirs = [transforms.RandomErasing.get_params(*erase)[:4] for _ in range(1000)]
    i, j, h, w = np.array(theirs).T
    for mine, other in ((top, i), (left, j), (height, h), (width, w), (height * width, h * w)):
        assert stats.ks_2samp(mine.numpy(), other).pvalue > 0.01


@pytest.mark.parametrize(("number", "corner"), [(0.0, 0), (np.nextafter(1, 0), -1)])
def test_a_hole_reaches_the_borders(number, corner):
    numbers = style_numbers(20, warp=False, hole=True)
    numbers[:, -2:] = number  # its place
    assert holes(styled(black(20), numbers))[:, corner, corner].all()


def erased(times, *, side=SIDE, probability=1.0):
    """Where rectangles were erased: (N, S, S)."""
    images = black(times, side)
    result = RandomErasing(probability, CPU).erase(images, draws(RandomErasing.NUMBERS, times))
    assert (result.shape, result.dtype, int(images.sum())) == (images.shape, torch.uint8, 0)
    return holes(result)


@pytest.mark.parametrize("side", [32, SIDE])
def test_erased_rectangles_are_distributed_as_those_of_torchvision(side):
    found = erased(3000, side=side)
    top, height, left, width = extent(found)
    assert torch.equal(found.sum((1, 2)), height * width)
    theirs = []
    transform = v2.RandomErasing(p=1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(3000):
            made = transform.make_params([black(1, side)[0]])
            theirs.append([made[name] for name in "ijhw"])
    i, j, h, w = np.array(theirs).T
    pairs = [(top, i), (left, j), (height, h), (width, w), (height * width, h * w)]
    pairs.append((height / width, h / w))
    for mine, other in pairs:
        assert stats.ks_2samp(mine.numpy(), other).pvalue > 0.01
    shares = height * width / side**2
    assert float(shares.min()) == pytest.approx(0.02, abs=0.006)
    assert float(shares.max()) == pytest.approx(0.33, abs=0.02)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_so_many_images_are_erased_as_the_probability_says(probability):
    count = int(erased(2000, side=32, probability=probability).any((1, 2)).sum())
    deviation = (2000 * probability * (1 - probability)) ** 0.5
    assert abs(count - 2000 * probability) < 4 * deviation


def test_what_never_fits_is_left_as_it_is():
    numbers = draws(RandomErasing.NUMBERS, 4)
    numbers[:, 1:-2] = np.nextafter(1, 0)  # a third of the area, 3.3 times as high as wide
    assert not holes(RandomErasing(1.0, CPU).erase(black(4), numbers)).any()
    numbers[:, 1 + 2 * 9 : -2] = 0.5  # but for the last try
    assert holes(RandomErasing(1.0, CPU).erase(black(4), numbers)).any((1, 2)).all()


@pytest.mark.parametrize("side", [33, SIDE])
def test_a_warp_is_torchvisions_of_the_angle_shift_and_scale_that_its_numbers_say(side):
    images, numbers = noisy(20, side), style_numbers(20, warp=True, hole=False)
    mean = MEAN_COLOUR.view(3, 1, 1).float()
    for image, row, ours in zip(images, numbers, styled(images, numbers), strict=True):
        low, high = RandomAffineErase.SCALE
        expected = TF.affine(
            image - mean,
            angle=RandomAffineErase.DEGREES * (2 * row[1] - 1),
            scale=low + (high - low) * row[2],
            translate=list(RandomAffineErase.TRANSLATE * side * (2 * row[3:5] - 1)),
            shear=[0.0, 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )
        assert float((ours - (expected + mean)).abs().max()) < 0.51


def test_the_style_of_an_image_is_the_same_in_any_batch():
    images, numbers = noisy(20), style_numbers(20)
    together = styled(images, numbers)
    alone = [styled(images[n : n + 1], numbers[n : n + 1]) for n in range(20)]
    assert torch.equal(torch.cat(alone), together)


class Dtypes(TorchFunctionMode):
    """Remembers the types of the tensors that are made."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.seen.add(result.dtype)
        return result


@pytest.mark.parametrize(
    "work",
    [
        lambda: crop_batch(torch.zeros(2, 9, 9, 3, dtype=torch.uint8), torch.ones(2, 5), 32),
        lambda: RandomAffineErase(CPU).transform(black(2), style_numbers(2, warp=True, hole=True)),
        lambda: RandomErasing(1.0, CPU).erase(black(2), draws(RandomErasing.NUMBERS, 2)),
        lambda: Normalize(CPU)(black(2)),
    ],
    ids=["crop", "style", "erasing", "normalise"],
)
def test_no_number_on_the_device_is_a_double_which_apples_gpus_lack(work):
    with Dtypes() as dtypes:
        work()
    assert torch.float32 in dtypes.seen
    assert torch.float64 not in dtypes.seen


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
        squashed = scale_crop(crop, (width, height), (side, side))
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
            assert scale_crop(crop, (side, side), (side, side)) == crop


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
