import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from conftest import SMALL
from helpers.packs import build, plan_of
from imgnet_mini.config.data_settings import DataConfig, Decoding
from imgnet_mini.config.run_settings import RunSection
from imgnet_mini.data.crops import CROP_NUMBERS, crop_image
from imgnet_mini.data.fit import padding_color, place_in_square
from imgnet_mini.data.loaders import build_eval_loader, build_train_loader
from imgnet_mini.data.rng import uniforms
from imgnet_mini.data.splits import open_splits
from imgnet_mini.data.transforms import EvalCrop, Normalize, TestTimeAugmentation, TrainCrop
from imgnet_mini.errors import DataError
from imgnet_mini.export.formats import describe
from imgnet_mini.export.hub import describe_for_timm

CPU = torch.device("cpu")
FITS = ("crop", "pad", "squash")
SHAPES = [(40, 60), (61, 37), (300, 7), (1, 500), (48, 48)]
"""Height and width."""


def smooth(height, width):
    """A gradient with a color of its own in each corner, which a slight blur hardly changes."""
    down, across = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return (255 * np.stack([down, across, (down + across) / 2], 2)).astype(np.uint8)


def settings(fit, **more):
    return DataConfig(img_size=32, batch_size=3, workers=0, fit=fit, background="red", **more)


@pytest.mark.parametrize("shape", SHAPES)
def test_evaluation_sees_the_whole_image_padded_or_squashed(shape):
    pixels = smooth(*shape)
    image = Image.fromarray(pixels)
    squashed = np.array(EvalCrop(64, decoding=Decoding(fit="squash"))(pixels))
    assert np.array_equal(squashed, np.array(image.resize((64, 64), Image.Resampling.BILINEAR)))
    padded = EvalCrop(64, decoding=Decoding(fit="pad", background="#010203"))(pixels)
    if 4 * min(shape) > max(shape):  # a pixel is little of it
        theirs = ImageOps.pad(image, (64, 64), Image.Resampling.BILINEAR, color=(1, 2, 3))
        assert np.abs(np.array(padded, int) - np.array(theirs, int)).mean() < 3  # half a pixel
    left, top, width, height = place_in_square(shape[1], shape[0], 64)
    inside = np.zeros((64, 64), bool)
    inside[top : top + height, left : left + width] = True
    assert (np.array(padded)[~inside] == (1, 2, 3)).all()
    small = image.resize((width, height), Image.Resampling.BILINEAR)
    assert np.array_equal(np.array(padded)[inside], np.array(small).reshape(-1, 3))


def test_padding_has_the_color_of_the_background_and_is_black_without_one():
    assert padding_color("white") == (255, 255, 255)
    assert padding_color("#102030") == (16, 32, 48)
    assert padding_color("none") == (0, 0, 0)


@pytest.mark.parametrize("fit", FITS)
def test_of_a_square_image_each_makes_the_same_training_crops(tmp_path, fit):
    Image.fromarray(smooth(48, 48)).save(tmp_path / "a.png")
    for numbers in uniforms(0, 0, np.arange(20), CROP_NUMBERS).tolist():
        ours = TrainCrop(settings(fit)).load(tmp_path / "a.png", numbers, 32)
        theirs = TrainCrop(settings("crop")).load(tmp_path / "a.png", numbers, 32)
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("shape", SHAPES)
def test_training_crops_are_those_of_the_padded_or_squashed_image(tmp_path, shape):
    pixels = smooth(*shape)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    height, width = shape
    side = max(shape)
    whole = {"squash": np.array(Image.fromarray(pixels).resize((side, side)))}
    whole["pad"] = np.full((side, side, 3), (255, 0, 0), np.uint8)
    left, top, *_ = place_in_square(width, height, side)
    whole["pad"][top : top + height, left : left + width] = pixels
    for fit, square in whole.items():
        crop = TrainCrop(settings(fit))
        for numbers in uniforms(0, 0, np.arange(30), CROP_NUMBERS).tolist():
            ours = crop.load(tmp_path / "a.png", numbers, 32)
            expected = crop_image(square, crop.sample(numbers, width, height), 32)
            assert (ours.shape, ours.dtype) == ((3, 32, 32), torch.uint8)
            difference = (ours.float() - expected.float()).abs()
            limit = 6 if 4 * min(shape) > max(shape) else 12
            assert difference.mean() < limit  # a pixel along the edge of the padding


@pytest.mark.parametrize("shape", SHAPES)
def test_a_crop_of_a_padded_image_has_no_more_padding_than_it_must(shape):
    height, width = shape
    side = max(shape)
    left, top, *_ = place_in_square(width, height, side)
    starts = set()
    for numbers in uniforms(0, 0, np.arange(200), CROP_NUMBERS).tolist():
        crop = TrainCrop(settings("pad")).sample(numbers, width, height)
        assert 0 <= crop.left < crop.left + crop.width <= side
        assert 0 <= crop.top < crop.top + crop.height <= side
        shown = min(crop.left + crop.width, left + width) - max(crop.left, left)
        assert shown == min(crop.width, width)
        shown = min(crop.top + crop.height, top + height) - max(crop.top, top)
        assert shown == min(crop.height, height)
        starts.add((crop.left, crop.top))
    assert len(starts) > 20


@pytest.fixture
def photographs():
    """Three classes of images that are not square."""
    for split, count in (("train", 3), ("val", 2)):
        for name, (height, width) in zip("abc", [(40, 60), (90, 30), (33, 48)], strict=True):
            folder = Path("data", split, name)
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(smooth(height + number, width)).save(folder / f"{number}.png")


def images_of(data):
    return open_splits(RunSection(data_root=Path("data")), data)


def batches(loader):
    with closing(loader):
        return torch.cat([images for images, _ in loader.epoch(0)])


@pytest.mark.parametrize("fit", FITS)
def test_a_pack_has_the_crops_of_the_files(photographs, fit):
    build(pack_size=96, decoding=settings(fit).decoding)
    seen = {}
    for loader in ("folder", "pack"):
        data = settings(fit, loader=loader)
        images = images_of(data)
        train = build_train_loader(data, images, seed=0, device=CPU)
        seen[loader] = batches(train), batches(build_eval_loader(data, images, device=CPU))
    trained, validated = ((a - b).abs() for a, b in zip(*seen.values(), strict=True))
    assert validated.max() == 0
    assert trained.mean() < 0.06  # of a standard deviation


def test_packs_differ_by_how_images_are_fitted_and_are_not_mixed_up(photographs, cli):
    plans = {fit: plan_of(decoding=Decoding(fit=fit)).id for fit in FITS}
    assert len(set(plans.values())) == 3
    assert build(decoding=Decoding()).id == plans["crop"]
    with pytest.raises(DataError, match=r"decoded with .* --fit pad: rebuild it") as refused:
        images_of(DataConfig(img_size=32, fit="pad", loader="pack"))
    assert (
        "imgnet-mini prepare --data-root data --fit pad --img-size 32" in refused.value.__notes__[0]
    )
    assert images_of(DataConfig(img_size=32, fit="pad")).loader == "folder"
    assert cli("prepare", "--data-root", "data", "--img-size", 32, "--fit", "pad") == 0, cli.err
    assert images_of(DataConfig(img_size=32, fit="pad")).loader == "pack"


def test_ten_crops_of_a_fitted_image_are_of_the_whole(photographs):
    view = TestTimeAugmentation.TEN_CROP
    decoding = Decoding(fit="squash")
    square = view.source_crop(32, decoding).load(Path("data/val/b/0.png"))
    assert square.shape == (3, 40, 40)
    assert np.array_equal(square.permute(1, 2, 0), EvalCrop(40, decoding=decoding)(smooth(90, 30)))


def test_all_that_follows_a_training_fits_images_as_it_did(photographs, cli):
    small = ("--batch-size", 3, "--epochs", 2, "--max-lr", 1e-3)
    command = (*SMALL, *small, "--arch", "squeezenet1_1")
    assert cli("train", *command, "--name", "a", "--fit", "stretch") == 2
    assert cli.says("--fit stretch: should be 'crop', 'pad' or 'squash'")
    assert cli("train", *command, "--name", "a", "--fit", "pad") == 0, cli.err
    content = torch.load("checkpoints/a/best.pth", weights_only=True)
    assert content["config"]["data"]["fit"] == "pad"
    assert cli("resume", "--name", "a", "--fit", "crop") == 2
    assert cli.says("--fit crop: this run was started with pad")

    assert cli("evaluate", "--name", "a") == 0, cli.err
    metrics = json.loads(Path("reports/a/metrics.json").read_text())
    assert (metrics["fit"], metrics["img_size"], metrics["resize"]) == ("pad", 32, 32)
    rows = Path("reports/a/predictions.csv").read_text().splitlines()[1:]
    files = ["data/val/" + row.split(",")[0] for row in rows]
    checkpoint = ("--checkpoint", "checkpoints/a/best.pth")
    expected = [float(row.split(",")[3]) for row in rows]
    for flags, used in (((), ("pad", 32)), (("--fit", "crop"), ("crop", 37))):
        assert cli("predict", *checkpoint, "--json", *flags, *files) == 0, cli.err
        document = json.loads(cli.out)
        assert (document["fit"], document["resize"]) == used
        found = [image["predictions"][0]["probability"] for image in document["images"]]
        assert (found == pytest.approx(expected, abs=2e-6)) == (used[0] == "pad")
    assert cli("export", *checkpoint, "--output", "a.safetensors") == 0, cli.err
    described = json.loads(Path("a.safetensors.json").read_text())["preprocessing"]
    assert (described["fit"], described["resize_side"], described["resize"]) == (
        *("pad", "longest", 32),
    )
    assert described["padding"] == [255, 255, 255]
    assert cli("predict", "--checkpoint", "a.safetensors", "--json", *files) == 0, cli.err
    assert json.loads(cli.out)["fit"] == "pad"


@pytest.mark.parametrize("fit", FITS)
def test_timm_prepares_images_of_an_export_for_the_hub_alike(fit):
    timm_data = pytest.importorskip("timm.data")
    decoding = Decoding(fit=fit, background="rgb(124, 116, 104)")  # that of timm's borders
    description = describe("resnet18", 64, ["a"], decoding)
    said = describe_for_timm(description, license_id="mit")["pretrained_cfg"]
    names = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
    transform = timm_data.create_transform(**{name: said[name] for name in names})
    for shape in ((40, 60), (96, 37), (64, 64)):
        crop = torch.from_numpy(np.array(EvalCrop(64, decoding=decoding)(smooth(*shape))))
        ours = Normalize(CPU)(crop.permute(2, 0, 1).unsqueeze(0))[0]
        assert (transform(Image.fromarray(smooth(*shape))) - ours).abs().mean() < 1e-2
