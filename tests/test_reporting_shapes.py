from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from imgnet_mini.reporting.diagram import draw_network
from imgnet_mini.reporting.shapes import shape_copy
from imgnet_mini.reporting.summary import summarise_model


def test_copy_has_shapes_and_no_values() -> None:
    model: nn.Module = get_model("resnet18", weights=None, num_classes=7)
    copy = shape_copy(model)
    assert not copy.training
    for name, value in copy.state_dict().items():
        assert value.device.type == "meta"
        assert value.shape == model.state_dict()[name].shape


def test_shared_weights_stay_shared() -> None:
    layer = nn.Linear(3, 3)
    copy = shape_copy(nn.Sequential(layer, nn.ReLU(), layer))
    assert sum(parameter.numel() for parameter in copy.parameters()) == 12


@pytest.mark.parametrize(
    "look",
    [
        lambda model, folder: draw_network(model, "net", 64, folder / "network.png"),
        lambda model, folder: summarise_model(model, 64),
    ],
    ids=["diagram", "summary"],
)
def test_model_is_left_as_found(look: Callable[[nn.Module, Path], object], tmp_path: Path) -> None:
    model: nn.Module = get_model("resnet18", weights=None, num_classes=7)
    model.train()
    model.get_submodule("layer1").eval()
    model.get_submodule("fc").requires_grad_(False)
    model(torch.rand(2, 3, 64, 64)).sum().backward()
    values = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    tensors = [id(tensor) for tensor in model.state_dict(keep_vars=True).values()]

    look(model, tmp_path)

    for name, value in model.state_dict().items():
        assert value.device.type == "cpu"
        torch.testing.assert_close(value, values[name], rtol=0, atol=0)
    assert all(p.grad is gradients[name] for name, p in model.named_parameters())
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert [id(tensor) for tensor in model.state_dict(keep_vars=True).values()] == tensors
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
