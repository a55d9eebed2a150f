"""Stages and diagram of networks."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import get_model

from imgnet_mini.reporting.diagram import draw_network
from imgnet_mini.reporting.network import (
    Stage,
    count_parameters,
    find_stages,
    shape_copy,
)
from imgnet_mini.reporting.summary import summarize_model

NETWORKS = [
    "resnet18",
    "resnet50",
    "mobilenet_v3_small",
    "vgg11",
    "densenet121",
    "vit_b_16",
    "efficientnet_b0",
    "squeezenet1_0",
    "swin_t",
    "maxvit_t",
]


def network(name: str, **options: object) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = get_model(name, weights=None, num_classes=7, **options)
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_stages_end_with_the_classes_and_hold_every_parameter(name: str) -> None:
    model = network(name)
    stages = find_stages(model, 224)
    outside = sum(parameter.numel() for parameter in model.parameters(recurse=False))
    assert stages[-1].output[0] == 7
    assert sum(stage.parameters for stage in stages) + outside == sum(
        parameter.numel() for parameter in model.parameters()
    )


def test_resnet50_has_its_four_groups_of_blocks() -> None:
    stages = {stage.layers[0]: stage for stage in find_stages(network("resnet50"), 224)}
    assert stages["conv1"].layers == ("conv1", "bn1", "relu")
    assert stages["conv1"].content == "Conv2d · BatchNorm2d · ReLU"
    for (layer, blocks), output in zip(
        {"layer1": 3, "layer2": 4, "layer3": 6, "layer4": 3}.items(),
        [(256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)],
        strict=True,
    ):
        assert stages[layer].content == f"{blocks} \N{MULTIPLICATION SIGN} Bottleneck"
        assert stages[layer].output == output
    assert stages["fc"] == Stage(("fc",), "Linear", (7,), 2048 * 7 + 7)


def test_a_large_sequential_is_split_into_its_children() -> None:
    stages = find_stages(network("efficientnet_b0"), 224)
    assert [stage.layers[0] for stage in stages[:9]] == [f"features.{i}" for i in range(9)]


def test_the_blocks_of_a_transformer_are_counted() -> None:
    encoder = find_stages(network("vit_b_16"), 224)[1]
    assert encoder.content == "Encoder: 12 \N{MULTIPLICATION SIGN} EncoderBlock"
    assert encoder.output == (197, 768)


def test_heads_that_run_in_training_only_are_left_out() -> None:
    model = network("googlenet", init_weights=False).train()
    names = [name for stage in find_stages(model, 224) for name in stage.layers]
    assert "inception5b" in names
    assert not any("aux" in name for name in names)


def test_a_shape_copy_has_shapes_and_no_values() -> None:
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
    "use",
    [
        lambda model, folder: draw_network(model, "net", 64, folder / "network.png"),
        lambda model, folder: summarize_model(model, 64),
    ],
    ids=["diagram", "summary"],
)
def test_the_model_is_not_changed(use: Callable[[nn.Module, Path], object], tmp_path: Path) -> None:
    model: nn.Module = get_model("resnet18", weights=None, num_classes=7)
    model.train()
    model.get_submodule("layer1").eval()
    model.get_submodule("fc").requires_grad_(False)
    model(torch.rand(2, 3, 64, 64)).sum().backward()
    values = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    tensors = [id(tensor) for tensor in model.state_dict(keep_vars=True).values()]

    use(model, tmp_path)

    for name, value in model.state_dict().items():
        assert value.device.type == "cpu"
        torch.testing.assert_close(value, values[name], rtol=0, atol=0)
    assert all(p.grad is gradients[name] for name, p in model.named_parameters())
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert [id(tensor) for tensor in model.state_dict(keep_vars=True).values()] == tensors
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_shared_parameters_count_once() -> None:
    layer = nn.Linear(3, 4)
    assert count_parameters(nn.Sequential(layer, nn.ReLU(), layer)) == 16


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {}),
        ("resnet50", {}),
        ("mobilenet_v3_small", {}),
        ("vgg11", {}),
        ("densenet121", {}),
        ("vit_b_16", {}),
        ("efficientnet_b0", {}),
        ("googlenet", {"init_weights": False}),  # two outputs in training
    ],
)
def test_a_network_is_drawn_to_one_file(
    name: str, options: dict[str, bool], tmp_path: Path
) -> None:
    with torch.device("meta"):
        model = get_model(name, weights=None, num_classes=7, **options)
    draw_network(model, "net", 224, tmp_path / "network.png")
    with Image.open(tmp_path / "network.png") as image:
        assert image.width > 1000
        assert image.height > 500
    assert [path.name for path in tmp_path.iterdir()] == ["network.png"]
