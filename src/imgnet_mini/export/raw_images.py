"""A network that takes images as they are: resize, crop, normalization and softmax inside."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from imgnet_mini.data.transforms import MEAN, STD
from imgnet_mini.export.formats import Description

_LEAST_TOTAL: Final = 1e-6
"""Padding has no weights to divide by."""


class RawImages(nn.Module):
    """Prepares images as `data.transforms.EvalCrop` does, and returns probabilities.

    Along each axis, the resize is a matrix product with Pillow's weights of a bilinear,
    antialiased resize, for the pixels of the crop alone. Results are rounded after each axis, as
    Pillow does: where a value is halfway between two gray levels, they may differ, in fewer than
    1 % of a photograph's values. An operator such as ONNX's Resize would differ in more, and
    depend on the runtime.

    preprocessing: of the description, see `formats.describe`.
    """

    mean: Tensor
    std: Tensor
    padding: Tensor

    def __init__(self, model: nn.Module, preprocessing: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.img_size = preprocessing["center_crop"]
        self.resize = preprocessing["resize"]
        self.fit = preprocessing["fit"]
        for name, color in (
            ("mean", MEAN),
            ("std", STD),
            ("padding", preprocessing.get("padding", (0, 0, 0))),
        ):
            self.register_buffer(name, torch.tensor(color).float().view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return probabilities (N, C) of images (N, H, W, 3), RGB, uint8."""
        probabilities: Tensor = self.model((self.square(images) - self.mean) / self.std).softmax(1)
        return probabilities

    def square(self, images: Tensor) -> Tensor:
        """Return (N, 3, S, S) float32 with values from 0 to 255."""
        height, width = _scalar(images.shape[1]), _scalar(images.shape[2])
        short, long = torch.minimum(height, width), torch.maximum(height, width)
        across, in_width = self._weights(width, images.shape[2], short, long)
        down, in_height = self._weights(height, images.shape[1], short, long)
        pixels = images.permute(0, 3, 1, 2).float()
        square = _round(down @ _round(pixels @ across.T))
        if self.fit == "pad":
            square = torch.where(in_height.unsqueeze(1) & in_width, square, self.padding)
        return square

    def _weights(
        self, length: Tensor, size: int, short: Tensor, long: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the weight of each input pixel in each output pixel along one axis.

        Also return which output pixels are of the image, and not padding. The positions are whole
        numbers before they are divided: exact in images of any size.

        length: of the axis, as a tensor and as a number; short, long: sides of the image.
        """
        resized, start = self._place(length, short, long)
        output = torch.arange(self.img_size) + start
        center = (2 * output + 1) * length - resized  # in units of 1 / (2 x resized) pixel
        whole = center // (2 * resized)
        fraction = (center - whole * (2 * resized)).float() / (2 * resized).float()
        distance = (torch.arange(size) - whole.unsqueeze(1)).float() - fraction.unsqueeze(1)
        reach = (length.float() / resized.float()).clamp(min=1)
        weights = (1 - distance.abs() / reach).clamp(min=0)
        total = weights.sum(1, keepdim=True).clamp(min=_LEAST_TOTAL)
        return weights / total, (output >= 0) & (output < resized)

    def _place(self, length: Tensor, short: Tensor, long: Tensor) -> tuple[Tensor, Tensor]:
        """Return the length of an axis after the resize, and where the square starts in it."""
        if self.fit == "squash":
            return _scalar(self.img_size), _scalar(0)
        if self.fit == "pad":  # in float64, to round as Python does
            fitted = (length.double() * (self.img_size / long.double())).round().long().clamp(min=1)
            return fitted, -((self.img_size - fitted) // 2)
        resized = self.resize * length // short
        margin = resized - self.img_size
        return resized, margin // 2 + margin % 2 * (margin // 2 % 2)  # half is rounded to even


def describe_raw(description: Description) -> Description:
    """Return the description of a network that takes images as they are.

    description: see `formats.describe`.
    """
    return description | {
        "input": {
            "name": "images",
            "shape": ["batch", "height", "width", 3],
            "type": "uint8",
            "channels": "RGB; gray and transparent images have to be converted",
        },
        "preprocessing": description["preprocessing"] | {"inside": "resize to normalization"},
        "output": description["output"] | {"name": "probabilities"},
    }


def _scalar(size: int) -> Tensor:
    """Return a size as a tensor, so that an exported graph computes with that of its input."""
    return torch.full((1,), size, dtype=torch.int64)


def _round(pixels: Tensor) -> Tensor:
    """Round to the nearest integer, a half upwards."""
    return (pixels + 0.5).floor()
