"""Dropout before the classifier: `--dropout`."""

from pathlib import Path

import pytest
import torch
import torchvision

from conftest import SMALL
from helpers.outcomes import differences, outcome
from helpers.stops import stop_at
from imgnet_mini.config.training_settings import ModelConfig
from imgnet_mini.training.model import build_model

CPU = torch.device("cpu")


def build(arch, dropout):
    with torch.random.fork_rng(devices=[]):
        model = ModelConfig(arch=arch, dropout=dropout)
        return build_model(model, classes=5, img_size=64, seed=3, device=CPU)


@pytest.mark.parametrize("arch", ["resnet18", "shufflenet_v2_x0_5", "vit_b_32", "densenet121"])
def test_features_before_the_classifier_are_dropped_in_training_only(arch):
    network = build(arch, 0.75)
    classifier = [layer for layer in network.modules() if isinstance(layer, torch.nn.Linear)][-1]
    seen = []
    classifier.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    images = torch.rand(16, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        network.train()(images)
    dropped = float((seen[0] == 0).float().mean())
    assert 0.7 < dropped < 0.9  # a ReLU makes some zeros of its own
    network.eval()
    assert torch.equal(network(images), with_statistics_of(network, build(arch, 0.0))(images))


def with_statistics_of(network, plain):
    plain.load_state_dict(network.state_dict())
    return plain.eval()


def test_what_is_kept_is_scaled_so_that_the_mean_stays():
    network = build("resnet18", 0.5).train()
    seen = []
    network.avgpool.register_forward_hook(lambda _, __, output: seen.append(output.flatten(1)))
    network.fc.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    with torch.random.fork_rng(devices=[]):
        network(torch.rand(4, 3, 64, 64))
    before, after = seen
    kept = after != 0
    assert torch.equal(after[kept], 2 * before[kept])


def test_the_weights_still_load_into_torchvision():
    plain = torchvision.models.resnet18(num_classes=5)
    assert plain.load_state_dict(build("resnet18", 0.3).state_dict(), strict=True)


@pytest.mark.parametrize("value", [1, -0.1, "nan", "much"])
def test_it_is_a_probability_below_1(run_small, cli, value):
    assert run_small("train", "--name", "a", "--dropout", value) == 2
    assert cli.says(f"--dropout {value}")


def test_a_stopped_run_goes_on_with_the_same_draws(cli, data, monkeypatch):
    run = [*SMALL, "--dropout", 0.5, "--max-lr", 0.01]
    assert cli("train", *run, "--name", "a") == 0, cli.err
    with monkeypatch.context() as patched:
        stop_at(patched, 8)
        assert cli("train", *run, "--name", "b") == 130
    assert cli("resume", "--name", "b") == 0, cli.err
    assert differences(outcome(Path(), "a"), outcome(Path(), "b")) == []
    assert cli("train", *SMALL, "--max-lr", 0.01, "--name", "c") == 0, cli.err
    assert differences(outcome(Path(), "a"), outcome(Path(), "c"))
