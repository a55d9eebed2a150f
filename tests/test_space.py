"""`export --format space`: a folder that classifies as `predict` does, without this package."""

import importlib
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import SMALL, run_quietly, write_folder
from imgnet_mini.data import images as decoder
from imgnet_mini.export.space_files import classifier as packaged

NAMES = ["[red]{{7*7}}", "<b>", "n01440764"]
FILES = [
    *("README.md", "app.py", "classifier.py", "examples", "fit.py", "model.onnx", "pixels.py"),
]
GPS, ORIENTATION, CAMERA = 0x8825, 0x0112, 0x010F


def draw(width, height, mode="RGB"):
    values = np.random.default_rng(width).integers(0, 256, (height, width, 4), np.uint8)
    return Image.fromarray(values).convert(mode)


def add_odd_images(folder):
    """Images that a program reads otherwise unless it decodes as in training."""
    tags = Image.Exif()
    tags[ORIENTATION], tags[CAMERA], tags[GPS] = 6, "secret-marker", {1: "N", 2: (1.0, 2.0, 3.0)}
    draw(60, 40).save(folder / "turned.jpg", exif=tags)
    draw(50, 40, "RGBA").save(folder / "clear.png")
    draw(50, 40, "CMYK").save(folder / "print.jpg")
    draw(50, 40, "P").save(folder / "palette.gif")
    draw(3, 900).save(folder / "strip.png")
    draw(1, 1).save(folder / "dot.png")
    draw(37, 37).save(folder / "of_the_size.png")
    deep = np.linspace(0, 65535, 40 * 36).reshape(40, 36).astype(np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    (folder / "broken.png").write_bytes(b"<html>")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with a run `a` on classes with odd names, and its export in `space`."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("space")
    write_folder(folder / "data", train=8, val=3, classes=NAMES)
    run_quietly(folder, "train", *SMALL, "--epochs", 1, "--max-lr", 0.05, "--name", "a")
    add_odd_images(folder / "data/val/<b>")
    run_quietly(folder, "export", "--name", "a", "--format", "space", "--output", "space")
    return folder


@pytest.fixture
def run_folder(exported, tmp_path):
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def classifier(run_folder, monkeypatch):
    """The folder's own `classifier` module, imported as in the folder."""
    monkeypatch.syspath_prepend(run_folder / "space")
    yield importlib.import_module("classifier")
    for name in ("classifier", "fit", "pixels"):
        del sys.modules[name]


def test_the_folder_holds_all_that_the_page_needs(exported):
    folder = exported / "space"
    assert sorted(path.name for path in folder.iterdir()) == [*FILES, "requirements.txt"]
    for path in folder.glob("*.py"):
        source = path.read_text("utf-8")
        compile(source, path.name, "exec")
        assert not re.search(r"^\s*(from|import) (imgnet_mini|torch)", source, re.MULTILINE)
    for path in folder.rglob("*.*"):
        if path.is_file():
            assert str(exported).encode() not in path.read_bytes()
            assert b"secret-marker" not in path.read_bytes()


def test_each_requirement_is_pinned_and_gradio_as_in_the_head_of_the_readme(exported):
    yaml = pytest.importorskip("yaml")
    lines = (exported / "space/requirements.txt").read_text("ascii").splitlines()
    pins = dict(line.split("==") for line in lines)
    assert list(pins) == ["gradio", "numpy", "onnxruntime", "pillow"]
    readme = (exported / "space/README.md").read_text("utf-8")
    head = yaml.safe_load(readme.split("---\n")[1])
    assert (head["sdk"], head["sdk_version"], head["app_file"]) == (
        *("gradio", pins["gradio"]),
        "app.py",
    )
    assert head["title"] == "a"
    assert head["python_version"] == "3.12"  # the default is too old for the pins
    assert len(head["short_description"]) <= 60


def test_examples_are_small_upright_and_without_metadata(exported):
    examples = sorted((exported / "space/examples").iterdir())
    assert [path.name for path in examples] == [f"{number}.jpg" for number in range(1, 7)]
    for path in examples:
        with Image.open(path) as image:
            assert max(image.size) <= 640
            assert "exif" not in image.info


def test_the_folder_gives_the_probabilities_of_predict(run_folder, classifier, cli):
    assert cli("predict", "data/val", "--name", "a", "--json") == 1  # one is broken
    document = json.loads(cli.out)
    model = classifier.Classifier(Path("space/model.onnx"))
    assert len(document["images"]) == 17
    for image in document["images"]:
        found = model.classify(Path(image["image"]))
        expected = {entry["name"]: entry["probability"] for entry in image["predictions"]}
        assert found == pytest.approx(expected, abs=2e-5), image["image"]
        assert list(found.values()) == sorted(found.values(), reverse=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty.jpg", "is empty"),
        ("text.jpg", "Use JPEG, PNG, WebP"),
        ("cut.png", "damaged or incomplete"),
        ("deep.tiff", "8 bits per channel"),
        ("huge.png", "more than 50 million pixels"),
        ("program.eps", "Use JPEG, PNG, WebP"),
    ],
)
def test_an_image_that_cannot_be_used_is_one_sentence(run_folder, classifier, name, message):
    Path("empty.jpg").touch()
    Path("text.jpg").write_bytes(b"<html>")
    draw(90, 90).save("whole.png")
    Path("cut.png").write_bytes(Path("whole.png").read_bytes()[:2000])
    Image.fromarray(np.full((9, 9), 900, np.int32)).save("deep.tiff")
    Image.new("1", (8000, 8000)).save("huge.png")
    draw(9, 9).save("program.eps")
    model = classifier.Classifier(Path("space/model.onnx"))
    with pytest.raises(classifier.ImageError, match=message):
        model.classify(Path(name))


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_images_are_fitted_as_by_predict(run_folder, classifier, cli, fit):
    """As a checkpoint says that was trained so; of the weights only one training is needed."""
    path = Path("checkpoints/a/best.pth")
    content = torch.load(path, weights_only=True)
    content["config"]["data"] |= {"fit": fit, "background": "blue"}
    torch.save(content, "other.pth")
    checkpoint = ("--checkpoint", "other.pth")
    assert cli("export", *checkpoint, "--format", "onnx", "--output", "other.onnx") == 0, cli.err
    model = classifier.Classifier(Path("other.onnx"))
    names = ("strip.png", "turned.jpg", "dot.png", "clear.png")
    files = [f"data/val/<b>/{name}" for name in names]
    assert cli("predict", *checkpoint, "--json", *files) == 0, cli.err
    for image in json.loads(cli.out)["images"]:
        found = model.classify(Path(image["image"]))
        expected = {entry["name"]: entry["probability"] for entry in image["predictions"]}
        assert found == pytest.approx(expected, abs=2e-5), image["image"]


def test_two_classes_of_one_name_stay_two():
    labels = packaged._distinct(["crane", "dog", "crane"], ["n1", "n2", "n3"])
    assert labels == ["crane (n1)", "dog", "crane (n3)"]


def test_the_limits_are_those_of_predict():
    assert (packaged.FORMATS, packaged.MAX_PIXELS) == (decoder.FORMATS, decoder.MAX_PIXELS)


def test_what_is_in_the_folder_stays_unless_it_is_to_be_replaced(run_folder, cli):
    Path("space").rename("my space")
    export = ("export", "--name", "a", "--format", "space", "--output", "my space")
    Path("my space/notes.txt").write_text("mine", "utf-8")
    Path("my space/app.py").write_text("mine", "utf-8")
    assert cli(*export) == 2
    assert cli.says("my space exists; replace it with --overwrite")
    assert Path("my space/app.py").read_text("utf-8") == "mine"
    shutil.rmtree("data/val")
    assert cli(*export, "--overwrite") == 0, cli.err
    assert "Wrote my space, with 0 images of data/val as examples" in cli.out
    assert "cd 'my space' && pip install -r requirements.txt && python app.py" in cli.out
    assert "hf upload USER/NAME 'my space' . --repo-type space" in cli.out
    assert Path("my space/app.py").read_text("utf-8") != "mine"
    assert Path("my space/notes.txt").read_text("utf-8") == "mine"
