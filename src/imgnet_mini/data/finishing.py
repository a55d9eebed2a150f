"""What becomes of a training batch on its device."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgnet_mini.config.settings import DataConfig
from imgnet_mini.data.batches import Batch
from imgnet_mini.data.crops import CROP_NUMBERS, crop_batch
from imgnet_mini.data.mixing import MixupCutmix
from imgnet_mini.data.rng import uniforms
from imgnet_mini.data.sampler import BatchKey
from imgnet_mini.data.transforms import Normalize, RandomAffineErase, RandomErasing
from imgnet_mini.data.trivial_augment import TrivialAugment


class BatchAugment:
    """Crop, augment, normalise and mix; by the same numbers, whatever the device."""

    def __init__(self, data: DataConfig, *, classes: int, seed: int, device: torch.device) -> None:
        self._seed = seed
        self._trivial = TrivialAugment(seed) if data.trivial_augment else None
        self._style = RandomAffineErase(device) if data.use_class_style_aug else None
        erasing = data.random_erasing
        self._erasing = RandomErasing(erasing, device) if erasing else None
        self._normalise = Normalize(device)
        self._mixing = MixupCutmix(data, classes, seed) if data.mixup or data.cutmix else None

    def __call__(self, batch: Batch, key: BatchKey) -> tuple[Tensor, Tensor]:
        """Images (N, 3, S, S) float32; targets (N,) int64, or (N, C) float32 where mixed."""
        images = batch.images
        if batch.crops is not None:
            images = crop_batch(images, batch.crops, key.size)
        if self._trivial is not None:
            images = self._trivial(images, key)
        if self._style is not None:
            images = self._style(
                images, self._numbers(key, CROP_NUMBERS, RandomAffineErase.NUMBERS)
            )
        if self._erasing is not None:
            first = CROP_NUMBERS + RandomAffineErase.NUMBERS
            images = self._erasing(images, self._numbers(key, first, RandomErasing.NUMBERS))
        images = self._normalise(images)
        if self._mixing is None:
            return images, batch.targets
        return self._mixing(images, batch.targets, key)

    def _numbers(self, key: BatchKey, first: int, count: int) -> NDArray[np.float64]:
        """Those of each image from the first on: each ingredient has its own, on or off."""
        return uniforms(self._seed, key.epoch, key.indices, first + count)[:, first:]
