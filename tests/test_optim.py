import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from imgnet_mini.config.run_config import RunConfig
from imgnet_mini.config.training_settings import OptimizerConfig, ScheduleConfig
from imgnet_mini.errors import ConfigError
from imgnet_mini.training.optim import (
    OPTIMIZERS,
    build_loss,
    build_optimizer,
    build_scheduler,
    check_same_length,
    check_same_settings,
    linear_scaling_lr,
    load_optimizer,
    sqrt_scaling_lr,
)


def step_through(optimizer, scheduler, steps):
    """The rate and the momentum of each step."""
    seen = []
    for step in range(steps):
        seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        if step < steps - 1:
            scheduler.step()
    return seen


def ours(schedule, *, max_lr, steps, momentum=0.9):
    settings = OptimizerConfig(momentum=momentum)
    optimizer = build_optimizer(settings, torch.nn.Linear(2, 2), lr=max_lr)
    scheduler = build_scheduler(schedule, optimizer, max_lr=max_lr, total_steps=steps)
    return step_through(optimizer, scheduler, steps)


@pytest.mark.parametrize("steps", [4, 10, 100, 997])
@pytest.mark.parametrize(
    "settings", [{}, {"pct_start": 0.5, "div_factor": 10, "final_div_factor": 1}]
)
def test_rates_equal_those_of_torch(steps, settings):
    optimizer = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=1)
    given = {"pct_start": 0.3, "div_factor": 25, "final_div_factor": 1e4} | settings
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.4, total_steps=steps, cycle_momentum=False, **given
    )
    expected = [lr for lr, _ in step_through(optimizer, scheduler, steps)]
    rates = [lr for lr, _ in ours(ScheduleConfig(**settings), max_lr=0.4, steps=steps)]
    assert rates == expected


def test_the_rate_starts_peaks_and_ends_where_the_settings_say():
    schedule = ScheduleConfig(pct_start=0.25, div_factor=20, final_div_factor=100)
    rates = [lr for lr, _ in ours(schedule, max_lr=0.8, steps=101)]
    assert rates[0] == pytest.approx(0.8 / 20)
    assert max(rates) == pytest.approx(0.8, rel=1e-3)
    assert rates.index(max(rates)) == pytest.approx(0.25 * 101 - 1, abs=1)
    assert rates[-1] == pytest.approx(0.8 / 20 / 100)


def test_momentum_is_not_cycled():
    momentum_buffers = {momentum for _, momentum in ours(ScheduleConfig(), max_lr=0.1, steps=20)}
    assert momentum_buffers == {0.9}
    assert {m for _, m in ours(ScheduleConfig(), max_lr=0.1, steps=20, momentum=0)} == {0}


@pytest.mark.parametrize(("pct_start", "steps"), [(0.3, 1), (0.3, 3), (0.5, 2), (0.01, 100)])
def test_a_run_too_short_to_rise_is_refused_with_the_cure(pct_start, steps):
    with pytest.raises(
        ConfigError, match=rf"{steps} step\(s\) is too short .*--epochs.*--pct-start"
    ):
        ours(ScheduleConfig(pct_start=pct_start), max_lr=0.1, steps=steps)


@pytest.mark.parametrize(("pct_start", "steps"), [(0.3, 4), (0.6, 2), (0.99, 2), (0.999999, 50)])
def test_the_shortest_runs_have_finite_rates_up_to_the_peak(pct_start, steps):
    rates = [lr for lr, _ in ours(ScheduleConfig(pct_start=pct_start), max_lr=0.1, steps=steps)]
    assert len(rates) == steps
    assert all(0 < rate <= 0.1 * (1 + 1e-9) for rate in rates)


@pytest.mark.parametrize(("batch_size", "rate"), [(256, 0.1), (64, 0.025), (1, 0.1 / 256)])
def test_the_linear_rule_is_a_tenth_per_256_images(batch_size, rate):
    assert linear_scaling_lr(batch_size) == pytest.approx(rate)


@pytest.mark.parametrize(("batch_size", "lr"), [(256, 1e-3), (64, 5e-4), (1024, 2e-3)])
def test_the_lr_of_adaptive_optimizers_grows_with_the_root_of_the_batch(batch_size, lr):
    assert sqrt_scaling_lr(batch_size) == pytest.approx(lr)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ({"adam_beta1": 0.8}, "--adam-beta1 is a setting of --optimizer adamw or muon, and this"),
        ({"optimizer": "adamw", "momentum": 0.5}, "--momentum is a setting of --optimizer sgd"),
        ({"optimizer": "muon", "nesterov": True}, "uses muon: use --no-nesterov, or choose"),
        ({"optimizer": "adamw", "muon_momentum": 0.5}, "leave --muon-momentum out, or choose"),
    ],
    ids=str,
)
def test_a_setting_of_another_optimizer_is_refused_with_the_cure(typed, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig().override({"optimizer": typed})


def test_settings_of_other_optimizers_are_not_among_those_in_use():
    assert OptimizerConfig(optimizer="adamw", adam_beta2=0.99).in_use() == {
        "optimizer": "adamw",
        "adam_beta1": 0.9,
        "adam_beta2": 0.99,
        "adam_eps": 1e-8,
        "weight_decay": 1e-4,
        "norm_decay": True,
        "label_smoothing": 0.1,
        "class_weights": None,
        "clip_grad": None,
        "ema_decay": 0.0,
    }


def test_adamw_takes_the_steps_of_torch():
    ours, theirs = small_network(), small_network()
    settings = OptimizerConfig(
        optimizer="adamw", weight_decay=0.1, adam_beta1=0.8, adam_beta2=0.95, adam_eps=1e-6
    )
    optimizer = build_optimizer(settings, ours, lr=0.02)
    reference = torch.optim.AdamW(
        theirs.parameters(), lr=0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1
    )
    train_a_little(ours, optimizer)
    train_a_little(theirs, reference)
    assert largest_difference(ours, theirs) < 1e-6


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_norm_decay_only_matrices_shrink_where_there_is_no_gradient(name):
    network = small_network()
    settings = OptimizerConfig(optimizer=name, weight_decay=0.5, norm_decay=False)
    optimizer = build_optimizer(settings, network, lr=0.1)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for old, now in zip(before, network.parameters(), strict=True):
        torch.testing.assert_close(now.detach(), old * (0.95 if now.ndim > 1 else 1))


def test_the_optimizer_is_sgd_with_the_settings_asked_for():
    model = torch.nn.Linear(3, 2)
    settings = OptimizerConfig(momentum=0.8, weight_decay=0.01)
    optimizer = build_optimizer(settings, model, lr=0.5)
    reference_model = torch.nn.Linear(3, 2)
    reference_model.load_state_dict(model.state_dict())
    reference = torch.optim.SGD(
        reference_model.parameters(), lr=0.5, momentum=0.8, weight_decay=0.01
    )
    inputs = torch.arange(12.0).view(4, 3) / 12
    for network, sgd in ((model, optimizer), (reference_model, reference)):
        for _ in range(5):
            sgd.zero_grad()
            network(inputs).square().sum().backward()
            sgd.step()
    assert torch.allclose(model.weight, reference_model.weight, atol=1e-6)


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    )


def train_a_little(network, optimizer, steps=5):
    generator = torch.Generator().manual_seed(2)
    for _ in range(steps):
        optimizer.zero_grad()
        network(torch.randn(6, 3, 4, 4, generator=generator)).square().sum().backward()
        optimizer.step()


def largest_difference(one, other):
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


def test_nesterov_takes_the_steps_of_torch_from_the_first_on():
    ours, theirs, without = (small_network() for _ in range(3))
    settings = OptimizerConfig(momentum=0.8, weight_decay=0.01, nesterov=True)
    reference = torch.optim.SGD(
        theirs.parameters(), lr=0.01, momentum=0.8, weight_decay=0.01, nesterov=True
    )
    plain = build_optimizer(OptimizerConfig(momentum=0.8, weight_decay=0.01), without, lr=0.01)
    optimizer = build_optimizer(settings, ours, lr=0.01)
    for steps in (1, 4):
        train_a_little(ours, optimizer, steps)
        train_a_little(theirs, reference, steps)
        train_a_little(without, plain, steps)
        assert largest_difference(ours, theirs) < 1e-6
        assert largest_difference(ours, without) > 1e-3


def test_nesterov_without_momentum_is_refused_with_the_cure():
    with pytest.raises(
        ConfigError, match=r"--nesterov requires a --momentum above 0.*it is 0: raise"
    ):
        RunConfig().override({"optimizer": {"nesterov": True, "momentum": 0}})


NORMS = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)


def norms_and_biases(network):
    """What torchvision's reference training takes out of the weight decay, by its two options."""
    found = set()
    for place, module in network.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            if isinstance(module, NORMS) or name.endswith("bias"):
                found.add(f"{place}.{name}")
    return found


@pytest.mark.parametrize(
    "arch", ["resnet50", "mobilenet_v3_small", "convnext_tiny", "squeezenet1_1", "densenet121"]
)
def test_without_norm_decay_the_parameters_of_torchvisions_reference_are_not_decayed(arch):
    with torch.device("meta"):
        network = torchvision.models.get_model(arch, weights=None)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = OPTIMIZERS["sgd"].groups
    decayed, others = groups(OptimizerConfig(norm_decay=False), network)
    assert {names[id(one)] for one in others["params"]} == norms_and_biases(network)
    assert len(decayed["params"]) + len(others["params"]) == len(names)
    assert "weight_decay" not in decayed
    assert others["weight_decay"] == 0
    (all_of_them,) = groups(OptimizerConfig(), network)
    assert [id(one) for one in all_of_them["params"]] == list(names)


def test_without_norm_decay_steps_and_rates_are_those_of_two_groups_of_torch():
    ours, theirs = small_network(), small_network()
    settings = OptimizerConfig(weight_decay=0.1, norm_decay=False)
    optimizer = build_optimizer(settings, ours, lr=0.02)
    scheduler = build_scheduler(ScheduleConfig(), optimizer, max_lr=0.02, total_steps=10)
    weights = [theirs[0].weight, theirs[4].weight]
    rest = [theirs[0].bias, theirs[1].weight, theirs[1].bias, theirs[4].bias]
    reference = torch.optim.SGD(
        [{"params": weights, "weight_decay": 0.1}, {"params": rest}], lr=0.02, momentum=0.9
    )
    reference_scheduler = torch.optim.lr_scheduler.OneCycleLR(
        reference, 0.02, total_steps=10, cycle_momentum=False
    )
    for _ in range(8):
        train_a_little(ours, optimizer, 1)
        train_a_little(theirs, reference, 1)
        scheduler.step()
        reference_scheduler.step()
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == [group["lr"] for group in reference.param_groups]
        assert rates[0] == rates[1]
    assert largest_difference(ours, theirs) < 1e-6


def test_momentum_is_not_taken_over_from_other_groups_of_parameters():
    network = small_network()
    one = build_optimizer(OptimizerConfig(), network, lr=0.1)
    two = build_optimizer(OptimizerConfig(norm_decay=False), network, lr=0.1)
    train_a_little(network, two, 2)
    load_optimizer(
        build_optimizer(OptimizerConfig(norm_decay=False), network, lr=0.1),
        two.state_dict(),
    )
    for optimizer, saved in ((one, two.state_dict()), (two, one.state_dict())):
        with pytest.raises(
            ValueError, match="param_groups: the saved groups hold other parameters"
        ):
            load_optimizer(optimizer, saved)


def test_a_setting_of_the_second_group_that_was_changed_is_named():
    network = small_network()
    optimizer = build_optimizer(OptimizerConfig(norm_decay=False), network, lr=0.1)
    scheduler = build_scheduler(ScheduleConfig(), optimizer, max_lr=0.1, total_steps=10)
    saved = copy.deepcopy(optimizer.state_dict())
    check_same_settings(optimizer, saved)
    check_same_length(scheduler, {"total_steps": 10})
    with pytest.raises(ValueError, match="total_steps: 9, and by the settings it is 10"):
        check_same_length(scheduler, {"total_steps": 9})
    saved["param_groups"][1]["weight_decay"] = 0.5
    with pytest.raises(ValueError, match=r"param_groups\.1\.weight_decay: 0\.5, .* it is 0$"):
        check_same_settings(optimizer, saved)


@pytest.mark.parametrize("smoothing", [0, 0.1])
def test_the_loss_is_the_mean_cross_entropy_with_smoothed_labels(smoothing):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 5, generator=generator)
    targets = torch.randint(5, (8,), generator=generator)
    spread = F.one_hot(targets, 5) * (1 - smoothing) + smoothing / 5
    expected = -(spread * logits.log_softmax(1)).sum(1).mean()
    loss = build_loss(OptimizerConfig(label_smoothing=smoothing))
    assert loss(logits, targets).item() == pytest.approx(expected.item(), rel=1e-6)
