"""TrivialAugment, image by image."""

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from imgnet_mini.data.augment.batch_random import BatchRandom


class TrivialAugment:
    """One random operation of random strength for each image, on its device.

    Müller and Hutter 2021 (arXiv:2103.10158): torchvision's TrivialAugmentWide with bilinear
    interpolation, as in its reference training. Uncovered pixels become black.
    """

    def __init__(self) -> None:
        self._transform = v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR)

    def __call__(
        self, images: Tensor, targets: Tensor, random: BatchRandom
    ) -> tuple[Tensor, Tensor]:
        """Change images (N, 3, S, S) uint8."""
        changed = torch.empty_like(images)
        for position, image in enumerate(images):
            with random.seeded(position):
                changed[position].copy_(self._transform(image))
        return changed, targets
