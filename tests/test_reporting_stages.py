import pytest
import torch
from torch import nn
from torchvision.models import get_model

from imgnet_mini.reporting.stages import Stage, find_stages

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


def test_large_sequential_of_features_is_opened() -> None:
    stages = find_stages(network("efficientnet_b0"), 224)
    assert [stage.layers[0] for stage in stages[:9]] == [f"features.{i}" for i in range(9)]


def test_transformer_tells_its_blocks() -> None:
    encoder = find_stages(network("vit_b_16"), 224)[1]
    assert encoder.content == "Encoder: 12 \N{MULTIPLICATION SIGN} EncoderBlock"
    assert encoder.output == (197, 768)


def test_heads_that_run_in_training_only_are_left_out() -> None:
    model = network("googlenet", init_weights=False).train()
    names = [name for stage in find_stages(model, 224) for name in stage.layers]
    assert "inception5b" in names
    assert not any("aux" in name for name in names)
