import hashlib
import json
import os
import shutil
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from torchvision import transforms

from conftest import SMALL, run_quietly, write_folder
from imgnet_mini.export import formats
from imgnet_mini.runs.predictions import load_predictions

NAMES = ["[red]{{7*7}}", "=cmd()", "n01440764"]
SUFFIXES = {
    "pt2": ".pt2",
    "torchscript": ".pt",
    "onnx": ".onnx",
    "safetensors": ".safetensors",
    "state-dict": ".pth",
}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A folder with a run named `a` on classes with odd names, evaluated, and its `data`."""
    folder = tmp_path_factory.mktemp("evaluated")
    write_folder(folder / "data", train=8, val=3, classes=NAMES)
    run_quietly(folder, "train", *SMALL, "--epochs", 1, "--max-lr", 0.05, "--name", "a")
    run_quietly(folder, "evaluate", "--name", "a")
    return folder


@pytest.fixture
def trained(evaluated, tmp_path):
    shutil.copytree(evaluated, tmp_path, dirs_exist_ok=True)


@pytest.fixture
def export(trained, cli):
    return lambda *args: cli("export", "--name", "a", *args)


def validation_images(description):
    """As whoever runs the file would prepare them, from what is said beside it."""
    said = description["preprocessing"]
    load = transforms.Compose(
        [
            transforms.Resize(said["resize"]),
            transforms.CenterCrop(said["center_crop"]),
            transforms.ToTensor(),
            transforms.Normalize(said["mean"], said["std"]),
        ]
    )
    folder = torchvision.datasets.ImageFolder("data/val", load)
    assert folder.classes == description["classes"]
    return torch.stack([image for image, _ in folder])


def run_file(path, form, images):
    """The file in the hands of its own libraries, and what it holds of the description."""
    if form == "pt2":
        inside = {formats.EXTRA_FILE: ""}
        return torch.export.load(path, extra_files=inside).module()(images), inside
    if form == "torchscript":
        inside = {formats.EXTRA_FILE: ""}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`torch.jit")
            return torch.jit.load(path, _extra_files=inside)(images), inside
    if form == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        inside = session.get_modelmeta().custom_metadata_map
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0]), inside
    inside = {}
    if form == "safetensors":
        safetensors = pytest.importorskip("safetensors")
        with safetensors.safe_open(path, "pt") as file:
            inside = file.metadata()
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    else:
        weights = torch.load(path, weights_only=True)
    model = torchvision.models.shufflenet_v2_x0_5(num_classes=len(NAMES)).eval()
    model.load_state_dict(weights)
    return model(images), inside


def need(form):
    for package in formats.FORMATS[form].packages:
        pytest.importorskip(package)


@pytest.mark.parametrize("form", SUFFIXES)
def test_an_exported_file_says_of_real_images_what_evaluate_says(export, cli, form):
    need(form)
    assert export("--format", form) == 0, cli.err
    path = Path(f"exports/a/best{SUFFIXES[form]}")
    assert f"Wrote {path} and {path}.json" in cli.out
    assert "Checked on 9 images of data/val: the same top-1 on all of them" in cli.out
    description = json.loads(Path(f"{path}.json").read_text("ascii"))
    images = validation_images(description)
    expected = load_predictions(Path("reports/a/predictions.csv"), tuple(sorted(NAMES)))
    with torch.no_grad():
        for count in (9, 1, 4):  # any number at once
            logits, inside = run_file(path, form, images[:count])
            top = logits.softmax(1).topk(3)
            assert top.indices.tolist() == expected.top[:count].tolist()
            assert top.values.numpy() == pytest.approx(expected.probabilities[:count], abs=1e-4)
    if formats.EXTRA_FILE in inside:
        assert json.loads(inside[formats.EXTRA_FILE]) == description
    elif inside:
        assert inside["arch"] == "shufflenet_v2_x0_5"
        for name in ("preprocessing", "classes", "names", "epoch"):
            assert json.loads(inside[name]) == description[name]
    else:
        assert form == "state-dict"


@pytest.mark.parametrize("form", ["pt2", "torchscript", "onnx"])
def test_an_exported_file_names_no_folder_of_this_machine(export, cli, form):
    need(form)
    assert export("--format", form) == 0, cli.err
    path = Path(f"exports/a/best{SUFFIXES[form]}")
    contents = [path.read_bytes(), Path(f"{path}.json").read_bytes()]
    if zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        contents += [archive.read(name) for name in archive.namelist()]
    for folder in (Path(torch.__file__).parents[1], Path(formats.__file__).parents[2], Path.cwd()):
        assert not any(os.fsencode(folder) in content for content in contents)


@pytest.mark.parametrize("form", ["safetensors", "state-dict"])
def test_the_same_weights_give_the_same_file(export, cli, form):
    need(form)
    digests = set()
    for number in range(5):  # two keys in random order are equal half of the time
        assert export("--format", form, "--output", f"{number}.any") == 0, cli.err
        digests.add(hashlib.sha256(Path(f"{number}.any").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_what_is_beside_a_file_describes_it(export, cli):
    assert export("--format", "state-dict") == 0, cli.err
    said = json.loads(Path("exports/a/best.pth.json").read_bytes())
    checkpoint = Path("checkpoints/a/best.pth").read_bytes()
    assert said["checkpoint_sha256"] == hashlib.sha256(checkpoint).hexdigest()
    assert said["epoch"] == 0
    assert said["classes"] == sorted(NAMES)
    assert said["names"] == [{"n01440764": "tench"}.get(name, name) for name in sorted(NAMES)]
    assert said["input"]["shape"] == ["batch", 3, 32, 32]
    assert said["output"]["shape"] == ["batch", 3]
    assert said["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert said["preprocessing"]["std"] == [0.229, 0.224, 0.225]


def test_the_ending_of_the_output_says_the_format(export, cli):
    assert export("--output", "other/weights.pth") == 0, cli.err
    assert "as state-dict" in cli.out
    assert torch.load("other/weights.pth", weights_only=True)["fc.weight"].shape[0] == 3
    assert Path("other/weights.pth.json").is_file()


def test_without_the_data_it_is_checked_on_random_images(export, cli):
    Path("data").rename("gone")
    assert export("--format", "state-dict") == 0, cli.err
    assert "Checked on 16 random images" in cli.out


def test_a_broken_validation_image_is_passed_over(export, cli):
    next(Path("data/val").rglob("*.png")).write_bytes(b"<html>")
    assert export("--format", "state-dict") == 0, cli.err
    assert "Checked on 8 images of data/val" in cli.out


def test_a_plain_state_dict_can_be_exported(data, cli):
    torch.save(torchvision.models.resnet18(num_classes=5).state_dict(), "plain.pth")
    arguments = ["--checkpoint", "plain.pth", "--arch", "resnet18", "--img-size", 64]
    assert cli("export", *arguments, "--output", "a.pt2") == 0, cli.err
    said = json.loads(Path("a.pt2.json").read_bytes())
    assert said["classes"] == [f"class {number}" for number in range(5)]
    assert said["epoch"] is None


@pytest.mark.parametrize("there", ["best.pth", "best.pth.json"])
def test_a_file_that_is_there_is_replaced_only_on_demand(export, cli, there):
    path = Path("exports/a", there)
    path.parent.mkdir(parents=True)
    path.write_text("mine", "utf-8")
    assert export("--format", "state-dict") == 2
    assert cli.says(f"{path} exists; replace it with --overwrite")
    assert [one.name for one in path.parent.iterdir()] == [there]
    assert path.read_text("utf-8") == "mine"
    assert export("--format", "state-dict", "--overwrite") == 0, cli.err
    assert sorted(one.name for one in path.parent.iterdir()) == ["best.pth", "best.pth.json"]
    assert path.read_bytes() != b"mine"


def test_a_file_that_says_something_else_is_not_kept(export, cli, monkeypatch):
    def write_another(model, images, description, file):
        weights = model.state_dict()
        weights["fc.bias"] = weights["fc.bias"] + torch.tensor([0.0, 5.0, 0.0])
        torch.save(weights, file)

    kind = replace(formats.FORMATS["state-dict"], write=write_another)
    monkeypatch.setitem(formats.FORMATS, "state-dict", kind)
    for options in ([], ["--overwrite"]):
        assert export("--format", "state-dict", *options) == 1
        assert cli.says("the exported model does not match")
        assert cli.says("The file was not kept")
        assert list(Path("exports/a").iterdir()) == []


def test_a_missing_extra_is_named_with_the_command_that_brings_it(export, cli, monkeypatch):
    kind = replace(formats.FORMATS["onnx"], packages=("onnx", "not_a_package"))
    monkeypatch.setitem(formats.FORMATS, "onnx", kind)
    assert export("--format", "onnx") == 2
    assert cli.says("--format onnx requires")
    assert cli.says("not_a_package")
    assert cli.says('pip install "imgnet-mini[onnx]"')


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--format", "pickle"], 2, "choose one of pt2, torchscript, onnx"),
        (["--checkpoint", "nowhere.pth"], 6, "no checkpoint nowhere.pth"),
        (["--output", "checkpoints/a/best.pth", "--overwrite"], 2, "that is the checkpoint itself"),
        (["--output", "data/train/x.pth/y.pth"], 5, "cannot write"),
        (["--arch", "resnet18"], 6, "holds a shufflenet_v2_x0_5"),
    ],
)
def test_what_cannot_be_done_is_one_message_and_no_file(export, cli, arguments, code, words):
    Path("data/train/x.pth").touch()
    before = sorted(Path.cwd().rglob("*"))
    assert export("--format", "state-dict", *arguments) == code
    assert cli.says(words)
    assert sorted(Path.cwd().rglob("*")) == before
