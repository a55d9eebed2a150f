"""Batches ready for the network; their order and pixels depend on (seed, epoch, index) alone."""

from collections.abc import Callable, Generator, Iterator
from itertools import count
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgnet_mini.config.data_settings import DataConfig
from imgnet_mini.config.run_settings import RunSection
from imgnet_mini.data.augment.registry import BatchAugment, enabled_augmentations
from imgnet_mini.data.batches import Batch, BatchSource, DevicePrefetcher
from imgnet_mini.data.folder_source import FolderSource
from imgnet_mini.data.pack.source import PackSource
from imgnet_mini.data.sampler import (
    ProgressiveResize,
    RankShard,
    ResumableBatchSampler,
    build_progressive_resize,
)
from imgnet_mini.data.splits import ImageSplits, prepare_command
from imgnet_mini.data.transforms import Normalize, TestTimeAugmentation, TrainCrop
from imgnet_mini.distributed.context import SINGLE_PROCESS, DistributedContext
from imgnet_mini.errors import ConfigError

BatchTransform = Callable[[Batch], tuple[Tensor, Tensor]]
"""From a batch on the device to normalized images (N, 3, S, S) float32, and targets."""


class BatchLoader(Protocol):
    """The batches that a training takes, such as those of a `Loader`."""

    images_per_step: int
    """On all ranks together."""

    def __len__(self) -> int:
        """Training steps per epoch."""

    def epoch(self, epoch: int, *, start: int = 0) -> Generator[tuple[Tensor, Tensor]]:
        """Yield images (N, 3, H, W) float32 and targets (N,) or (N, C), from step `start` on."""

    @property
    def can_free_memory(self) -> bool:
        """Return whether `free_memory` would free device memory."""
        return False

    def free_memory(self) -> bool:
        """Free device memory that the batches can do without; return whether there was any."""
        return False


class Loader(BatchLoader):
    """Batches of a split on the device: normalized images (N, 3, S, S) float32, and targets.

    Targets are classes, (N,) int64; with mixup or cutmix, class probabilities, (N, C) float32.

    images: size of the split; images_per_step: of a training step. Both count all ranks.
    tta: the views that an evaluation takes of each image.
    """

    def __init__(
        self,
        sampler: ResumableBatchSampler,
        source: BatchSource,
        transform: BatchTransform,
        *,
        device: torch.device,
        tta: TestTimeAugmentation = TestTimeAugmentation.CENTER_CROP,
    ) -> None:
        self._sampler = sampler
        self._source = source
        self._transform = transform
        self._prefetch = DevicePrefetcher(device)
        self.tta = tta
        self.images = sampler.images
        self.images_per_step = sampler.batch_size

    def __len__(self) -> int:
        """Training steps per epoch."""
        return len(self._sampler)

    def positions(self) -> NDArray[np.int64]:
        """Return the indices in the split of the images that this rank gets, in order."""
        return self._sampler.positions()

    @property
    def can_free_memory(self) -> bool:
        """Return whether `free_memory` would free device memory."""
        return self._source.can_free_memory

    def free_memory(self) -> bool:
        """Free device memory that the batches can do without; return whether there was any."""
        return self._source.free_memory()

    def resize_progressively(self, sizes: ProgressiveResize) -> None:
        """Take the image sizes of later epochs from another schedule."""
        self._sampler.sizes = sizes

    def close(self) -> None:
        """End the worker processes or threads."""
        self._source.close()

    def epoch(self, epoch: int, *, start: int = 0) -> Generator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch from step `start` on.

        Raises:
            DataError: an image cannot be decoded; names it.
        """
        self._sampler.epoch, self._sampler.start = epoch, start
        for batch in self._source.batches():
            yield self._transform(self._prefetch(batch))

    def endless(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of epoch after epoch."""
        for epoch in count():
            yield from self.epoch(epoch)


def build_train_loader(
    data: DataConfig,
    images: ImageSplits,
    *,
    seed: int,
    device: torch.device,
    epochs: int | None = None,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> Loader:
    """Build a loader of shuffled, augmented batches; an incomplete last batch is dropped.

    epochs: of the run, in which images may grow; None: full size throughout.

    Raises:
        ConfigError: the batch size exceeds the number of images, does not divide by the number of
            micro-batches, or leaves too few images in one for an augmentation; `progressive` does
            not end at the image size; or the pack cannot be kept on the device.
    """
    shard = RankShard(distributed.rank, distributed.world_size, data.grad_accum_steps)
    _check_batch_divides(data, shard)
    _check_augmentations(data, shard)
    total = len(images.train)
    if data.batch_size > total:
        raise ConfigError(
            f"--batch-size {data.batch_size} is more than the {total} images of "
            f"{images.train.root}; use --batch-size {total} or less"
        )
    sizes = build_progressive_resize(data, epochs)
    sampler = ResumableBatchSampler(total, data.batch_size, seed=seed, sizes=sizes, shard=shard)
    crop = TrainCrop(data)
    source: BatchSource
    if images.pack is not None:
        source = PackSource(sampler, images.pack.train, crop, data, device=device)
    elif data.pack_on_device == "on":
        run = RunSection(data_root=images.train.data_root)
        raise ConfigError(
            "--pack-on-device on: the images are read from their files; pack them first with\n"
            f"  {prepare_command(run, data)}"
        )
    else:
        local = distributed.local_world_size
        source = FolderSource(
            sampler, images.train, crop.load, data, device=device, local_world_size=local
        )
    augment = BatchAugment(data, classes=len(images.train.classes), seed=seed, device=device)
    return Loader(sampler, source, augment, device=device)


def build_eval_loader(
    data: DataConfig,
    images: ImageSplits,
    *,
    device: torch.device,
    tta: TestTimeAugmentation = TestTimeAugmentation.CENTER_CROP,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> Loader:
    """Build a loader of every validation image once, in order, each on one rank.

    Its batches are the micro-batches of training, which fit in memory.

    tta: the views to take of them; a pack only holds center crops.
    """
    sizes = ProgressiveResize.constant(tta.source_size(data.eval_size))
    shard = RankShard(distributed.rank, distributed.world_size)
    batch_size = max(1, data.batch_size // data.grad_accum_steps)
    sampler = ResumableBatchSampler(
        len(images.val), batch_size, seed=None, sizes=sizes, shard=shard
    )
    packed = images.packed_val(data.eval_size)
    source: BatchSource
    if packed is not None and tta is not TestTimeAugmentation.TEN_CROP:
        source = PackSource(sampler, packed, None, data, device=device)
    else:
        load, local = (
            tta.source_crop(data.eval_size, data.decoding).load,
            distributed.local_world_size,
        )
        source = FolderSource(
            sampler, images.val, load, data, device=device, local_world_size=local
        )
    normalize = Normalize(device)
    return Loader(
        sampler,
        source,
        lambda batch: (normalize(batch.images), batch.targets),
        device=device,
        tta=tta,
    )


def _check_batch_divides(data: DataConfig, shard: RankShard) -> None:
    divisor = shard.micro_batches
    rest = data.batch_size % divisor
    if rest:
        factors = [f"{shard.world_size} processes"] if shard.world_size > 1 else []
        if data.grad_accum_steps > 1:
            factors.append(f"--grad-accum-steps {data.grad_accum_steps}")
        lower = data.batch_size - rest
        choice = f"{lower} or {lower + divisor}" if lower else f"{divisor}"
        raise ConfigError(
            f"--batch-size {data.batch_size}, the images of one step on all processes together, "
            f"does not divide by {' times '.join(factors)}: use {choice}"
        )


def _check_augmentations(data: DataConfig, shard: RankShard) -> None:
    """Check that each micro-batch has enough images, such as a second one to mix the first with."""
    images = data.batch_size // shard.micro_batches
    for augmentation in enabled_augmentations(data):
        if images < augmentation.min_images:
            shared = f" on {shard.world_size} processes" if shard.world_size > 1 else ""
            if data.grad_accum_steps > 1:
                shared += f" with --grad-accum-steps {data.grad_accum_steps}"
            flags = augmentation.flags(data)
            raise ConfigError(
                f"{' '.join(flags)} needs {augmentation.min_images} images or more in a "
                f"micro-batch, and --batch-size {data.batch_size}{shared} leaves {images}: use "
                f"--batch-size {augmentation.min_images * shard.micro_batches} or more, or leave "
                f"{'it' if len(flags) == 1 else 'them'} out"
            )
