"""The network layer by layer, as text."""

import torch
from torch import nn
from torchinfo import summary
from torchinfo.enums import Units

from imgnet_mini.reporting.shapes import shape_copy


def summarise_model(model: nn.Module, img_size: int) -> str:
    """The table of torchinfo for a (1, 3, img_size, img_size) input in evaluation mode."""
    with torch.random.fork_rng([]):  # it draws its input, and a run's next numbers must not move
        statistics = summary(
            shape_copy(model),
            input_size=(1, 3, img_size, img_size),
            col_names=("input_size", "output_size", "num_params", "mult_adds"),
            depth=3,
            device="meta",
            mode="eval",
            verbose=0,
        )
    text = str(statistics)
    for unit in Units:  # torchinfo 1.8 writes `Units.GIGABYTES` for G
        text = text.replace(str(unit), unit.value)
    return f"{text}\n"


def count_parameters(model: nn.Module) -> int:
    """Trained and frozen ones; shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
