import pytest
import torch
from torch import nn
from torchvision.models import get_model

from imgnet_mini.reporting.summary import count_parameters, summarise_model


def network(name: str) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = get_model(name, weights=None, num_classes=7)
    return model


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v3_small", "densenet121", "vit_b_16"])
def test_summary_counts_every_parameter(name: str) -> None:
    model = network(name)
    text = summarise_model(model, 224)
    assert f"Total params: {count_parameters(model):,}\n" in text
    assert text.endswith("\n")


def test_summary_shows_shapes_and_work_of_one_image() -> None:
    text = summarise_model(network("resnet18"), 64)
    for words in ("Input Shape", "Output Shape", "Param #", "Mult-Adds"):
        assert words in text
    assert "[1, 3, 64, 64]" in text
    assert "[1, 512, 2, 2]" in text
    assert "Units." not in text


def test_shared_parameters_count_once() -> None:
    layer = nn.Linear(3, 4)
    assert count_parameters(nn.Sequential(layer, nn.ReLU(), layer)) == 16


def test_a_summary_does_not_move_the_random_numbers_of_a_run():
    model = get_model("shufflenet_v2_x0_5")
    before = torch.get_rng_state()
    summarise_model(model, 32)
    assert torch.equal(torch.get_rng_state(), before)
