"""Blur before the layers of a ResNet that skip pixels (Zhang 2019, arXiv:1904.11486)."""

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BlurPool(nn.Module):
    """A binomial filter of 3 x 3 pixels on each channel, at every `stride`-th row and column.

    At the edges the pixels outside count as zeros. Without the filter, what a stride of 2 keeps
    changes with a shift of the image by one pixel.
    """

    filter: Tensor

    def __init__(self, stride: int) -> None:
        super().__init__()
        taps = torch.tensor([0.25, 0.5, 0.25])  # exact in fp16 and bf16
        self.register_buffer("filter", (taps[:, None] * taps)[None, None])
        self.stride = stride

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H / stride, W / stride), rounded up."""
        channels = features.shape[1]
        filters = self.filter.expand(channels, -1, -1, -1)
        return F.conv2d(features, filters, stride=self.stride, padding=1, groups=channels)


def add_blur_pool(resnet: nn.Module) -> None:
    """Blur before each layer of stride 2 of a ResNet of torchvision, but the first convolution.

    The layers of a kernel of one pixel, and the pooling, keep all pixels, and the filter skips
    them. The weights are the same, under other names: such a network computes something else, so
    they must not load into one without the filters, or the other way around.
    """
    for block in list(resnet.modules()):
        for name, layer in list(block.named_children()):
            if isinstance(layer, nn.MaxPool2d):
                pool = nn.MaxPool2d(layer.kernel_size, stride=1, padding=layer.padding)
                setattr(block, name, nn.Sequential(pool, BlurPool(2)))
            elif isinstance(layer, nn.Conv2d) and layer.stride == (2, 2) and block is not resnet:
                stride = 1
                if layer.kernel_size == (1, 1):
                    layer.stride, stride = (1, 1), 2
                setattr(block, name, nn.Sequential(BlurPool(stride), layer))


def has_blur_pool(names: Collection[str]) -> bool:
    """Return whether these names of tensors are of a network with `add_blur_pool`."""
    return "maxpool.1.filter" in names
