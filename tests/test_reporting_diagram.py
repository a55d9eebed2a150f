from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.models import get_model

from imgnet_mini.reporting.diagram import draw_network


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
def test_network_is_drawn_to_the_one_file_asked_for(
    name: str, options: dict[str, bool], tmp_path: Path
) -> None:
    with torch.device("meta"):
        model = get_model(name, weights=None, num_classes=7, **options)
    draw_network(model, "net", 224, tmp_path / "network.png")
    with Image.open(tmp_path / "network.png") as image:
        assert image.width > 1000
        assert image.height > 500
    assert [path.name for path in tmp_path.iterdir()] == ["network.png"]
