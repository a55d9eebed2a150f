"""TrivialAugment on whole batches, image by image."""

from typing import Final

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from imgnet_mini.data.rng import seeded
from imgnet_mini.data.sampler import BatchKey

_SEED: Final = 2
"""Tells these draws from others of the same seed, epoch and image."""


class TrivialAugment:
    """One random change of a random strength for each image, on its device.

    Müller and Hutter 2021 (arXiv:2103.10158), the wide space of torchvision, with bilinear
    interpolation as in its reference training; what a change uncovers is black. Each image's draws
    follow from seed, epoch and index.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._change = v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR)

    def __call__(self, images: Tensor, key: BatchKey) -> Tensor:
        """Change (N, 3, S, S) uint8."""
        changed = torch.empty_like(images)
        for image, result, index in zip(images, changed, key.indices.tolist(), strict=True):
            with seeded(self._seed, key.epoch, index, _SEED):
                result.copy_(self._change(image))
        return changed
