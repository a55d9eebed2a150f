"""The registry of batch augmentations, and the pipeline of those that a configuration enables."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NamedTuple

import torch
from torch import Tensor

from imgnet_mini.config.data_settings import DataConfig
from imgnet_mini.data.augment.erasing import RandomAffineErase, RandomErasing
from imgnet_mini.data.augment.mixing import MixupCutmix
from imgnet_mini.data.augment.trivial import TrivialAugment
from imgnet_mini.data.batches import Batch, BatchRandom
from imgnet_mini.data.crops import crop_batch
from imgnet_mini.data.rng import RandomStream
from imgnet_mini.data.transforms import Normalize

Transform = Callable[[Tensor, Tensor, BatchRandom], tuple[Tensor, Tensor]]
"""From images and targets of a batch to new ones; it does not change its arguments in place."""

_STREAMS: Final = {
    "trivial_augment": RandomStream(key=(2,)),
    "random_affine_erase": RandomStream(skip=23),
    "random_erasing": RandomStream(skip=33),
    "mixup_cutmix": RandomStream(key=(1,)),
}
"""Streams from before names were hashed; kept so that older runs resume bit-identically."""


class Stage(Enum):
    """Place of an augmentation in the pipeline."""

    BYTES = auto()
    """Images (N, 3, S, S) uint8, targets (N,) int64: after the crop, before normalization."""
    FLOATS = auto()
    """Images (N, 3, S, S) float32, targets (N,) int64 or (N, C) float32: after normalization."""


class Context(NamedTuple):
    """The facts that a transform is built from."""

    data: DataConfig
    classes: int
    device: torch.device


@dataclass(frozen=True)
class Augmentation:
    """One augmentation of whole batches.

    name: of its random stream; renaming it changes its draws.
    settings: fields of `DataConfig`, switches or numbers; any but False and 0 enables it.
    min_images: the fewest images per micro-batch that it works on.
    """

    name: str
    settings: tuple[str, ...]
    stage: Stage
    build: Callable[[Context], Transform]
    min_images: int = 1

    @property
    def stream(self) -> RandomStream:
        """Its random numbers, which no other augmentation reads."""
        return _STREAMS.get(self.name) or RandomStream.named(self.name)

    def flags(self, data: DataConfig) -> list[str]:
        """Return its enabled settings as flags, such as `--mixup 0.2`; empty if it is off."""
        return [
            f"--{name.replace('_', '-')}" + ("" if value is True else f" {value:g}")
            for name in self.settings
            if (value := getattr(data, name))
        ]


AUGMENTATIONS: Final = (
    Augmentation("trivial_augment", ("trivial_augment",), Stage.BYTES, lambda _: TrivialAugment()),
    Augmentation(
        "random_affine_erase",
        ("use_class_style_aug",),
        Stage.BYTES,
        lambda context: RandomAffineErase(context.device),
    ),
    Augmentation(
        "random_erasing",
        ("random_erasing",),
        Stage.BYTES,
        lambda context: RandomErasing(context.data.random_erasing, context.device),
    ),
    Augmentation(
        "mixup_cutmix",
        ("mixup", "cutmix"),
        Stage.FLOATS,
        lambda context: MixupCutmix(
            context.data.mixup, context.data.cutmix, classes=context.classes
        ),
        min_images=2,
    ),
)
"""In the order in which those of a stage are applied."""


def enabled_augmentations(data: DataConfig) -> list[Augmentation]:
    """Return the augmentations that a configuration enables."""
    return [augmentation for augmentation in AUGMENTATIONS if augmentation.flags(data)]


class BatchAugment:
    """Crop, augment and normalize training batches, with the same draws on any device."""

    def __init__(self, data: DataConfig, *, classes: int, seed: int, device: torch.device) -> None:
        self._seed = seed
        self._normalize = Normalize(device)
        context = Context(data, classes, device)
        self._transforms = dict[Stage, list[tuple[Transform, RandomStream]]]()
        for stage in Stage:
            chosen = [entry for entry in enabled_augmentations(data) if entry.stage is stage]
            self._transforms[stage] = [(entry.build(context), entry.stream) for entry in chosen]

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return images (N, 3, S, S) float32 and targets (N,) int64, or (N, C) float32 if mixed."""
        images, targets = batch.images, batch.targets
        if batch.crops is not None:
            images = crop_batch(images, batch.crops, batch.key.size)
        for stage, transforms in self._transforms.items():
            if stage is Stage.FLOATS:
                images = self._normalize(images)
            for transform, stream in transforms:
                random = BatchRandom(stream, self._seed, batch.key)
                images, targets = transform(images, targets, random)
        return images, targets
