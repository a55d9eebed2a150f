"""`imgnet-mini` with one more network, for benchmarks on CPUs: ResNet-18 with half the channels.

python benchmarks/narrow.py train --arch resnet18_half ...
"""

from typing import Any

from torch import nn
from torchvision.models import resnet
from torchvision.models._api import register_model

from imgnet_mini.__main__ import main


class HalfResNet(resnet.ResNet):  # type: ignore[misc]  # torchvision has no types
    """torchvision's ResNet with half the channels; `num_classes` outputs."""

    def __init__(self, *arguments: Any, num_classes: int, **options: Any) -> None:
        super().__init__(*arguments, num_classes=num_classes, **options)
        self.fc = nn.Linear(512 // 2, num_classes)

    def _make_layer(self, block: Any, planes: int, *arguments: Any, **options: Any) -> Any:
        if planes == 64:  # the first of four
            self.inplanes = planes // 2
            self.conv1 = nn.Conv2d(3, planes // 2, 7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(planes // 2)
        return super()._make_layer(block, planes // 2, *arguments, **options)


def resnet18_half(*, weights: None = None, **options: Any) -> HalfResNet:  # noqa: ARG001
    """Return the network; there are no weights for it."""
    return HalfResNet(resnet.BasicBlock, [2, 2, 2, 2], **options)


resnet18_half.__module__ = resnet.__name__  # imgnet-mini takes torchvision's networks
register_model()(resnet18_half)


if __name__ == "__main__":
    main()
