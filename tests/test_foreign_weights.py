"""Checkpoints of other programs: their weights are found, or one sentence says what to do."""

import argparse
import json
import re
import warnings
from collections import Counter, OrderedDict
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torch.optim.swa_utils import AveragedModel

import imgnet_mini
from conftest import SMALL
from imgnet_mini.checkpoint.load import read_weights
from imgnet_mini.config.data_settings import EARLIER_DECODING
from imgnet_mini.errors import CheckpointError

ARCH = "shufflenet_v2_x0_5"
FLAGS = ("--arch", ARCH, "--img-size", 32)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return torchvision.models.get_model(ARCH, num_classes=3)


def prefixed(weights, *prefixes, **others):
    return OrderedDict(
        {"".join(prefixes) + name: tensor for name, tensor in weights.items()} | others
    )


def trained(network):
    """The state of an optimizer and a schedule after a step."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.randn(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4])
    assert isinstance(schedule.state_dict()["milestones"], Counter)
    return optimizer.state_dict(), schedule.state_dict()


def torchvision_reference(network):
    """As references/classification/train.py saves it, with --model-ema."""
    optimizer, schedule = trained(network)
    return {
        "model": network.state_dict(),
        "optimizer": optimizer,
        "lr_scheduler": schedule,
        "epoch": 3,
        "args": argparse.Namespace(model=ARCH, lr=0.1, weights=None, opt=["sgd"]),
        "model_ema": AveragedModel(network).state_dict(),
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 0},
    }


def timm_checkpoint(network):
    """As timm's CheckpointSaver saves it."""
    weights = network.state_dict()
    return {
        "epoch": 3,
        "arch": ARCH,
        "state_dict": weights,
        "optimizer": trained(network)[0],
        "version": 2,
        "args": argparse.Namespace(model=ARCH, aug_splits=0),
        "state_dict_ema": {name: tensor * 0 for name, tensor in weights.items()},
        "metric": 71.5,
    }


def lightning_checkpoint(network, *prefixes):
    """As the Trainer of Lightning saves it, of a module with a metric beside the network."""
    weights = prefixed(network.state_dict(), *prefixes, **{"criterion.weight": torch.ones(3)})
    return {
        "epoch": 3,
        "global_step": 12,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": weights,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val'}": {"best_model_score": torch.tensor(1.0)}},
        "optimizer_states": [trained(network)[0]],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1},
    }


FORMS = {
    "torchvision": torchvision_reference,
    "timm": timm_checkpoint,
    "lightning": lambda net: lightning_checkpoint(net, "model."),
    "lightning and compile": lambda net: lightning_checkpoint(net, "model.", "_orig_mod."),
    "ddp": lambda net: prefixed(net.state_dict(), "module."),
    "compile": lambda net: prefixed(net.state_dict(), "_orig_mod."),
    "both": lambda net: prefixed(net.state_dict(), "module.", "_orig_mod."),
    "an attribute": lambda net: prefixed(net.state_dict(), "backbone."),
    "averaged": lambda net: AveragedModel(net).state_dict(),
    "nested": lambda net: {"state_dict": net.state_dict()},
    "nested twice": lambda net: {"state_dict": {"model": prefixed(net.state_dict(), "module.")}},
    "tutorial": lambda net: {"epoch": 3, "model_state_dict": net.state_dict(), "loss": 0.5},
    "any name": lambda net: {"generation": 2, "student": net.state_dict()},
    "parameters": lambda net: {"model": dict(net.named_parameters()) | dict(net.named_buffers())},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_weights_of_other_programs_are_found(tmp_path, network, form):
    path = tmp_path / "x.pth"
    torch.save(FORMS[form](network), path)
    weights = read_weights(path).weights
    expected = network.state_dict()
    assert weights.model.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(weights.model[name], tensor)
    assert weights.network == (ARCH if form in ("torchvision", "timm") else None)
    knows_epoch = form.startswith(("torchvision", "timm", "lightning", "tutorial"))
    assert weights.finished_epoch == (3 if knows_epoch else None)
    assert (weights.classes, weights.config) == (None, None)


def test_a_safetensors_file_is_read(tmp_path, network):
    safetensors = pytest.importorskip("safetensors.torch")
    weights = {name: one.contiguous() for name, one in network.state_dict().items()}
    safetensors.save_file(prefixed(weights, "module."), tmp_path / "model.safetensors", {"a": "b"})
    model = imgnet_mini.load_model(tmp_path / "model.safetensors", arch=ARCH, img_size=32)
    assert len(model.classes) == 3  # counted by the classifier, not the last name of the alphabet
    assert model.decoding == EARLIER_DECODING
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.save(network.state_dict(), tmp_path / "plain.pth")
    plain = imgnet_mini.load_model(tmp_path / "plain.pth", arch=ARCH, img_size=32)
    assert model.predict(images) == plain.predict(images)


def test_an_exported_safetensors_file_describes_itself(data, copy_run, cli):
    pytest.importorskip("safetensors")
    copy_run(data.parent, "--max-lr", 0.05, "--epochs", 1)
    assert cli("export", "--name", "a", "--output", "a.safetensors") == 0, cli.err
    exported, best = (imgnet_mini.load_model(file, name="a") for file in ("a.safetensors", "best"))
    for name in ("arch", "img_size", "classes", "decoding", "epoch", "has_class_names"):
        assert getattr(exported, name) == getattr(best, name)
    image = "data/val/class_01/000.JPEG"
    assert exported.predict([image]) == best.predict([image])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[:-100], "damaged"),
        (lambda content: content[:8] + b"{" * 200 + content[208:], "damaged"),
        (lambda content: b"\xff" * 6 + content[6:], "larger than any checkpoint"),
        (lambda content: content.replace(b'"F32"', b'"F99"'), "damaged"),
    ],
)
def test_a_damaged_safetensors_file_is_refused(tmp_path, damage, reason):
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "x.safetensors"
    path.write_bytes(damage(safetensors.save({"fc.weight": torch.ones(40)})))
    with pytest.raises(CheckpointError, match=reason):
        read_weights(path)


def test_evaluate_and_predict_take_a_checkpoint_of_torchvision(data, cli, network):
    torch.save(torchvision_reference(network), "reference.pth")
    torch.save(network.state_dict(), "plain.pth")
    size = ("--img-size", 32)
    results = []
    for name, file, flags in (("a", "reference.pth", size), ("b", "plain.pth", FLAGS)):
        given = ("--checkpoint", file, "--data-root", "data", "--workers", 0, *flags)
        assert cli("evaluate", "--name", name, *given) == 0, cli.err
        results.append(Path(f"reports/{name}/predictions.csv").read_bytes())
        assert cli("predict", "data/val", "--checkpoint", file, *flags, "--csv") == 0, cli.err
        results.append(cli.out)
    assert results[:2] == results[2:]
    metrics = json.loads(Path("reports/a/metrics.json").read_bytes())
    assert (metrics["arch"], metrics["epoch"]) == (ARCH, 3)
    assert cli("evaluate", "--checkpoint", "reference.pth", "--arch", "resnet18", *given[2:4]) == 6
    assert cli.says(f"holds a {ARCH}, not a resnet18: use --arch {ARCH}")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"epoch": 3, "loss": 0.5}, "holds no state dict, but epoch, loss: save the weights of"),
        ({}, "holds no state dict"),
        (
            {"a": {"w": torch.ones(2)}, "b": {"w": torch.ones(2)}},
            "holds several state dicts, a, b: save the weights of the network alone",
        ),
        ({"model": {"w": torch.ones(2), "names": ["cat"]}}, "holds no state dict, but model"),
    ],
)
def test_a_file_without_one_state_dict_says_so_in_one_sentence(tmp_path, content, reason):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError) as error:
        read_weights(tmp_path / "x.pth")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_of_another_network_are_refused_in_one_sentence(data, cli, network):
    weights = network.state_dict()
    torch.save(weights, "x.pth")
    assert cli("predict", "data/val", "--checkpoint", "x.pth", "--arch", "resnet50") == 6
    lacking, unknown = (int(n) for n in re.findall(r"(?:lacks|unknown) (\d+) tensors", cli.err))
    assert lacking > 100
    assert unknown > 100
    assert len(cli.err.splitlines()) < 8
    torch.save(weights | {"fc.weight": torch.ones(3, 7)}, "x.pth")
    assert cli("predict", "data/val", "--checkpoint", "x.pth", *FLAGS) == 6
    assert cli.says("its fc.weight has the shape [3, 7], not [3, 1024]")
    torch.save(weights, "x.pth")
    small = (*SMALL[:2], *FLAGS, "--workers", 0)
    Path("data/train/class_03").mkdir()
    Path("data/val/class_03").mkdir()
    for split in ("train", "val"):
        image = Path(f"data/{split}/class_02/000.JPEG").read_bytes()
        Path(f"data/{split}/class_03/0.JPEG").write_bytes(image)
    assert cli("evaluate", "--checkpoint", "x.pth", *small) == 6
    assert cli.says("fc.weight has the shape [3, 1024], not [4, 1024], and 1 others differ too")


def whole_module(network, file):
    torch.save(network, file)


def module_in_dict(network, file):
    torch.save({"model": network, "epoch": 3}, file)


def program(network, file):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network.eval(), torch.ones(1, 3, 32, 32)), file)


@pytest.mark.parametrize(
    ("save", "reason"),
    [
        (whole_module, "such as 'torchvision.models.shufflenetv2.ShuffleNetV2'; refused, since"),
        (module_in_dict, "such as 'torchvision.models.shufflenetv2.ShuffleNetV2'; refused, since"),
        (program, "is a TorchScript program, which is code"),
    ],
)
def test_what_cannot_be_read_safely_is_refused_with_the_cure(tmp_path, network, save, reason):
    save(network, tmp_path / "x.pth")
    with pytest.raises(CheckpointError) as error:
        read_weights(tmp_path / "x.pth")
    assert reason in str(error.value)
    assert ": save its weights alone, with torch.save(model.state_dict(), FILE)" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_format_of_torch_before_1_6_is_named_with_its_conversion(tmp_path, network):
    path = tmp_path / "x.pth"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"torch\.save\(torch\.load\(FILE\), NEW_FILE\)"):
        read_weights(path)
    torch.save(torch.load(path), tmp_path / "new.pth")
    assert read_weights(tmp_path / "new.pth").weights.model.keys() == network.state_dict().keys()


class Option:
    """A class of another program."""


def test_options_may_hold_plain_data_only(tmp_path, network):
    content = torchvision_reference(network)
    content["args"].hook = Option()
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"such as '.*test_foreign_weights.Option'; refused"):
        read_weights(tmp_path / "x.pth")


def test_a_module_of_one_layer_keeps_its_names(tmp_path):
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "x.pth")
    assert read_weights(tmp_path / "x.pth").weights.model.keys() == {"weight", "bias"}
