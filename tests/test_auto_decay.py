"""Decays that scale with the training: `--weight-decay auto` and `--ema-decay auto`."""

import json
import re
from pathlib import Path

import pytest
import torch

from imgnet_mini.commands import train as train_command
from imgnet_mini.config.run_config import ResolvedConfig, RunConfig
from imgnet_mini.config.training_settings import ResolvedOptimizer
from imgnet_mini.errors import ConfigError
from imgnet_mini.training.ema import ema_decay_at
from imgnet_mini.training.optim import build_optimizer

AUTO = {"weight_decay": "auto", "ema_decay": "auto"}


def resolve(steps, max_lr=0.1, **settings):
    return RunConfig().override({"optimizer": AUTO | settings}).resolve(max_lr, steps=steps)


def test_decays_act_over_a_share_of_the_training():
    for steps, of_decay in ((67, 5000), (5400, 5000), (40_000, 6000), (10**6, 150_000)):
        for max_lr in (0.05, 2.0):
            found = resolve(steps, max_lr).optimizer
            assert 1 / (max_lr * found.weight_decay) == pytest.approx(of_decay)
            assert 1 / (1 - found.ema_decay) == pytest.approx(0.03 * steps)
    assert ema_decay_at(0, found.ema_decay) == 0.1  # with a warm-up all the same


def test_they_need_the_length_of_the_training():
    with pytest.raises(ConfigError, match="weight_decay auto needs the number of training steps"):
        resolve(None)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_weights_decay_as_fast_whatever_the_momentum(momentum):
    """Without a gradient, at a constant learning rate."""
    steps = 40_000
    settings = resolve(steps, momentum=momentum).optimizer
    weight = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(weight.weight)
    optimizer = build_optimizer(settings, weight, lr=0.1)
    for _ in range(600):  # a tenth of 0.15 of the training, since momentum multiplies steps by ten
        weight.weight.grad = torch.zeros(1, 1)
        optimizer.step()
    assert weight.weight.item() == pytest.approx(torch.e**-1, rel=0.03)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_decoupled_decay_has_no_momentum(optimizer):
    found = resolve(1000, 1e-3, optimizer=optimizer).optimizer
    assert 1 / (1e-3 * found.weight_decay) == pytest.approx(150)


def test_sgd_takes_auto_decay_for_a_step():
    assert resolve(1, ema_decay=0).optimizer.weight_decay == pytest.approx(1 / (0.1 * 5000))


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"optimizer": "adamw"}, "--weight-decay"),
        ({"optimizer": "adamw", "weight_decay": 1e-4}, "--ema-decay"),
        ({"optimizer": "muon", "ema_decay": 0}, "--weight-decay"),
        ({}, "--ema-decay"),
    ],
)
def test_a_training_that_is_too_short_is_refused(settings, flag):
    for steps in (1, 66):
        words = f"{flag}.* auto needs a training of 67 steps or more, and this one has {steps}: set"
        with pytest.raises(ConfigError, match=words):
            resolve(steps, **settings)


def test_numbers_need_no_length():
    found = resolve(1, weight_decay=0.5, ema_decay=0.9).optimizer
    assert (found.weight_decay, found.ema_decay) == (0.5, 0.9)


@pytest.mark.parametrize(
    ("name", "value"),
    [("weight_decay", -1), ("weight_decay", "high"), ("ema_decay", 1.0), ("ema_decay", "nan")],
)
def test_what_is_no_decay_is_refused(name, value):
    with pytest.raises(
        ConfigError, match=rf"{name}: must be a (finite )?number .*or 'auto' \(got "
    ):
        RunConfig().override({"optimizer": {name: value}})


def test_train_shows_and_saves_the_decays_as_numbers(run_small, cli, monkeypatch):
    runs = []
    monkeypatch.setattr(train_command, "train", lambda run, **_: runs.append(run))
    flags = ("--weight-decay", "auto", "--ema-decay", "auto", "--max-lr", 0.2, "--epochs", 50)
    assert run_small("train", "--name", "a", *flags) == 0, cli.err
    (run,) = runs
    steps = 50 * len(run.setup.train_loader)
    decay, ema = 1 / (0.2 * 5000), 1 - 1 / (0.03 * steps)
    decays = f"weight decay {decay:.4g} (auto), EMA decay {ema:.4g} (auto)"
    assert f"learning rate up to 0.2, {decays}" in " ".join(cli.out.split())
    assert run.trainer._optimizer.param_groups[0]["weight_decay"] == pytest.approx(decay)
    assert run.trainer._ema._decay == pytest.approx(ema)
    tables = json.loads(json.dumps(run.config.model_dump(mode="json")))
    saved = ResolvedConfig.from_tables(tables)  # as `resume` reads them
    assert isinstance(saved.optimizer, ResolvedOptimizer)
    assert saved.optimizer == run.config.optimizer
    assert saved.optimizer.weight_decay == run.trainer._optimizer.param_groups[0]["weight_decay"]


def test_train_refuses_auto_for_a_few_steps(run_small, cli):
    assert run_small("train", "--name", "a", "--ema-decay", "auto", "--epochs", 2) == 2
    assert cli.says("--ema-decay auto needs a training of 67 steps or more, and this one has 8")
    assert not Path("checkpoints").exists()


def test_find_lr_tests_with_the_decay_of_the_training_and_passes_auto_on(run_small, cli):
    flags = ("--weight-decay", "auto", "--epochs", 100, "--trials", 0, "--num-iter", 20)
    assert run_small("find-lr", "--name", "a", *flags) == 0, cli.err
    (shown,) = re.findall(r"Weight decay (\S+) in the range test", cli.out)
    assert float(shown) == pytest.approx(1 / (0.1 * 6 / 256 * 5000), rel=1e-2)
    assert "--weight-decay auto" in " ".join(cli.out.split())
