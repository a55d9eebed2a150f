"""Random erasing, alone and after a small affine warp (`--use-class-style-aug`)."""

import math
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from imgnet_mini.data.batches import BatchRandom, send_array
from imgnet_mini.data.transforms import MEAN


class RandomErasing:
    """One rectangle of ImageNet's mean color in some of the images of a batch.

    Zhong et al. 2017 (arXiv:1708.04896), with the distribution of torchvision's RandomErasing: if
    none of ten sampled rectangles fits, nothing is erased.

    probability: that an image is chosen.
    """

    ATTEMPTS: Final = 10
    NUMBERS: Final = 1 + 2 * ATTEMPTS + 2
    """Random numbers per image."""
    AREA: Final = (0.02, 0.33)
    ASPECT_RATIO: Final = (0.3, 3.3)
    """Height to width."""

    def __init__(self, probability: float, device: torch.device) -> None:
        self._probability = probability
        self._device = device
        self._mean = torch.tensor(MEAN, device=device).round().to(torch.uint8).view(1, 3, 1, 1)

    def __call__(
        self, images: Tensor, targets: Tensor, random: BatchRandom
    ) -> tuple[Tensor, Tensor]:
        """Erase from images (N, 3, S, S) uint8."""
        return self.erase(images, random.uniforms(self.NUMBERS)), targets

    def erase(self, images: Tensor, u: NDArray[np.float64]) -> Tensor:
        """Erase from images (N, 3, S, S) uint8, given numbers u (N, 23) in [0, 1)."""
        size = images.shape[2]
        sides = self._sides(u[:, 1:-2].reshape(len(u), self.ATTEMPTS, 2), size)
        sides[u[:, 0] >= self._probability] = 0
        erased = _rectangle_masks(sides, u[:, -2:], size, self._device)
        return torch.where(erased, self._mean, images)

    def _sides(self, u: NDArray[np.float64], size: int) -> NDArray[np.float64]:
        """Return height and width of the first attempt that fits, or 0: (N, 10, 2) to (N, 2)."""
        low, high = self.AREA
        area = size * size * (low + (high - low) * u[:, :, 0])
        low, high = np.log(self.ASPECT_RATIO)
        ratio = np.exp(low + (high - low) * u[:, :, 1])
        sides = np.stack([np.sqrt(area * ratio), np.sqrt(area / ratio)], 2).round()
        sides[(sides >= size).any(2)] = 0
        first = sides.any(2).argmax(1)
        chosen: NDArray[np.float64] = sides[np.arange(len(sides)), first]
        return chosen


class RandomAffineErase:
    """A small affine warp and one erased rectangle, each for half of the images of a batch.

    Erasing follows Zhong et al. 2017 (arXiv:1708.04896). Erased and uncovered pixels take
    ImageNet's mean color.
    """

    NUMBERS: Final = 10
    """Random numbers per image."""
    DEGREES: Final = 10
    TRANSLATE: Final = 0.05
    SCALE: Final = (0.9, 1.1)
    ERASED_AREA: Final = (0.02, 0.1)
    MAX_ASPECT_RATIO: Final = 3.3

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._mean = torch.tensor(MEAN, device=device).round().view(1, 3, 1, 1)

    def __call__(
        self, images: Tensor, targets: Tensor, random: BatchRandom
    ) -> tuple[Tensor, Tensor]:
        """Warp and erase images (N, 3, S, S) uint8."""
        return self.transform(images, random.uniforms(self.NUMBERS)), targets

    def transform(self, images: Tensor, u: NDArray[np.float64]) -> Tensor:
        """Warp and erase images (N, 3, S, S) uint8, given numbers u (N, 10) in [0, 1)."""
        selected = np.flatnonzero(u[:, 0] < 0.5)
        if len(selected):
            index = send_array(selected, self._device)
            warped = self._warp(images.index_select(0, index), u[selected, 1:5])
            images = images.index_copy(0, index, warped)
        erased = self._erased_masks(u[:, 5:], images.shape[2])
        return torch.where(erased, self._mean.to(torch.uint8), images)

    def _warp(self, images: Tensor, u: NDArray[np.float64]) -> Tensor:
        angle = np.deg2rad(self.DEGREES) * (2 * u[:, 0] - 1)
        low, high = self.SCALE
        scale = low + (high - low) * u[:, 1]
        # From output to input positions, in coordinates from -1 to 1 over the image.
        rotation = np.stack([np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)], 1)
        rotation = rotation.reshape(-1, 2, 2) / scale[:, None, None]
        shift = 2 * self.TRANSLATE * (2 * u[:, 2:4, None] - 1)
        theta = np.concatenate([rotation, -rotation @ shift], 2).astype(np.float32)
        grid = _affine_grid(send_array(theta, self._device), images.shape[2])
        warped = F.grid_sample(images - self._mean, grid, mode="bilinear", align_corners=False)
        return (warped + self._mean).round_().to(torch.uint8)

    def _erased_masks(self, u: NDArray[np.float64], size: int) -> Tensor:
        """Return masks (N, 1, size, size) bool of the erased pixels."""
        low, high = self.ERASED_AREA
        area = size * size * (low + (high - low) * u[:, 1])
        ratio = np.exp(math.log(self.MAX_ASPECT_RATIO) * (2 * u[:, 2] - 1))
        sides = np.stack([np.sqrt(area * ratio), np.sqrt(area / ratio)], 1).round()
        sides[u[:, 0] >= 0.5] = 0
        return _rectangle_masks(sides, u[:, 3:5], size, self._device)


def _affine_grid(theta: Tensor, size: int) -> Tensor:
    """Return `F.affine_grid` without its matrix product, which a GPU may compute in TF32.

    theta: (N, 2, 3); gives (N, size, size, 2), positions from -1 to 1 over the image.
    """
    position = (2 * torch.arange(size, device=theta.device) + 1) / size - 1
    across, down, shift = theta[:, None, None].unbind(4)
    rows = torch.addcmul(shift, position.view(1, size, 1, 1), down)
    return torch.addcmul(rows, position.view(1, 1, size, 1), across)


def _rectangle_masks(
    sides: NDArray[np.float64], offsets: NDArray[np.float64], size: int, device: torch.device
) -> Tensor:
    """Return masks (N, 1, size, size) bool, True inside one rectangle each.

    sides: (N, 2), height and width in whole pixels; offsets: (N, 2) in [0, 1), vertical and
    horizontal position among all positions at which the rectangle lies inside the image.
    """
    start = np.floor(offsets * (size - sides + 1))
    ends = np.stack([start, start + sides], 2).astype(np.float32)
    bounds = send_array(ends, device).unsqueeze(3)
    pixel = torch.arange(size, device=device)
    inside = (pixel >= bounds[:, :, 0]) & (pixel < bounds[:, :, 1])
    return (inside[:, 0].unsqueeze(2) & inside[:, 1].unsqueeze(1)).unsqueeze(1)
