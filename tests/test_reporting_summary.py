"""The table of a network's layers, and its multiply-adds."""

import re

import pytest
import torch
from torch import nn
from torchvision.models import get_model, get_model_weights

from imgnet_mini.reporting.network import count_parameters
from imgnet_mini.reporting.summary import count_mult_adds, summarize_model

PUBLISHED = {
    "resnet18": (1.8e9, "He et al. 2016, table 1"),
    "resnet50": (4.1e9, "Wightman et al. 2021 (stride in the 3 x 3 convolution)"),
    "mobilenet_v2": (300e6, "Sandler et al. 2018, table 4"),
    "mobilenet_v3_large": (219e6, "Howard et al. 2019, table 3"),
    "efficientnet_b0": (0.39e9, "Tan and Le 2019, table 2"),
    "convnext_tiny": (4.5e9, "Liu et al. 2022, table 1"),
    "swin_t": (4.5e9, "Liu et al. 2021, table 1"),
    "vit_b_16": (17.6e9, "Touvron et al. 2021, table 5"),
}
"""Multiply-adds at 224 px."""


def network(name: str) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = get_model(name, weights=None)
    return model


@pytest.mark.parametrize("name", PUBLISHED)
def test_multiply_adds_are_those_of_the_paper_and_of_torchvision(name: str) -> None:
    published, _ = PUBLISHED[name]
    counted = count_mult_adds(network(name), 224)
    assert counted == pytest.approx(published, rel=0.02)
    # Measured by the authors of torchvision; rounded to three digits behind the point.
    torchvisions = get_model_weights(name).DEFAULT.meta["_ops"]
    assert counted / 1e9 == pytest.approx(torchvisions, abs=6e-4)


def column(text: str, place: int) -> list[int]:
    """The numbers of a column, counted from the right, of the rows between the second rules."""
    rows = re.split(r"=+\n", text)[2].splitlines()
    cells = [row.split()[place].replace(",", "") for row in rows]
    return [int(cell) for cell in cells if cell != "--"]


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v3_small", "densenet121", "vit_b_16"])
def test_the_rows_add_up_to_the_totals(name: str) -> None:
    model = network(name)
    text = summarize_model(model, 224)
    assert f"Total params: {count_parameters(model):,}\n" in text
    assert f"({count_mult_adds(model, 224):,})\n" in text
    assert sum(column(text, -2)) == count_parameters(model)
    assert sum(column(text, -1)) == count_mult_adds(model, 224)
    assert text.endswith("\n")


def test_the_summary_shows_shapes_and_work_of_one_image_and_says_what_is_counted() -> None:
    text = summarize_model(network("resnet18"), 64)
    for words in ("Input Shape", "Output Shape", "Param #", "Mult-Adds"):
        assert words in text
    assert "[1, 3, 64, 64]" in text
    assert "[1, 512, 2, 2]" in text
    assert "half the FLOPs of torch.utils.flop_counter" in text


def test_a_layer_counts_as_often_as_it_runs_and_its_weights_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Linear(8, 8)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            tokens: torch.Tensor = self.shared(self.shared(images))  # 3 x 8 tokens of 8 numbers
            return tokens @ tokens.mT  # 3 x (8 x 8) @ (8 x 8), of no layer

    text = summarize_model(Twice(), 8)
    assert column(text, -1) == [3 * 8 * 8 * 8, 2 * 3 * 8 * 8 * 8]
    assert column(text, -2) == [8 * 8 + 8]


def test_a_summary_draws_no_random_numbers() -> None:
    model: nn.Module = get_model("shufflenet_v2_x0_5")
    before = torch.get_rng_state()
    summarize_model(model, 32)
    assert torch.equal(torch.get_rng_state(), before)
