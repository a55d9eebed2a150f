import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import imgnet_mini
from conftest import SMALL, run_quietly, write_folder
from imgnet_mini.config.data_settings import DEFAULT_DECODING, Decoding
from imgnet_mini.data.transforms import EvalCrop, Normalize
from imgnet_mini.export.check_images import load_check_images
from imgnet_mini.export.formats import describe
from imgnet_mini.export.parity import compare_raw
from imgnet_mini.export.raw_images import RawImages

SIZES = ((48, 48), (333, 500), (500, 333), (256, 701), (32, 33), (47, 31), (1201, 900))
"""Heights and widths: smaller and larger than the crop, odd, square, exactly the resize."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    write_folder(folder / "data", train=8, val=3, classes=3)
    small = [*SMALL, "--arch", "resnet18", "--epochs", 1]  # half of shufflenet's time to export
    run_quietly(folder, "train", *small, "--max-lr", 0.05, "--name", "a")
    run_quietly(folder, "export", "--name", "a", "--inputs", "uint8")
    if find_spec("onnxscript") and find_spec("onnxruntime"):
        run_quietly(folder, "export", "--name", "a", "--inputs", "uint8", "--format", "onnx")
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path, dirs_exist_ok=True)


def draw(height, width):
    """Waves, as smooth as a photograph, with noise of ten gray levels."""
    generator = np.random.default_rng(height)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (9 + 5 * c) + c) * np.cos(y / (13 + 3 * c)) for c in range(3)]
    noise = generator.normal(0, 10, (height, width, 3))
    return (127 + 90 * np.stack(waves, 2) + noise).clip(0, 255).astype(np.uint8)


def preprocessing(side, decoding=DEFAULT_DECODING):
    return describe("resnet18", side, ["a"], decoding)["preprocessing"]


@pytest.mark.parametrize("fit", ["pad", "squash"])
def test_whole_images_are_padded_or_squashed(fit):
    decoding = Decoding(fit=fit, background="#ff0782")
    graph = RawImages(nn.Identity(), preprocessing(63, decoding))
    for size in (*SIZES, (2, 900)):
        pixels = draw(*size)
        expected = np.array(EvalCrop(63, decoding=decoding)(pixels))
        found = graph.square(torch.from_numpy(pixels)[None])[0].permute(1, 2, 0).numpy()
        difference = np.abs(found - expected)
        assert difference.max() <= 2
        assert (difference > 0).mean() < 0.2


@pytest.mark.parametrize("side", [32, 63, 224])
def test_the_crop_is_pillows_but_for_the_rounding_of_few_pixels(side):
    graph = RawImages(nn.Identity(), preprocessing(side))
    for size in SIZES:
        pixels = draw(*size)
        expected = np.array(EvalCrop(side)(pixels)).astype(np.float32)
        found = graph.square(torch.from_numpy(pixels)[None])[0].permute(1, 2, 0).numpy()
        difference = np.abs(found - expected)
        assert difference.max() <= 2
        halfway = 0.01 if min(size) > 300 else 0.2  # ratios such as 3/2 have many such values
        assert (difference > 0).mean() < halfway


def run_pt2(path):
    model = torch.export.load(path).module()
    return lambda images: model(torch.from_numpy(images)).detach().numpy()


def run_onnx(path):
    if not Path(path).exists():
        pytest.skip("onnx is not installed")
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    return lambda images: session.run(["probabilities"], {"images": images})[0]


@pytest.mark.parametrize("form", ["pt2", "onnx"])
def test_images_as_they_are_get_the_probabilities_of_predict(folder, form):
    run = {"pt2": run_pt2, "onnx": run_onnx}[form](f"exports/a/best.{form}")
    model = imgnet_mini.load_model("checkpoints/a/best.pth")
    for size in SIZES:
        pixels = draw(*size)
        wanted = model.predict([Image.fromarray(pixels)], top_k=3)[0]
        batch = run(np.stack([pixels, pixels[::-1]]))
        assert batch.shape == (2, 3)
        for found in (run(pixels[None])[0], batch[0]):
            assert found.argmax() == wanted.indices[0]
            assert found[[*wanted.indices]] == pytest.approx(wanted.probabilities, abs=2e-3)


def test_other_shapes_and_types_are_refused_by_the_runtime(folder):
    rgb = np.zeros((1, 40, 50, 3), np.uint8)
    rgba, gray, floats = np.zeros((1, 40, 50, 4), np.uint8), rgb[..., :1], rgb.astype(np.float32)
    onnx, pt2 = run_onnx("exports/a/best.onnx"), run_pt2("exports/a/best.pt2")
    for images in (rgba, gray):
        with pytest.raises(Exception, match=rf"index: 3 Got: {images.shape[3]} Expected: 3"):
            onnx(images)
        with pytest.raises(AssertionError, match=r"size\(\)\[3\] == 3"):
            pt2(images)
    with pytest.raises(Exception, match=r"Actual: \(tensor\(float\)\) , expected: \(tensor\(uint8"):
        onnx(floats)
    with pytest.raises(RuntimeError, match="Expected: Byte, Got: float"):
        pt2(floats)


def test_the_description_tells_what_the_graph_takes(folder):
    inside = {"imgnet-mini.json": ""}
    torch.export.load("exports/a/best.pt2", extra_files=inside)
    said = json.loads(Path("exports/a/best.pt2.json").read_bytes())
    assert json.loads(inside["imgnet-mini.json"]) == said
    assert said["input"] == {
        "name": "images",
        "shape": ["batch", "height", "width", 3],
        "type": "uint8",
        "channels": "RGB; gray and transparent images have to be converted",
    }
    assert said["output"] == {"name": "probabilities", "shape": ["batch", 3], "type": "float32"}
    assert said["preprocessing"]["inside"] == "resize to normalization"


def test_a_missing_folder_is_replaced_by_random_images_of_several_sizes():
    images = load_check_images(
        Path("gone"), EvalCrop(32), Decoding(), img_size=32, keep_pictures=True
    )
    assert images.source == "random images"
    assert images.crops.shape == (16, 3, 32, 32)
    assert len({picture.shape for picture in images.pictures}) == len(images.pictures) == 16
    assert {picture.dtype for picture in images.pictures} == {torch.uint8}


@pytest.mark.parametrize("form", ["torchscript", "safetensors", "state-dict"])
def test_formats_that_hold_no_resize_are_refused(folder, cli, form):
    assert cli("export", "--name", "a", "--inputs", "uint8", "--format", form) == 2
    assert cli.says("use --format onnx or pt2")
    assert cli("export", "--name", "a", "--inputs", "int8") == 2
    assert cli.says("--inputs int8: choose one of float32, uint8")


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 4)

    def forward(self, images):
        return self.layer(images.mean((2, 3)))


@pytest.mark.parametrize(
    ("change", "matches"),
    [
        (lambda images, output: output, True),
        (lambda images, output: output.flip(1), False),
        (lambda images, output: output * torch.nan, False),
        (lambda images, output: (output.log() * 0.97).softmax(1), False),
        (lambda images, output: output.flip(1) if len(images) > 1 else output, False),
    ],
    ids=["itself", "other-classes", "not-finite", "less-sure", "wrong-in-a-batch"],
)
def test_parity_sees_another_model(change, matches):
    model = Linear().eval()
    graph = RawImages(model, preprocessing(32)).eval()
    pictures = [torch.from_numpy(draw(*size)) for size in SIZES[:4]]
    crops = [np.array(EvalCrop(32)(picture.numpy())) for picture in pictures]
    images = Normalize(torch.device("cpu"))(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2))
    exported = lambda images: change(images, graph(images))  # noqa: E731
    parity = compare_raw(graph, model, exported, pictures, images)
    assert parity.is_match == matches
