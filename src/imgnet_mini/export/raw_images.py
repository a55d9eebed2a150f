"""A network that takes images as they are: resize, crop, normalization and softmax inside."""

import torch
from torch import Tensor, nn

from imgnet_mini.data.transforms import MEAN, STD, eval_resize
from imgnet_mini.export.formats import Description


class RawImages(nn.Module):
    """Prepares images as `data.transforms.EvalCrop` does, and returns probabilities.

    Along each axis, the resize is a matrix product with Pillow's weights of a bilinear,
    antialiased resize, for the pixels of the crop alone. Results are rounded after each axis, as
    Pillow does: where a value is halfway between two gray levels, they may differ, in fewer than
    1 % of a photograph's values. An operator such as ONNX's Resize would differ in more, and
    depend on the runtime.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, img_size: int) -> None:
        super().__init__()
        self.model = model
        self.img_size = img_size
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return probabilities (N, C) of images (N, H, W, 3), RGB, uint8."""
        probabilities: Tensor = self.model((self.crop(images) - self.mean) / self.std).softmax(1)
        return probabilities

    def crop(self, images: Tensor) -> Tensor:
        """Return (N, 3, S, S) float32 with values from 0 to 255."""
        height, width = images.shape[1], images.shape[2]
        short_side = torch.minimum(_scalar(height), _scalar(width))
        pixels = images.permute(0, 3, 1, 2).float()
        rows = _round(pixels @ self._weights(width, short_side).T)
        return _round(self._weights(height, short_side) @ rows)

    def _weights(self, length: int, short_side: Tensor) -> Tensor:
        """Return the weight of each input pixel in each output pixel along one axis.

        The positions are whole numbers before they are divided: exact in images of any size.
        """
        resized = eval_resize(self.img_size) * _scalar(length) // short_side
        margin = resized - self.img_size
        start = margin // 2 + margin % 2 * (margin // 2 % 2)  # a half is rounded to an even number
        output = torch.arange(self.img_size) + start
        center = (2 * output + 1) * _scalar(length) - resized  # in units of 1 / (2 x resized) pixel
        whole = center // (2 * resized)
        fraction = (center - whole * (2 * resized)).float() / (2 * resized).float()
        distance = (torch.arange(length) - whole.unsqueeze(1)).float() - fraction.unsqueeze(1)
        reach = (length / resized.float()).clamp(min=1)
        weights = (1 - distance.abs() / reach).clamp(min=0)
        return weights / weights.sum(1, keepdim=True)


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
