import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from imgnet_mini.config import DataConfig
from imgnet_mini.data.images import read_image
from imgnet_mini.data.transforms import (
    MEAN,
    EvalLoad,
    Normalise,
    TrainLoad,
    eval_resize,
)

MEAN_COLOUR = [round(value) for value in MEAN]


@pytest.fixture(autouse=True)
def _keep_generator():
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.fixture
def save(tmp_path):
    def write(pixels):
        path = tmp_path / "image.png"
        Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
        return path

    return write


def solid(colour, side=64):
    return np.full((side, side, 3), colour)


def loads(load, path, times=50):
    for seed in range(times):
        torch.manual_seed(seed)
        yield load(path)


@pytest.mark.parametrize("side", [32, 64, 176, 224])
@pytest.mark.parametrize("shape", [(50, 70), (333, 250), (37, 37), (256, 600), (20, 20)])
def test_evaluation_equals_torchvision_bit_by_bit(save, side, shape):
    path = save(np.random.default_rng(0).integers(0, 256, (*shape, 3)))
    standard = transforms.Compose(
        [
            transforms.Resize(round(side * 256 / 224)),
            transforms.CenterCrop(side),
            transforms.PILToTensor(),
        ]
    )
    ours = EvalLoad(side)(path)
    assert ours.dtype == torch.uint8
    assert torch.equal(ours, standard(read_image(path)))


@pytest.mark.parametrize(("side", "resize"), [(224, 256), (32, 37), (64, 73), (112, 128)])
def test_the_short_side_is_eight_sevenths_of_the_crop(side, resize):
    assert eval_resize(side) == resize


def test_evaluation_draws_no_random_numbers(save):
    path = save(solid((1, 2, 3)))
    state = torch.get_rng_state()
    EvalLoad(32)(path)
    assert torch.equal(torch.get_rng_state(), state)


def test_normalised_pixels_equal_torchvision():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    standard = transforms.Compose(
        [
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    images = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
    ours = Normalise(torch.device("cpu"))(images)
    assert torch.allclose(ours[0], standard(Image.fromarray(pixels)), rtol=0, atol=1e-6)
    assert ours.dtype == torch.float32
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert images.dtype == torch.uint8


def test_normalising_leaves_the_pixels_as_they_were():
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    before = images.clone()
    Normalise(torch.device("cpu"))(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("shape", [(20, 90), (90, 20), (32, 32), (300, 200)])
@pytest.mark.parametrize("style", [False, True])
def test_training_images_are_squares_of_bytes_whatever_the_source(save, shape, style):
    load = TrainLoad(DataConfig(img_size=48, use_class_style_aug=style))
    for pixels in loads(load, save(np.zeros((*shape, 3))), times=5):
        assert pixels.shape == (3, 48, 48)
        assert pixels.dtype == torch.uint8


@pytest.mark.parametrize("style", [False, True])
def test_the_generator_alone_decides_the_augmentation(save, style):
    path = save(np.random.default_rng(0).integers(0, 256, (60, 60, 3)))
    load = TrainLoad(DataConfig(img_size=32, use_class_style_aug=style))
    first, second = list(loads(load, path, 20)), list(loads(load, path, 20))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])


def mirrored(path, data):
    """Of an image that is dark on its left: which crops are darker on their right."""
    for pixels in loads(TrainLoad(data), path):
        half = pixels.shape[2] // 2
        yield bool(pixels[..., :half].float().mean() > pixels[..., half:].float().mean())


def test_with_flip_off_nothing_is_ever_mirrored(save):
    path = save(np.linspace(0, 255, 64)[None, :, None].repeat(64, 0).repeat(3, 2))
    settings = {"img_size": 32, "min_crop": 0.5}
    for style in (False, True):
        data = DataConfig(flip=False, use_class_style_aug=style, **settings)
        assert not any(mirrored(path, data))
    assert 10 < sum(mirrored(path, DataConfig(flip=True, **settings))) < 40


@pytest.mark.parametrize("min_crop", [0.08, 0.9])
def test_a_crop_keeps_at_least_the_share_asked_for(save, min_crop):
    side = 100
    ramp = np.linspace(0, 255, side)
    pixels = np.stack([*np.meshgrid(ramp, ramp), np.zeros((side, side))], axis=2)
    shares = []
    for crop in loads(TrainLoad(DataConfig(img_size=64, min_crop=min_crop)), save(pixels)):
        width, height = (float(crop[c].max()) - float(crop[c].min()) for c in (0, 1))
        shares.append(width * height / 255**2)
    assert min_crop * 0.9 < min(shares) < min_crop + 0.1
    assert max(shares) > 0.85


def test_what_class_style_augmentation_uncovers_takes_the_mean_colour(save):
    load = TrainLoad(DataConfig(img_size=64, use_class_style_aug=True))
    mean = torch.tensor(MEAN_COLOUR, dtype=torch.uint8).view(3, 1, 1)
    for pixels in loads(load, save(solid(MEAN_COLOUR))):
        # torchvision darkens the rim of a warped image, one pixel wide, by up to a quarter.
        assert float((pixels == mean).all(0).float().mean()) > 0.9
        assert (pixels <= mean).all()
        assert (pixels >= 0.74 * mean).all()


def test_half_of_the_images_get_a_hole(save):
    load = TrainLoad(DataConfig(img_size=64, use_class_style_aug=True))
    mean = torch.tensor(MEAN_COLOUR, dtype=torch.uint8).view(3, 1, 1)
    shares = [
        float((pixels[:, 16:48, 16:48] == mean).all(0).float().mean())
        for pixels in loads(load, save(solid((0, 0, 0))), 100)
    ]
    assert 25 < sum(share > 0 for share in shares) < 65
    assert max(shares) < 0.45


def test_without_class_style_augmentation_no_foreign_colour_appears(save):
    for pixels in loads(TrainLoad(DataConfig(img_size=32)), save(solid((0, 0, 0)))):
        assert not pixels.any()
