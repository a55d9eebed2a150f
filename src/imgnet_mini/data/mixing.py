"""Training images and labels that are mixed in pairs, on their device."""

from typing import Final

import torch
from torch import Tensor
from torchvision.transforms import v2

from imgnet_mini.config.settings import DataConfig
from imgnet_mini.data.rng import seeded
from imgnet_mini.data.sampler import BatchKey

_SEED: Final = 1
"""Tells these draws from others of the same seed, epoch and image."""


class MixupCutmix:
    """MixUp (Zhang et al. 2017, arXiv:1710.09412), CutMix (Yun et al. 2019, arXiv:1905.04899).

    With both, each batch gets one of the two at random. An image is mixed with the one before it
    in the same batch, all of a batch alike; the draws follow from seed, epoch and first image.
    Waits for no device: numbers are drawn on the CPU, and enter the kernels as plain ones.
    """

    def __init__(self, data: DataConfig, classes: int, seed: int) -> None:
        self._seed = seed
        kinds: list[v2.Transform] = []
        if data.mixup:
            kinds.append(v2.MixUp(alpha=data.mixup, num_classes=classes))
        if data.cutmix:
            kinds.append(v2.CutMix(alpha=data.cutmix, num_classes=classes))
        self._mix = kinds[0] if len(kinds) == 1 else v2.RandomChoice(kinds)

    def __call__(self, images: Tensor, targets: Tensor, key: BatchKey) -> tuple[Tensor, Tensor]:
        """Mix (N, 3, S, S) floats and (N,) classes to the same and (N, C) shares of classes."""
        with seeded(self._seed, key.epoch, int(key.indices[0]), _SEED):
            mixed, shares = self._mix(images, targets)
        return mixed.contiguous(memory_format=torch.channels_last), shares
