import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.metrics import accuracy_score
from torchvision import transforms

import imgnet_mini
from imgnet_mini.runs.predictions import load_predictions
from imgnet_mini.runs.records import read_csv


@pytest.fixture
def trained(data, copy_run):
    copy_run(data.parent, "--max-lr", 0.05)


def metrics(name="a"):
    return json.loads(Path(f"reports/{name}/metrics.json").read_text("utf-8"))


def test_best_weights_in_plain_torchvision_score_the_same_to_the_image(trained, cli):
    assert cli("evaluate", "--name", "a") == 0, cli.err
    model = torchvision.models.shufflenet_v2_x0_5(num_classes=3)
    model.load_state_dict(torch.load("checkpoints/a/best.pth", weights_only=True)["model"])
    load = transforms.Compose(
        [
            transforms.Resize(37),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    folder = torchvision.datasets.ImageFolder("data/val", load)
    with torch.no_grad():
        said = [int(model.eval()(image[None]).argmax()) for image, _ in folder]
    hits = accuracy_score(folder.targets, said, normalize=False)
    assert metrics()["top1"] == 100 * hits / len(said)
    predictions = load_predictions(Path("reports/a/predictions.csv"), tuple(folder.classes))
    assert predictions.top[:, 0].tolist() == said
    assert predictions.targets.tolist() == folder.targets
    assert [Path("data/val", image) for image in predictions.images] == [
        Path(path) for path, _ in folder.imgs
    ]


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_the_batch_size_changes_nothing(trained, cli, batch_size):
    assert cli("evaluate", "--name", "a") == 0
    before = metrics()
    assert cli("evaluate", "--name", "a", "--batch-size", batch_size) == 0
    for name in ("top1", "top5", "images"):
        assert metrics()[name] == before[name]
    assert metrics()["loss"] == pytest.approx(before["loss"])


def test_last_and_a_path_name_other_checkpoints(trained, cli):
    assert cli("evaluate", "--name", "a", "--checkpoint", "last") == 0
    last = metrics()
    assert last["checkpoint"] == "checkpoint.pth"
    assert last["epoch"] == 2
    assert last["top1"] == pytest.approx(read_csv(Path("out/a/train_log.csv"))[-1].top1, abs=12)
    assert cli("evaluate", "--name", "a", "--checkpoint", "checkpoints/a/checkpoint.pth") == 0
    assert metrics()["checkpoint_sha256"] == last["checkpoint_sha256"]


def test_a_plain_state_dict_is_taken(data, cli, tmp_path):
    torch.manual_seed(0)
    weights = torchvision.models.resnet18(num_classes=3).state_dict()
    torch.save(weights, tmp_path / "plain.pth")
    arguments = ["--data-root", "data", "--arch", "resnet18", "--img-size", 32, "--workers", 0]
    assert cli("evaluate", "--checkpoint", "plain.pth", *arguments) == 0, cli.err
    assert metrics("r50_onecycle_amp")["images"] == 9
    assert metrics("r50_onecycle_amp")["epoch"] is None


def test_flipped_images_get_the_same_predictions_with_tta(trained, cli):
    assert cli("evaluate", "--name", "a", "--tta") == 0
    assert metrics()["views"] == "hflip"
    before = Path("reports/a/predictions.csv").read_text()
    for path in Path("data/val").rglob("*.png"):
        with Image.open(path) as image:
            hflip = Image.fromarray(np.asarray(image)[:, ::-1])
        hflip.save(path)
    assert cli("evaluate", "--name", "a", "--tta") == 0
    after = Path("reports/a/predictions.csv").read_text()
    labels = [[row.split(",")[2] for row in text.splitlines()] for text in (before, after)]
    assert labels[0] == labels[1]


def test_tta_of_a_run_trained_without_flips_is_noted(trained, run_small, cli):
    assert run_small("train", "--name", "b", "--no-flip", "--epochs", 1) == 0, cli.err
    for name, flags, noted in (("a", ["--tta"], False), ("b", [], False), ("b", ["--tta"], True)):
        assert cli("evaluate", "--name", name, *flags) == 0, cli.err
        assert ("trained without them (--no-flip)" in cli.out) == noted


@pytest.mark.parametrize(("flag", "title"), [("--ten-crop", "ten crops"), ("--tta", "the flip")])
def test_the_gain_over_the_center_crop_is_shown_separately(trained, cli, flag, title):
    assert cli("evaluate", "--name", "a") == 0, cli.err
    assert "Gain" not in cli.out
    plain = metrics()
    assert plain["center"] is None
    assert cli("evaluate", "--name", "a", flag) == 0, cli.err
    found = metrics()
    center = found["center"]
    assert {name: center[name] for name in ("loss", "top1", "top5")} == pytest.approx(
        {name: plain[name] for name in ("loss", "top1", "top5")}
    )
    assert center["gain"] == pytest.approx(found["top1"] - plain["top1"])
    assert center["gain_low"] < center["gain"] < center["gain_high"]
    assert f"Gain in top-1: {center['gain']:+.2f} points, 95 % interval" in cli.out
    assert cli("report", "--name", "a") == 0, cli.err
    page = Path("reports/a/index.html").read_text("utf-8")
    assert f"Gain of {title}" in page
    assert f"{center['gain']:+.2f}" in page
    assert cli("readme", "--name", "a") == 0, cli.err
    assert f"(center crop {center['top1']:.2f} %)" in Path("README.md").read_text("utf-8")


def test_ten_crops_are_cut_out_of_the_files_and_recorded(trained, cli):
    assert cli("evaluate", "--name", "a", "--ten-crop", "--tta") == 0, cli.err
    found = metrics()
    assert (found["views"], found["img_size"], found["resize"]) == ("ten-crop", 32, 40)
    by_files = Path("reports/a/predictions.csv").read_text()
    model = torchvision.models.shufflenet_v2_x0_5(num_classes=3)
    model.load_state_dict(torch.load("checkpoints/a/best.pth", weights_only=True)["model"])
    load = transforms.Compose(
        [
            transforms.Resize(40),
            transforms.CenterCrop(40),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            transforms.TenCrop(32),
        ]
    )
    folder = torchvision.datasets.ImageFolder("data/val", load)
    with torch.no_grad():
        logits = torch.stack([model.eval()(torch.stack(crops)).mean(0) for crops, _ in folder])
    predictions = load_predictions(Path("reports/a/predictions.csv"), tuple(folder.classes))
    expected = logits.softmax(1).sort(1, descending=True).values.numpy()
    assert predictions.probabilities == pytest.approx(expected, abs=1e-4)

    assert cli("prepare", "--data-root", "data", "--img-size", 32) == 0, cli.err
    assert cli("evaluate", "--name", "a", "--ten-crop") == 0, cli.err
    assert Path("reports/a/predictions.csv").read_text() == by_files
    before = Path("reports/a/metrics.json").read_text()
    assert cli("evaluate", "--name", "a", "--ten-crop", "--loader", "pack") == 2
    assert cli.says("--loader pack: a pack holds center crops only")
    assert Path("reports/a/metrics.json").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--arch", "resnet18"], "holds a shufflenet_v2_x0_5, not a resnet18"),
        (["--checkpoint", "nowhere.pth"], "no checkpoint nowhere.pth"),
        (["--data-root", "other"], "trained on 3 classes"),
        (["--checkpoint", "notes.txt"], "notes.txt is not a checkpoint"),
        (["--checkpoint", "other.pth"], "does not fit a shufflenet_v2_x0_5 of 3 classes"),
        (
            ["--checkpoint", "empty.pth"],
            "empty.pth holds no state dict, but model: save the weights",
        ),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused_with_the_reason(
    trained, cli, make_folder, arguments, words
):
    make_folder(Path("other"), classes=4)
    Path("notes.txt").write_text("no checkpoint")
    torch.save(torchvision.models.shufflenet_v2_x0_5(num_classes=7).state_dict(), "other.pth")
    torch.save({"model": 3}, "empty.pth")
    assert cli("evaluate", "--name", "a", *arguments) == 6
    assert cli.says(words)
    assert not Path("reports/a/metrics.json").exists()


@pytest.fixture
def other_run(trained, run_small, cli):
    """The run `b` beside `a`, with other settings, and the metrics of its own evaluation."""
    flags = ["--name", "b", "--img-size", 48, "--label-smoothing", 0.5, "--epochs", 1]
    assert run_small("train", *flags) == 0, cli.err
    assert cli("evaluate", "--name", "b") == 0, cli.err
    expected = metrics("b")
    shutil.rmtree("reports")
    assert expected["img_size"] == 48
    return expected


def result_of(path):
    return {
        name: value
        for name, value in json.loads(Path(path).read_text("utf-8")).items()
        if name != "imgs_per_sec"
    }


@pytest.mark.parametrize("flags", [[], ["--name", "a"], ["--name", "unknown"]])
def test_a_file_is_evaluated_with_its_own_settings_and_as_one_of_its_run(other_run, cli, flags):
    expected = {name: value for name, value in other_run.items() if name != "imgs_per_sec"}
    assert cli("evaluate", "--checkpoint", "checkpoints/b/best.pth", *flags) == 0, cli.err
    assert result_of("reports/b/metrics.json") == expected
    assert [path.name for path in Path("reports").iterdir()] == ["b"]
    assert ("belongs to the run b, not to" in cli.out) == bool(flags)


def test_a_file_of_a_run_elsewhere_is_evaluated_there(other_run, cli):
    expected = {name: value for name, value in other_run.items() if name != "imgs_per_sec"}
    for folder in ("checkpoints", "out"):
        shutil.move(f"{folder}/b", f"far/{folder}/b")
    assert cli("evaluate", "--name", "a", "--checkpoint", "far/checkpoints/b/best.pth") == 0
    assert result_of("far/reports/b/metrics.json") == expected
    assert not Path("reports").exists()


def test_a_file_alone_brings_its_settings_along(other_run, cli):
    expected = {name: value for name, value in other_run.items() if name != "imgs_per_sec"}
    shutil.move("checkpoints/b/best.pth", "copy.pth")
    assert cli("evaluate", "--checkpoint", "copy.pth") == 0, cli.err  # `b` has saved it
    assert result_of("reports/b/metrics.json") == expected | {"checkpoint": "copy.pth"}
    for folder in ("checkpoints", "out", "reports"):
        shutil.rmtree(f"{folder}/b")
    for flags, name in (([], "b"), (["--name", "new"], "new")):
        assert cli("evaluate", "--checkpoint", "copy.pth", *flags) == 0, cli.err
        assert result_of(f"reports/{name}/metrics.json") == expected | {"checkpoint": "copy.pth"}
    assert cli("evaluate", "--checkpoint", "copy.pth", "--img-size", 32) == 0, cli.err
    assert metrics("b")["img_size"] == 32


def test_a_file_is_not_stored_with_the_results_of_a_run_that_did_not_save_it(other_run, cli):
    shutil.copy("checkpoints/b/best.pth", "copy.pth")
    assert cli("evaluate", "--checkpoint", "copy.pth", "--name", "a") == 2
    assert cli.says("copy.pth was not saved by the run a, whose results are in reports/a")
    assert cli.says("store this one under a new --name")
    assert not Path("reports").exists()
    assert imgnet_mini.evaluate(checkpoint="checkpoints/b/best.pth").img_size == 48


def test_a_file_is_exported_to_the_folder_of_its_run(other_run, cli):
    flags = ["--checkpoint", "checkpoints/b/best.pth", "--format", "state-dict"]
    assert cli("export", "--name", "a", *flags) == 0, cli.err
    assert [path.name for path in Path("exports").iterdir()] == ["b"]
