"""What happens to the pixels: per image on the processor, then per batch on the device."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
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

_LONGEST_STRIP: Final = 64
"""Times its short side, what is kept of an image's long side before the evaluation's resize."""


class TrainCrop:
    """Random resized crop and flip."""

    def __init__(self, data: DataConfig) -> None:
        self._min_crop = data.crop_scale_min
        self._flip = data.flip

    def sample(self, numbers: Sequence[float], width: int, height: int) -> Crop:
        """The crop of an image of this size that these numbers in [0, 1) stand for."""
        return sample_crop(numbers, width, height, crop_scale_min=self._min_crop, flip=self._flip)

    def load(self, path: Path, numbers: Sequence[float], size: int) -> Tensor:
        """Read, crop and resize one image: (3, size, size) uint8.

        Raises:
            DataError: it cannot be decoded.
        """
        pixels = read_pixels(path)
        height, width = pixels.shape[:2]
        return crop_image(pixels, self.sample(numbers, width, height), size)


class EvalCrop:
    """Resize the short side and crop the centre; to 8/7 of the crop's is the standard evaluation.

    Through Pillow, whose pixels torchvision's tensor resize misses by one here and there.
    """

    def __init__(self, img_size: int, *, resize: int | None = None) -> None:
        short_side = eval_resize(img_size) if resize is None else resize
        self._crop = v2.Compose([v2.Resize(short_side), v2.CenterCrop(img_size)])

    def __call__(self, pixels: NDArray[np.uint8]) -> Image.Image:
        """An image of S x S pixels from one of any size, (H, W, 3)."""
        image: Image.Image = self._crop(Image.fromarray(_without_ends(pixels)))
        return image

    def load(self, path: Path, *_: object) -> Tensor:
        """Read and crop one image, to (3, S, S) uint8; nothing else decides what becomes of it.

        Raises:
            DataError: it cannot be decoded.
        """
        return torch.from_numpy(np.array(self(read_pixels(path)))).permute(2, 0, 1)


def _without_ends(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The middle of a strip: the centre crop drops its ends, which resized may fill the memory."""
    height, width = pixels.shape[:2]
    longest = _LONGEST_STRIP * min(height, width)
    top, left = max(0, height - longest) // 2, max(0, width - longest) // 2
    return pixels[top : top + longest, left : left + longest]


def eval_resize(img_size: int) -> int:
    """Short side before the centre crop: 256 for 224."""
    return round(img_size * 256 / 224)


class RandomAffineErase:
    """A small affine warp and one erased hole, each for half of a batch, on its device.

    The hole is that of Zhong et al. 2017 (arXiv:1708.04896); what either uncovers takes the mean
    colour.
    """

    NUMBERS: Final = 10
    """How many random numbers an image takes."""
    DEGREES: Final = 10
    SHIFT: Final = 0.05
    SCALE: Final = (0.9, 1.1)
    HOLE_AREA: Final = (0.02, 0.1)
    HOLE_RATIO: Final = 3.3

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._mean = torch.tensor(MEAN, device=device).round().view(1, 3, 1, 1)

    def __call__(self, images: Tensor, numbers: NDArray[np.float64]) -> Tensor:
        """Warp and erase (N, 3, S, S) uint8, with (N, 10) numbers in [0, 1)."""
        chosen = np.flatnonzero(numbers[:, 0] < 0.5)
        if len(chosen):
            index = self._to_device(chosen)
            warped = self._warp(images.index_select(0, index), numbers[chosen, 1:5])
            images = images.index_copy(0, index, warped)
        holes = self._holes(numbers[:, 5:], images.shape[2])
        return torch.where(holes, self._mean.to(torch.uint8), images)

    def _warp(self, images: Tensor, numbers: NDArray[np.float64]) -> Tensor:
        angle = np.deg2rad(self.DEGREES) * (2 * numbers[:, 0] - 1)
        low, high = self.SCALE
        scale = low + (high - low) * numbers[:, 1]
        # Where each pixel comes from, in coordinates that run from -1 to 1 over the image.
        turn = np.stack([np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)], 1)
        turn = turn.reshape(-1, 2, 2) / scale[:, None, None]
        shift = 2 * self.SHIFT * (2 * numbers[:, 2:4, None] - 1)
        where = self._to_device(np.concatenate([turn, -turn @ shift], 2).astype(np.float32))
        grid = F.affine_grid(where, list(images.shape), align_corners=False)
        warped = F.grid_sample(images - self._mean, grid, mode="bilinear", align_corners=False)
        return (warped + self._mean).round_().to(torch.uint8)

    def _holes(self, numbers: NDArray[np.float64], size: int) -> Tensor:
        """True inside the holes: (N, 1, size, size)."""
        low, high = self.HOLE_AREA
        area = size * size * (low + (high - low) * numbers[:, 1])
        ratio = np.exp(math.log(self.HOLE_RATIO) * (2 * numbers[:, 2] - 1))
        sides = np.stack([np.sqrt(area * ratio), np.sqrt(area / ratio)], 1).round()
        sides[numbers[:, 0] >= 0.5] = 0
        return rectangles(sides, numbers[:, 3:5], size, self._device)

    def _to_device(self, values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(values).to(self._device, non_blocking=True)


class RandomErasing:
    """One erased rectangle for a share of the images, on their device.

    Zhong et al. 2017 (arXiv:1708.04896), with torchvision's distribution: where ten tries do not
    fit, nothing is erased. It takes the mean colour.
    """

    TRIES: Final = 10
    NUMBERS: Final = 1 + 2 * TRIES + 2
    """How many random numbers an image takes."""
    AREA: Final = (0.02, 0.33)
    RATIO: Final = (0.3, 3.3)
    """Height to width."""

    def __init__(self, probability: float, device: torch.device) -> None:
        self._probability = probability
        self._device = device
        self._mean = torch.tensor(MEAN, device=device).round().to(torch.uint8).view(1, 3, 1, 1)

    def __call__(self, images: Tensor, numbers: NDArray[np.float64]) -> Tensor:
        """Erase from (N, 3, S, S) uint8, with (N, 23) numbers in [0, 1)."""
        size = images.shape[2]
        sides = self._sides(numbers[:, 1:-2].reshape(len(numbers), self.TRIES, 2), size)
        sides[numbers[:, 0] >= self._probability] = 0
        holes = rectangles(sides, numbers[:, -2:], size, self._device)
        return torch.where(holes, self._mean, images)

    def _sides(self, numbers: NDArray[np.float64], size: int) -> NDArray[np.float64]:
        """Height and width of the first try that fits, else 0: (N, 10, 2) to (N, 2)."""
        low, high = self.AREA
        area = size * size * (low + (high - low) * numbers[:, :, 0])
        low, high = np.log(self.RATIO)
        ratio = np.exp(low + (high - low) * numbers[:, :, 1])
        sides = np.stack([np.sqrt(area * ratio), np.sqrt(area / ratio)], 2).round()
        sides[(sides >= size).any(2)] = 0
        first = sides.any(2).argmax(1)
        chosen: NDArray[np.float64] = sides[np.arange(len(sides)), first]
        return chosen


def rectangles(
    sides: NDArray[np.float64], places: NDArray[np.float64], size: int, device: torch.device
) -> Tensor:
    """Masks that are True in one rectangle each: (N, 1, size, size) bool on the device.

    sides: (N, 2), height and width in whole pixels; places: (N, 2), how far down and to the
    right it lies, from 0, at the border, to 1, beyond the last place inside.
    """
    start = np.floor(places * (size - sides + 1))
    ends = np.stack([start, start + sides], 2).astype(np.float32)
    bounds = torch.from_numpy(ends).to(device, non_blocking=True).unsqueeze(3)
    pixel = torch.arange(size, device=device)
    inside = (pixel >= bounds[:, :, 0]) & (pixel < bounds[:, :, 1])
    return (inside[:, 0].unsqueeze(2) & inside[:, 1].unsqueeze(1)).unsqueeze(1)


class Normalize:
    """(N, 3, H, W) uint8 to float32, channels last, with ImageNet's mean 0 and deviation 1.

    On the device of the images: a quarter of the bytes travel, and the processor is spared.
    """

    def __init__(self, device: torch.device) -> None:
        # Made once: a copy to a GPU would wait for it at each batch.
        self._mean = torch.tensor(MEAN, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(STD, device=device).view(1, 3, 1, 1)
        self._maps: dict[torch.Size, tuple[Tensor, Tensor]] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise a batch."""
        mean, std = self._expanded(images.shape[2:])
        floats = torch.empty(images.shape, device=images.device, memory_format=torch.channels_last)
        # A CPU does it image by image, each while it is in the cache: 0.6 of the time.
        count = len(images) if images.device.type == "cpu" else 1
        for part, result in zip(images.chunk(count), floats.chunk(count), strict=True):
            torch.sub(part, mean, out=result).div_(std)
        return floats

    def _expanded(self, size: torch.Size) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each pixel of an image: loops over three numbers are slow."""
        if size not in self._maps:
            self._maps[size] = (
                self._mean.expand(1, 3, *size).contiguous(memory_format=torch.channels_last),
                self._std.expand(1, 3, *size).contiguous(memory_format=torch.channels_last),
            )
        return self._maps[size]
