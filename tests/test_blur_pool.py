import json
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
import torchvision

from conftest import SMALL
from imgnet_mini.checkpoint.load import read_weights
from imgnet_mini.config.training_settings import ModelConfig
from imgnet_mini.errors import ConfigError
from imgnet_mini.training.blur_pool import BlurPool
from imgnet_mini.training.model import build_model, build_with_weights

CPU = torch.device("cpu")


def build(arch="resnet18", **more):
    with torch.random.fork_rng(devices=[]):
        model = ModelConfig(arch=arch, **more)
        return build_model(model, classes=5, img_size=64, seed=3, device=CPU)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [7, 8])
def test_it_is_a_binomial_filter_at_every_second_pixel(stride, side):
    features = np.random.default_rng(0).normal(size=(2, 3, side, side)).astype(np.float32)
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    expected = scipy.ndimage.convolve(features, kernel[None, None], mode="constant")
    ours = BlurPool(stride)(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(ours, expected[:, :, ::stride, ::stride], atol=1e-6)


@pytest.mark.parametrize(
    ("arch", "conv"), [("resnet18", "conv1"), ("resnet50", "conv2"), ("wide_resnet50_2", "conv2")]
)
def test_all_layers_that_skip_pixels_blur_but_the_first(arch, conv):
    network = build(arch, blur_pool=True)
    blurs = {name for name, module in network.named_modules() if isinstance(module, BlurPool)}
    stages = ("layer2.0", "layer3.0", "layer4.0")
    assert blurs == {
        "maxpool.1",
        *(f"{stage}.{conv}.0" for stage in stages),
        *(f"{stage}.downsample.0.0" for stage in stages),
    }
    images = torch.zeros(2, 3, 64, 64)
    shapes = [layer(images).shape for layer in (network, build(arch))]
    assert shapes[0] == shapes[1]


def test_the_weights_are_those_of_the_plain_network_under_other_names():
    blurred, plain = build(blur_pool=True), build()
    pairs = zip(blurred.parameters(), plain.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    with pytest.raises(RuntimeError, match="Missing key"):
        torchvision.models.resnet18(num_classes=5).load_state_dict(blurred.state_dict())


def test_the_names_of_the_weights_tell_whether_a_network_blurs():
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    logits = []
    for blur_pool in (False, True):
        network = build(blur_pool=blur_pool).eval()
        loaded = build_with_weights(
            ModelConfig(arch="resnet18"), network.state_dict(), classes=5, img_size=64
        )
        logits.append(network(images))
        assert torch.equal(loaded(images), logits[-1])
    assert not torch.allclose(*logits)


@pytest.mark.parametrize("arch", ["shufflenet_v2_x0_5", "vit_b_32"])
def test_other_networks_are_refused_with_the_cure(arch):
    with pytest.raises(
        ConfigError,
        match=rf"--blur-pool is for the ResNets .* not for {arch}: use --no-blur-pool, or .*--arch",
    ):
        build(arch, blur_pool=True)


def test_its_weights_for_another_network_are_refused_as_such(cli):
    torch.save(build(blur_pool=True).state_dict(), "blurred.pth")
    for arch in ("resnet50", "shufflenet_v2_x0_5"):
        assert cli("predict", "blurred.pth", "--checkpoint", "blurred.pth", "--arch", arch) == 6
        assert cli.says(f"blurred.pth does not fit a {arch} of 5 classes: it lacks")


def test_a_run_with_it_is_trained_resumed_evaluated_exported_and_loaded(cli, data):
    run = [*SMALL, "--arch", "resnet18", "--blur-pool", "--name", "a", "--max-lr", 0.01]
    assert cli("train", *run, "--epochs", 1) == 0
    assert cli("resume", "--name", "a", "--epochs", 2, "--replan") == 0
    assert cli("evaluate", "--name", "a") == 0
    weights, _ = read_weights(Path("checkpoints/a/best.pth"))
    assert "layer2.0.conv1.0.filter" in weights.model
    image = next(Path("data/val").rglob("*.*"))
    answers = []
    for checkpoint in ("best", "exports/a/hub/model.safetensors"):
        if checkpoint != "best":
            pytest.importorskip("huggingface_hub")
            pytest.importorskip("safetensors")
            assert cli("export", "--name", "a", "--format", "hub") == 0
        place = ["--name", "a", "--checkpoint", checkpoint]
        assert cli("predict", str(image), *place, "--json") == 0
        answers.append(json.loads(cli.out))
    assert answers[0]["images"] == answers[1]["images"]
    card = Path("exports/a/hub/README.md").read_text("utf-8")
    assert "`resnet18` of torchvision with blur pooling" in card
    assert "timm has no network" in card
    assert "torchvision's names" not in card
