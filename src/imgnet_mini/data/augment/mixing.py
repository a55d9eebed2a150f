"""MixUp and CutMix of torchvision."""

import torch
from torch import Tensor
from torchvision.transforms import v2

from imgnet_mini.data.batches import BatchRandom


class MixupCutmix:
    """MixUp (Zhang et al. 2017, arXiv:1710.09412) and CutMix (Yun et al. 2019, arXiv:1905.04899).

    With both, one of the two is chosen at random for each batch. An image is mixed with the one
    before it in the batch, all with the same weight; the first image of the batch decides the
    draws. They are made on the CPU and reach the device as kernel arguments, so nothing blocks.

    mixup, cutmix: alpha of the Beta distribution; 0 is off.
    """

    def __init__(self, mixup: float, cutmix: float, *, classes: int) -> None:
        transforms: list[v2.Transform] = []
        if mixup:
            transforms.append(v2.MixUp(alpha=mixup, num_classes=classes))
        if cutmix:
            transforms.append(v2.CutMix(alpha=cutmix, num_classes=classes))
        self._mix = transforms[0] if len(transforms) == 1 else v2.RandomChoice(transforms)

    def __call__(
        self, images: Tensor, targets: Tensor, random: BatchRandom
    ) -> tuple[Tensor, Tensor]:
        """Mix images (N, 3, S, S) float32; targets (N,) int64 become (N, C) float32."""
        with random.seeded(0):
            images, targets = self._mix(images, targets)
        return images.contiguous(memory_format=torch.channels_last), targets
