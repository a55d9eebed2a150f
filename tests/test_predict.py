import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision import transforms

from helpers.real_runs import RealRun
from imgnet_mini.utils.csv_file import read_table

IMAGE = Path("data/val/class_01/000.JPEG")


@pytest.fixture
def trained(data, copy_run):
    """A run of one epoch named `a`."""
    copy_run(data.parent, "--max-lr", 0.05, "--epochs", 1)


@pytest.fixture
def predict(trained, cli):
    return lambda *args: cli("predict", "--name", "a", *args)


def document(cli):
    return json.loads(cli.out)


def probabilities(entry):
    return {said["class"]: said["probability"] for said in entry["predictions"]}


def save_plain(path, *, arch="resnet18", classes=3):
    torch.manual_seed(0)
    model = torchvision.models.get_model(arch, num_classes=classes).eval()
    torch.save(model.state_dict(), path)
    return model


def test_validation_images_get_the_very_probabilities_that_evaluate_wrote(predict, cli):
    assert cli("evaluate", "--name", "a", "--batch-size", 4) == 0, cli.err
    assert predict("data/val", "--csv", "--batch-size", 4) == 0, cli.err
    rows = list(csv.reader(io.StringIO(cli.out)))
    assert rows[0] == [
        *("image", "pred1", "name1", "prob1", "pred2", "name2", "prob2", "pred3", "name3", "prob3")
    ]
    ours = [[row[0], *(row[n] for n in (1, 3, 4, 6, 7, 9))] for row in rows[1:]]
    written = list(read_table(Path("reports/a/predictions.csv")))[1:]
    assert ours == [[f"data/val/{image}", *rest] for image, _, *rest in written]


def test_an_image_by_itself_gets_what_it_gets_among_others(predict, cli):
    assert predict("data/val", "--json") == 0
    among = next(one for one in document(cli)["images"] if one["image"] == str(IMAGE))
    assert predict(IMAGE, "--json") == 0
    (alone,) = document(cli)["images"]
    assert probabilities(alone) == pytest.approx(probabilities(among), abs=2e-6)
    assert sum(probabilities(alone).values()) == pytest.approx(1, abs=1e-5)


def test_the_checkpoint_is_all_that_is_needed(predict, cli, tmp_path):
    assert predict("data/val", "--json") == 0
    before = document(cli)
    shutil.copy("checkpoints/a/best.pth", tmp_path / "elsewhere.pth")
    shutil.copytree("data/val", "pictures")
    for folder in ("data", "out", "runs", "checkpoints"):
        shutil.rmtree(folder)
    assert cli("predict", "pictures", "--checkpoint", "elsewhere.pth", "--json") == 0, cli.err
    now = document(cli)
    assert [one["predictions"] for one in now["images"]] == [
        one["predictions"] for one in before["images"]
    ]
    assert now["checkpoint_sha256"] == before["checkpoint_sha256"]
    assert (now["arch"], now["img_size"], now["resize"]) == ("shufflenet_v2_x0_5", 32, 37)
    assert now["epoch"] == 0


def test_a_plain_state_dict_equals_plain_torchvision(data, cli):
    model = save_plain("plain.pth")
    arguments = ["--checkpoint", "plain.pth", "--arch", "resnet18", "--img-size", 64]
    assert cli("predict", IMAGE, *arguments, "--json") == 0, cli.err
    load = transforms.Compose(
        [
            transforms.Resize(73),
            transforms.CenterCrop(64),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    with torch.no_grad(), Image.open(IMAGE) as image:
        expected = model(load(image)[None]).softmax(1)[0].tolist()
    (entry,) = document(cli)["images"]
    assert probabilities(entry) == pytest.approx(
        {f"class {number}": value for number, value in enumerate(expected)}, abs=1e-5
    )


def test_a_thousand_nameless_classes_are_imagenets(data, cli):
    save_plain("plain.pth", arch="shufflenet_v2_x0_5", classes=1000)
    arguments = ["--checkpoint", "plain.pth", "--arch", "shufflenet_v2_x0_5", "--img-size", 32]
    assert cli("predict", IMAGE, *arguments, "--top-k", 1000, "--json") == 0, cli.err
    (entry,) = document(cli)["images"]
    names = {said["class"]: said["name"] for said in entry["predictions"]}
    assert len(names) == 1000
    assert names["n01440764"] == "tench"
    assert cli("predict", IMAGE, *arguments) == 0
    assert "plain.pth has no class names; its 1000 outputs are assumed to be ImageNet's" in cli.err


def test_a_plain_state_dict_without_its_network_says_what_is_missing(data, cli):
    save_plain("plain.pth")
    assert cli("predict", IMAGE, "--checkpoint", "plain.pth") == 2
    assert cli.says("plain.pth does not name its network")
    assert cli.says("--arch")


def test_the_terminal_shows_a_line_for_each_class(predict, cli):
    assert predict(IMAGE, "data/val/class_00/001.png", "--top-k", 2) == 0
    lines = cli.out.splitlines()
    assert [line for line in lines if line[0] != " "] == [str(IMAGE), "data/val/class_00/001.png"]
    assert len(lines) == 6
    assert lines[1].split()[1:] in (["%", f"class_{number:02d}"] for number in range(3))
    assert cli.err == ""


def test_images_come_in_the_order_given_and_within_a_folder_by_path(predict, cli):
    for name in ("b/z.png", "b/a/x.JPG", "c.webp", ".hidden.png", "b/notes.txt"):
        path = Path("more", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 50)).save(path.with_suffix(".png"))
        path.with_suffix(".png").rename(path)
    assert predict(IMAGE, "more", IMAGE, "--csv") == 0
    images = [row[0] for row in csv.reader(io.StringIO(cli.out))][1:]
    assert images == [str(IMAGE), "more/b/a/x.JPG", "more/b/z.png", "more/c.webp", str(IMAGE)]


@pytest.mark.parametrize("kind", ["bmp", "gif", "png", "ppm", "tiff", "webp"])
def test_every_format_is_read_whatever_the_file_is_called(predict, cli, kind):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    image.save(f"image.{kind}")
    Path(f"image.{kind}").rename("no-extension")
    assert predict("no-extension") == 0, cli.err


def test_broken_files_are_named_and_skipped_and_the_rest_is_done(predict, cli):
    for place in ("a.png", "class_01/b.jpg"):
        Path("data/val", place).write_bytes(b"<html>")
    Path("script.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    assert predict("data/val", "script.eps", "--json", "--batch-size", 2) == 1
    assert [line for line in cli.err.splitlines() if line.endswith(": not an image")] == [
        "data/val/a.png: not an image",
        "data/val/class_01/b.jpg: not an image",
        "script.eps: not an image",
    ]
    assert cli.says("3 of 12 images could not be read; they are listed above")
    assert len(document(cli)["images"]) == 9
    assert document(cli)["failed"][2] == {"image": "script.eps", "reason": "not an image"}


def test_where_all_files_are_broken_a_document_says_so(predict, cli):
    Path("a.png").write_bytes(b"")
    assert predict("a.png", "--json") == 1
    assert document(cli)["images"] == []
    assert document(cli)["failed"] == [{"image": "a.png", "reason": "the file is empty"}]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "Missing argument"),
        (["nowhere.png"], 4, "nowhere.png: no such image or folder"),
        (["x" * 5000], 4, "cannot read"),
        (["empty"], 4, "empty contains no images (.jpg, .jpeg"),
        (["data/val", "--top-k", 4], 2, "--top-k 4: the model of checkpoints/a/best.pth has 3"),
        (["data/val", "--top-k", 0], 2, "--top-k"),
        (["data/val", "--json", "--csv"], 2, "choose one of --json and --csv"),
        (["data/val", "--checkpoint", "nowhere.pth"], 6, "no checkpoint nowhere.pth"),
        (["data/val", "--checkpoint", "other.pth"], 6, "does not fit a resnet18 of 3 classes"),
        (["data/val", "--arch", "resnet18"], 6, "holds a shufflenet_v2_x0_5, not a resnet18"),
        (["data/val", "--data-root", "data"], 2, "No such option"),
    ],
)
def test_what_cannot_be_done_is_one_message_and_no_output(predict, cli, arguments, code, words):
    Path("empty").mkdir()
    Path("empty/notes.txt").touch()
    save_plain("other.pth", arch="resnet34")
    plain = ["--arch", "resnet18"] if "other.pth" in arguments else []
    assert predict(*arguments, *plain) == code
    assert cli.says(words)
    assert cli.out == ""


def test_what_a_checkpoint_says_of_itself_is_checked(predict, cli):
    content = torch.load("checkpoints/a/best.pth", weights_only=True)
    for section, name, value, words in (
        ("data", "eval_size", 10**6, "asks for images of 1000000 pixels a side"),
        ("data", "img_size", "big", "data.img_size"),
        ("model", "arch", "nothing", "torchvision has no such network"),
        ("model", "arch", "vit_l_32", "does not fit a vit_l_32 of 3 classes"),
    ):
        config = {**content["config"], section: {**content["config"][section], name: value}}
        torch.save({**content, "config": config}, "odd.pth")
        assert predict(IMAGE, "--checkpoint", "odd.pth") == 6
        assert cli.says(words)
    whole_numbers = {name: tensor.long() for name, tensor in content["model"].items()}
    torch.save({**content, "model": whole_numbers}, "odd.pth")
    assert predict(IMAGE, "--checkpoint", "odd.pth") == 6
    assert cli.says("floating point")
    torch.save({}, "odd.pth")
    assert predict(IMAGE, "--checkpoint", "odd.pth", "--arch", "resnet18") == 6
    assert cli.says("odd.pth holds no state dict: save the weights of the network alone")
    torch.save({**content, "classes": ["a", "b"]}, "odd.pth")
    assert predict(IMAGE, "--checkpoint", "odd.pth") == 6
    assert cli.says("does not fit a shufflenet_v2_x0_5 of 2 classes")


def test_a_reader_that_has_had_enough_ends_it_quietly(predict, tmp_path):
    command = [sys.executable, "-m", "imgnet_mini", "predict", "data/val", "--name", "a", "--csv"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals")
def test_ctrl_c_ends_it_with_a_message_and_no_half_a_table(predict, tmp_path):
    files = [IMAGE] * 4000
    real = RealRun(tmp_path, ["predict", "--name", "a", "--batch-size", 1, "--csv", *files])
    real.wait_for(lambda: real.checks > 5)
    real.send(signal.SIGINT, group=True)
    assert real.wait() == 130
    said = real.log.read_text("utf-8")
    assert "stopped by SIGINT after" in said
    assert "of 4000 images; nothing was printed" in said
    assert "Traceback" not in said
    assert "pred1" not in said
