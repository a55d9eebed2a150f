"""Batches ready for the network; (seed, epoch, index) alone decide their order and pixels."""

from collections.abc import Callable, Generator, Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgnet_mini.data.batches import Batch, Mover, Source
from imgnet_mini.data.choice import Images
from imgnet_mini.data.crops import CROP_NUMBERS, crop_batch
from imgnet_mini.data.draws import uniforms
from imgnet_mini.data.folder import ImageFolder
from imgnet_mini.data.folder_source import FolderSource, Load
from imgnet_mini.data.order import Key, Order, Share
from imgnet_mini.data.pack.source import PackSource
from imgnet_mini.data.transforms import ClassStyle, EvalCrop, Normalise, TrainCrop
from imgnet_mini.distributed.ranks import ALONE, Ranks
from imgnet_mini.errors import ConfigError
from imgnet_mini.sections import DataConfig

Finish = Callable[[Batch, Key], Tensor]
"""From a batch on its device to what the network takes: (N, 3, S, S) float32."""


class Batches(Protocol):
    """What training takes: a `Loader`, or what stands in for one."""

    images_per_step: int
    """On all ranks together."""

    def __len__(self) -> int:
        """Steps of a whole epoch."""

    def epoch(self, epoch: int, *, start: int = 0) -> Generator[tuple[Tensor, Tensor]]:
        """Images (N, 3, H, W) float32 and targets (N,), from step `start` on."""


class Loader:
    """Batches of a split: images (N, 3, S, S) float32, normalised, and targets (N,) int64.

    images: how many there are; images_per_step: how many make a step. Both count all ranks.
    """

    def __init__(
        self, order: Order, source: Source, finish: Finish, *, device: torch.device
    ) -> None:
        self._order = order
        self._source = source
        self._finish = finish
        self._move = Mover(device)
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
            yield self._finish(moved, Key(epoch, batch.indices.numpy())), moved.targets

    def endless(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Epoch after epoch."""
        epoch = 0
        while True:
            yield from self.epoch(epoch)
            epoch += 1


def build_train_loader(
    data: DataConfig,
    images: Images,
    *,
    seed: int,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> Loader:
    """Shuffled, augmented batches; images that do not fill the last batch sit out the epoch.

    Raises:
        ConfigError: the batch size is above the number of images, or cannot be shared out; or the
            pack was asked to be where it cannot be.
    """
    _refuse_uneven_batches(data, ranks)
    count = len(images.train)
    if data.batch_size > count:
        raise ConfigError(
            f"--batch-size {data.batch_size} is more than the {count} images of "
            f"{images.train.root}; use --batch-size {count} or less"
        )
    share = Share(ranks.rank, ranks.size, data.accumulate)
    order = Order(count, data.batch_size, seed=seed, share=share)
    crop = TrainCrop(data)
    source: Source
    if images.pack is None:
        if data.pack_on_device == "on":
            raise ConfigError(
                "--pack-on-device on: the images are read from their files; pack them first with "
                "imgnet-mini prepare"
            )
        source = _from_files(
            order, images.train, crop.load, data, device, neighbours=ranks.local_size
        )
    else:
        source = PackSource(order, images.pack.train, crop, data, device=device)
    return Loader(order, source, _FinishTraining(data, seed, device), device=device)


def build_eval_loader(
    data: DataConfig, images: Images, *, device: torch.device, ranks: Ranks = ALONE
) -> Loader:
    """Every image once, in the order of the split, on one rank or the other."""
    share = Share(ranks.rank, ranks.size)
    order = Order(len(images.val), data.batch_size, seed=None, share=share)
    packed = images.packed_val(data.img_size)
    source: Source
    if packed is None:
        load = EvalCrop(data.img_size).load
        source = _from_files(order, images.val, load, data, device, neighbours=ranks.local_size)
    else:
        source = PackSource(order, packed, None, data, device=device)
    normalise = Normalise(device)
    return Loader(order, source, lambda batch, _: normalise(batch.images), device=device)


def _from_files(
    order: Order,
    split: ImageFolder,
    load: Load,
    data: DataConfig,
    device: torch.device,
    *,
    neighbours: int,
) -> FolderSource:
    return FolderSource(
        order,
        split,
        load,
        img_size=data.img_size,
        workers=data.workers,
        device=device,
        neighbours=neighbours,
    )


def _refuse_uneven_batches(data: DataConfig, ranks: Ranks) -> None:
    blocks = ranks.size * data.accumulate
    rest = data.batch_size % blocks
    if rest:
        among = [f"{ranks.size} processes"] if ranks.size > 1 else []
        among += [f"--accumulate {data.accumulate}"] if data.accumulate > 1 else []
        lower = data.batch_size - rest
        choice = f"{lower} or {lower + blocks}" if lower else f"{blocks}"
        raise ConfigError(
            f"--batch-size {data.batch_size}, the images of one step on all processes together, "
            f"does not divide by {' times '.join(among)}: use {choice}"
        )


class _FinishTraining:
    """What is done to whole batches on the device; to the same numbers, whatever the device."""

    def __init__(self, data: DataConfig, seed: int, device: torch.device) -> None:
        self._img_size = data.img_size
        self._seed = seed
        self._style = ClassStyle(device) if data.use_class_style_aug else None
        self._normalise = Normalise(device)

    def __call__(self, batch: Batch, key: Key) -> Tensor:
        images = batch.images
        if batch.crops is not None:
            images = crop_batch(images, batch.crops, self._img_size)
        if self._style is not None:
            count = CROP_NUMBERS + ClassStyle.NUMBERS
            numbers = uniforms(self._seed, key.epoch, key.indices, count)[:, CROP_NUMBERS:]
            images = self._style(images, numbers)
        return self._normalise(images)
