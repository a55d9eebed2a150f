"""What becomes of a training batch on its device."""

import torch
from torch import Tensor

from imgnet_mini.data.batches import Batch
from imgnet_mini.data.crops import CROP_NUMBERS, crop_batch
from imgnet_mini.data.draws import uniforms
from imgnet_mini.data.mixing import Mixing
from imgnet_mini.data.order import Key
from imgnet_mini.data.transforms import ClassStyle, Normalise
from imgnet_mini.sections import DataConfig


class FinishTraining:
    """Crop, augment, normalise and mix; by the same numbers, whatever the device."""

    def __init__(self, data: DataConfig, *, classes: int, seed: int, device: torch.device) -> None:
        self._seed = seed
        self._style = ClassStyle(device) if data.use_class_style_aug else None
        self._normalise = Normalise(device)
        self._mixing = Mixing(data, classes, seed) if data.mixup or data.cutmix else None

    def __call__(self, batch: Batch, key: Key) -> tuple[Tensor, Tensor]:
        """Images (N, 3, S, S) float32; targets (N,) int64, or (N, C) float32 where mixed."""
        images = batch.images
        if batch.crops is not None:
            images = crop_batch(images, batch.crops, key.size)
        if self._style is not None:
            count = CROP_NUMBERS + ClassStyle.NUMBERS
            numbers = uniforms(self._seed, key.epoch, key.indices, count)[:, CROP_NUMBERS:]
            images = self._style(images, numbers)
        images = self._normalise(images)
        if self._mixing is None:
            return images, batch.targets
        return self._mixing(images, batch.targets, key)
