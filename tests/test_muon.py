import copy
import sys

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from imgnet_mini.config.training_settings import ModelConfig, OptimizerConfig
from imgnet_mini.errors import ConfigError
from imgnet_mini.training.model import build_model
from imgnet_mini.training.muon import MuonAdamW, hidden_weights
from imgnet_mini.training.optim import build_optimizer

MUON = OptimizerConfig(optimizer="muon", weight_decay=0.1)
CPU = torch.device("cpu")


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 6, 3, bias=False),
        nn.Flatten(),
        nn.Linear(24, 8),
        nn.Linear(8, 3),
    )


def take_step(model, optimizer, seed):
    generator = torch.Generator().manual_seed(seed)
    optimizer.zero_grad()
    model(torch.randn(5, 3, 6, 6, generator=generator)).square().sum().backward()
    optimizer.step()


class Matrices(nn.Module):
    """The network above with its hidden weights as the matrices that torch.optim.Muon takes."""

    def __init__(self, model):
        super().__init__()
        self.first, self.norm, convolution, _, linear, self.last = copy.deepcopy(model)
        self.convolution = nn.Parameter(convolution.weight.detach().flatten(1).clone())
        self.linear = linear

    def forward(self, images):
        features = self.norm(self.first(images))
        kernels = self.convolution.view(6, 4, 3, 3)
        features = nn.functional.conv2d(features, kernels).flatten(1)
        return self.last(self.linear(features))


def test_hidden_weights_take_the_steps_of_torchs_muon_and_the_rest_those_of_its_adamw():
    model = network()
    reference = Matrices(model)
    matrices = [reference.convolution, reference.linear.weight]
    taken = {id(weight) for weight in matrices}
    rest = [one for one in reference.parameters() if id(one) not in taken]
    muon = torch.optim.Muon(
        matrices, lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(rest, lr=0.01, weight_decay=0.1, fused=True)
    optimizer = build_optimizer(MUON, model, lr=0.01)
    for step in range(4):
        take_step(model, optimizer, step)
        adamw.zero_grad()
        take_step(reference, muon, step)
        adamw.step()
    ours, theirs = model.state_dict(), reference.state_dict()
    names = {"2.weight": "convolution", "4.weight": "linear.weight", "0.weight": "first.weight"}
    names |= {"1.bias": "norm.bias", "5.weight": "last.weight", "4.bias": "linear.bias"}
    for name, other in names.items():
        torch.testing.assert_close(ours[name].view_as(theirs[other]), theirs[other])


def test_channels_last_weights_are_updated_as_others_are():
    plain, channels_last = network(), network().to(memory_format=torch.channels_last)
    assert not channels_last[2].weight.is_contiguous()
    for model in (plain, channels_last):
        optimizer = build_optimizer(MUON, model, lr=0.01)
        before = model[2].weight.clone()
        take_step(model, optimizer, 0)
        assert (model[2].weight - before).abs().mean() > 1e-3
    # The iteration runs in bfloat16, over columns in another order.
    torch.testing.assert_close(plain[2].weight, channels_last[2].weight, rtol=0.05, atol=1e-3)


@pytest.mark.parametrize(
    ("arch", "first", "last"),
    [
        ("resnet50", "conv1.weight", "fc.weight"),
        ("vit_b_16", "conv_proj.weight", "heads.head.weight"),
    ],
)
def test_muon_takes_all_matrices_but_those_of_the_first_and_the_last_layer(arch, first, last):
    with torch.device("meta"):
        model = get_model(arch, weights=None)
    hidden = {id(weight) for weight in hidden_weights(model)}
    left = {
        name
        for name, one in model.named_parameters()
        if id(one) not in hidden and one.ndim in (2, 4)
    }
    assert left == {first, last}


def test_depthwise_convolutions_are_left_to_adamw():
    model = build_model(
        ModelConfig(arch="shufflenet_v2_x0_5"), classes=3, img_size=32, seed=0, device=CPU
    )
    hidden = hidden_weights(model)
    assert hidden
    assert all(weight.shape[1] > 1 for weight in hidden)


@pytest.mark.parametrize("scale", [None, 1024.0])
def test_a_step_with_overflown_gradients_changes_nothing_and_others_are_unscaled(scale):
    """As GradScaler asks for it: with tensors, which the host does not read."""
    model, reference = network(), network()
    optimizer, plain = (build_optimizer(MUON, one, lr=0.01) for one in (model, reference))
    take_step(reference, plain, 0)
    optimizer.zero_grad()
    generator = torch.Generator().manual_seed(0)
    loss = model(torch.randn(5, 3, 6, 6, generator=generator)).square().sum()
    (loss * (scale or 1)).backward()
    optimizer.grad_scale = None if scale is None else torch.tensor(scale)
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)

    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    for parameter in model.parameters():
        parameter.grad.fill_(torch.inf)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    after = (model.state_dict(), optimizer.state_dict()["state"])
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_a_torch_without_muon_is_named_with_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.optim._muon", None)
    with pytest.raises(ConfigError, match=r"--optimizer muon: torch .* has no Muon; install"):
        build_optimizer(MUON, network(), lr=0.01)


def test_without_prepared_state_the_first_step_makes_it():
    model = network()
    groups = [{"params": [model[4].weight], "use_muon": True}, {"params": [model[5].bias]}]
    optimizer = MuonAdamW(groups, lr=0.01)
    take_step(model, optimizer, 0)
    names = [tuple(state) for state in optimizer.state.values()]
    assert names == [("momentum_buffer",), ("step", "exp_avg", "exp_avg_sq")]
