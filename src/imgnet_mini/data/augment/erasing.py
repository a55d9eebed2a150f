"""Random erasing."""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgnet_mini.data.augment.batch_random import BatchRandom
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
        erased = rectangle_masks(sides, u[:, -2:], size, self._device)
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


def rectangle_masks(
    sides: NDArray[np.float64], offsets: NDArray[np.float64], size: int, device: torch.device
) -> Tensor:
    """Return masks (N, 1, size, size) bool, True inside one rectangle each.

    sides: (N, 2), height and width in whole pixels; offsets: (N, 2) in [0, 1), vertical and
    horizontal position among all positions at which the rectangle lies inside the image.
    """
    start = np.floor(offsets * (size - sides + 1))
    ends = np.stack([start, start + sides], 2).astype(np.float32)
    bounds = torch.from_numpy(ends).to(device, non_blocking=True).unsqueeze(3)
    pixel = torch.arange(size, device=device)
    inside = (pixel >= bounds[:, :, 0]) & (pixel < bounds[:, :, 1])
    return (inside[:, 0].unsqueeze(2) & inside[:, 1].unsqueeze(1)).unsqueeze(1)
