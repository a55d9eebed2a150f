"""Batches ready for the network; (seed, epoch, index) alone decide their order and pixels."""

from collections.abc import Callable, Generator, Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgnet_mini.config.settings import DataConfig
from imgnet_mini.data.batches import Batch, BatchSource, DevicePrefetcher
from imgnet_mini.data.finishing import BatchAugment
from imgnet_mini.data.folder import ImageFolder
from imgnet_mini.data.folder_source import FolderSource, Load
from imgnet_mini.data.open import ImageSplits
from imgnet_mini.data.pack.source import PackSource
from imgnet_mini.data.progressive_resize import ProgressiveResize, build_progressive_resize
from imgnet_mini.data.sampler import BatchKey, RankShard, ResumableBatchSampler
from imgnet_mini.data.transforms import Normalize, TrainCrop
from imgnet_mini.data.tta import TestTimeAugmentation
from imgnet_mini.distributed.context import SINGLE_PROCESS, DistributedContext
from imgnet_mini.errors import ConfigError

Finish = Callable[[Batch, BatchKey], tuple[Tensor, Tensor]]
"""From a batch on its device to what the network takes, (N, 3, S, S) float32, and targets."""


class BatchLoader(Protocol):
    """What training takes: a `Loader`, or what stands in for one."""

    images_per_step: int
    """On all ranks together."""

    def __len__(self) -> int:
        """Steps of a whole epoch."""

    def epoch(self, epoch: int, *, start: int = 0) -> Generator[tuple[Tensor, Tensor]]:
        """Images (N, 3, H, W) float32 and targets (N,) or (N, C), from step `start` on."""


class Loader:
    """Batches of a split: images (N, 3, S, S) float32, normalised, and targets (N,) int64.

    Where images are mixed, targets are shares of classes, (N, C) float32.

    images: how many there are; images_per_step: how many make a step. Both count all ranks.
    views: what an evaluation is to take of each image.
    """

    def __init__(
        self,
        order: ResumableBatchSampler,
        source: BatchSource,
        finish: Finish,
        *,
        device: torch.device,
        views: TestTimeAugmentation = TestTimeAugmentation.CENTER_CROP,
    ) -> None:
        self._order = order
        self._source = source
        self._finish = finish
        self._move = DevicePrefetcher(device)
        self.views = views
        self.images = order.images
        self.images_per_step = order.batch_size

    def __len__(self) -> int:
        """Steps of a whole epoch."""
        return len(self._order)

    def positions(self) -> NDArray[np.int64]:
        """Where in the split the images of an epoch stand that this rank gets, in their order."""
        return self._order.positions()

    def close(self) -> None:
        """End what works in the background."""
        self._source.close()

    def epoch(self, epoch: int, *, start: int = 0) -> Generator[tuple[Tensor, Tensor]]:
        """The batches of an epoch from step `start` on.

        Raises:
            DataError: an image cannot be decoded; names it.
        """
        self._order.epoch, self._order.start = epoch, start
        for batch in self._source.batches():
            moved = self._move(batch)
            key = BatchKey(epoch, batch.indices.numpy(), self._order.sizes.of(epoch))
            yield self._finish(moved, key)

    def endless(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Epoch after epoch."""
        epoch = 0
        while True:
            yield from self.epoch(epoch)
            epoch += 1


def build_train_loader(
    data: DataConfig,
    images: ImageSplits,
    *,
    seed: int,
    device: torch.device,
    epochs: int | None = None,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> Loader:
    """Shuffled, augmented batches; images that do not fill the last batch sit out the epoch.

    epochs: those of the run, in which images may grow; None: they have their full size throughout.

    Raises:
        ConfigError: the batch size is above the number of images, or cannot be shared out; images
            grow to another size than their last, or have none to be mixed with; or the pack was
            asked to be where it cannot be.
    """
    _check_batch_divides(data, distributed)
    _check_mixing_partners(data, distributed)
    count = len(images.train)
    if data.batch_size > count:
        raise ConfigError(
            f"--batch-size {data.batch_size} is more than the {count} images of "
            f"{images.train.root}; use --batch-size {count} or less"
        )
    share = RankShard(distributed.rank, distributed.world_size, data.grad_accum_steps)
    sizes = build_progressive_resize(data, epochs)
    order = ResumableBatchSampler(count, data.batch_size, seed=seed, sizes=sizes, share=share)
    crop = TrainCrop(data)
    source: BatchSource
    if images.pack is None:
        if data.pack_on_device == "on":
            raise ConfigError(
                "--pack-on-device on: the images are read from their files; pack them first with "
                "imgnet-mini prepare"
            )
        source = _from_files(
            order, images.train, crop.load, data, device, neighbours=distributed.local_world_size
        )
    else:
        source = PackSource(order, images.pack.train, crop, data, device=device)
    classes = len(images.train.classes)
    finish = BatchAugment(data, classes=classes, seed=seed, device=device)
    return Loader(order, source, finish, device=device)


def build_eval_loader(
    data: DataConfig,
    images: ImageSplits,
    *,
    device: torch.device,
    views: TestTimeAugmentation = TestTimeAugmentation.CENTER_CROP,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> Loader:
    """Every image once, in the order of the split, on one rank or the other.

    views: what is to be taken of them; the pack holds centre crops alone.
    """
    share = RankShard(distributed.rank, distributed.world_size)
    sizes = ProgressiveResize.always(views.side(data.eval_size))
    order = ResumableBatchSampler(
        len(images.val), data.batch_size, seed=None, sizes=sizes, share=share
    )
    packed = (
        images.packed_val(data.eval_size) if views is not TestTimeAugmentation.TEN_CROP else None
    )
    source: BatchSource
    if packed is None:
        load = views.crop(data.eval_size).load
        source = _from_files(
            order, images.val, load, data, device, neighbours=distributed.local_world_size
        )
    else:
        source = PackSource(order, packed, None, data, device=device)
    normalize = Normalize(device)

    def finish(batch: Batch, _: BatchKey) -> tuple[Tensor, Tensor]:
        return normalize(batch.images), batch.targets

    return Loader(order, source, finish, device=device, views=views)


def _from_files(
    order: ResumableBatchSampler,
    split: ImageFolder,
    load: Load,
    data: DataConfig,
    device: torch.device,
    *,
    neighbours: int,
) -> FolderSource:
    workers = data.workers
    return FolderSource(order, split, load, workers=workers, device=device, neighbours=neighbours)


def _check_batch_divides(data: DataConfig, distributed: DistributedContext) -> None:
    blocks = distributed.world_size * data.grad_accum_steps
    rest = data.batch_size % blocks
    if rest:
        among = [f"{distributed.world_size} processes"] if distributed.world_size > 1 else []
        among += (
            [f"--grad-accum-steps {data.grad_accum_steps}"] if data.grad_accum_steps > 1 else []
        )
        lower = data.batch_size - rest
        choice = f"{lower} or {lower + blocks}" if lower else f"{blocks}"
        raise ConfigError(
            f"--batch-size {data.batch_size}, the images of one step on all processes together, "
            f"does not divide by {' times '.join(among)}: use {choice}"
        )


def _check_mixing_partners(data: DataConfig, distributed: DistributedContext) -> None:
    """Images are mixed among those that go through the network at once: one has no partner."""
    blocks = distributed.world_size * data.grad_accum_steps
    mixes = [f"--{name} {getattr(data, name):g}" for name in ("mixup", "cutmix")]
    mixes = [
        hash_seed
        for hash_seed, alpha in zip(mixes, (data.mixup, data.cutmix), strict=True)
        if alpha
    ]
    if mixes and data.batch_size == blocks:
        shared = f" for {distributed.world_size} processes" if distributed.world_size > 1 else ""
        shared += (
            f" in --grad-accum-steps {data.grad_accum_steps} parts"
            if data.grad_accum_steps > 1
            else ""
        )
        raise ConfigError(
            f"{' '.join(mixes)} mixes images that go through the network at once, and --batch-size "
            f"{data.batch_size}{shared} lets them through one by one: use --batch-size "
            f"{2 * blocks} or more, or leave {'it' if len(mixes) == 1 else 'them'} out"
        )
