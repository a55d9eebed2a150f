"""Crops of single images on the CPU, and normalization of batches on the device."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from imgnet_mini.config.settings import DataConfig
from imgnet_mini.data.crops import Crop, crop_image, sample_crop
from imgnet_mini.data.images import read_pixels

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
"""ImageNet's channel statistics in units of uint8, as in torchvision's reference training."""

_MAX_ASPECT_RATIO: Final = 64
"""Longer images are shortened to this many times their short side before they are resized."""


class TrainCrop:
    """Random resized crop and horizontal flip."""

    def __init__(self, data: DataConfig) -> None:
        self._crop_scale_min = data.crop_scale_min
        self._flip = data.flip

    def sample(self, u: Sequence[float], width: int, height: int) -> Crop:
        """Return the crop that numbers in [0, 1) select from an image of this size."""
        return sample_crop(u, width, height, crop_scale_min=self._crop_scale_min, flip=self._flip)

    def load(self, path: Path, u: Sequence[float], size: int) -> Tensor:
        """Read, crop and resize one image: (3, size, size) uint8.

        Raises:
            DataError: it cannot be decoded.
        """
        pixels = read_pixels(path)
        height, width = pixels.shape[:2]
        return crop_image(pixels, self.sample(u, width, height), size)


class EvalCrop:
    """Resize the short side and crop the center, with Pillow, as torchvision's reference does.

    resize: the short side in pixels; None: 8/7 of the crop, the standard evaluation.
    """

    def __init__(self, img_size: int, *, resize: int | None = None) -> None:
        short_side = eval_resize(img_size) if resize is None else resize
        self._crop = v2.Compose([v2.Resize(short_side), v2.CenterCrop(img_size)])

    def __call__(self, pixels: NDArray[np.uint8]) -> Image.Image:
        """Return an image of S x S pixels from one of any size, (H, W, 3)."""
        image: Image.Image = self._crop(Image.fromarray(_shorten_strip(pixels)))
        return image

    def load(self, path: Path, *_: object) -> Tensor:
        """Read and crop one image: (3, S, S) uint8. Takes and ignores `TrainCrop.load`'s arguments.

        Raises:
            DataError: it cannot be decoded.
        """
        return torch.from_numpy(np.array(self(read_pixels(path)))).permute(2, 0, 1)


def _shorten_strip(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cut off the ends of a long strip: the center crop drops them, resized they may fill RAM."""
    height, width = pixels.shape[:2]
    longest = _MAX_ASPECT_RATIO * min(height, width)
    top, left = max(0, height - longest) // 2, max(0, width - longest) // 2
    return pixels[top : top + longest, left : left + longest]


def eval_resize(img_size: int) -> int:
    """Return the short side before the center crop: 256 for 224."""
    return round(img_size * 256 / 224)


class Normalize:
    """(N, 3, H, W) uint8 to float32 in channels_last, with ImageNet's mean and standard deviation.

    Runs on the images' device: uint8 is a quarter of the bytes to transfer.
    """

    def __init__(self, device: torch.device) -> None:
        # Built once: a copy to the GPU per batch would block.
        self._mean = torch.tensor(MEAN, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(STD, device=device).view(1, 3, 1, 1)
        self._maps: dict[torch.Size, tuple[Tensor, Tensor]] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """Normalize a batch."""
        mean, std = self._expanded(images.shape[2:])
        floats = torch.empty(images.shape, device=images.device, memory_format=torch.channels_last)
        # A CPU goes image by image, so that each stays in the cache: 0.6 of the time.
        chunks = len(images) if images.device.type == "cpu" else 1
        for part, result in zip(images.chunk(chunks), floats.chunk(chunks), strict=True):
            torch.sub(part, mean, out=result).div_(std)
        return floats

    def _expanded(self, size: torch.Size) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of each pixel: broadcasting over three numbers is slow."""
        if size not in self._maps:
            self._maps[size] = (
                self._mean.expand(1, 3, *size).contiguous(memory_format=torch.channels_last),
                self._std.expand(1, 3, *size).contiguous(memory_format=torch.channels_last),
            )
        return self._maps[size]
