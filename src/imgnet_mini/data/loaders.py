"""Batches ready for the network; (seed, epoch, index) alone decide their order and pixels."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from imgnet_mini.data.batches import Batch, Mover, Source
from imgnet_mini.data.choice import Images
from imgnet_mini.data.crops import CROP_NUMBERS, crop_batch
from imgnet_mini.data.draws import uniforms
from imgnet_mini.data.folder import ImageFolder
from imgnet_mini.data.folder_source import FolderSource, Load
from imgnet_mini.data.order import Key, Order
from imgnet_mini.data.pack.source import PackSource
from imgnet_mini.data.transforms import ClassStyle, EvalCrop, Normalise, TrainCrop
from imgnet_mini.errors import ConfigError
from imgnet_mini.sections import DataConfig

Finish = Callable[[Batch, Key], Tensor]
"""From a batch on its device to what the network takes: (N, 3, S, S) float32."""


class Loader:
    """Batches of a split: images (N, 3, S, S) float32, normalised, and targets (N,) int64."""

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
        return len(self._order)

    def close(self) -> None:
        """End what works in the background."""
        self._source.close()

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch from number `start` on.

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
    data: DataConfig, images: Images, *, seed: int, device: torch.device
) -> Loader:
    """Shuffled, augmented batches; images that do not fill the last batch sit out the epoch.

    Raises:
        ConfigError: the batch size is above the number of images, or the pack was asked to be where
            it cannot be.
    """
    count = len(images.train)
    if data.batch_size > count:
        raise ConfigError(
            f"--batch-size {data.batch_size} is more than the {count} images of "
            f"{images.train.root}; use --batch-size {count} or less"
        )
    order = Order(count, data.batch_size, seed=seed)
    crop = TrainCrop(data)
    source: Source
    if images.pack is None:
        if data.pack_on_device == "on":
            raise ConfigError(
                "--pack-on-device on: the images are read from their files; pack them first with "
                "imgnet-mini prepare"
            )
        source = _from_files(order, images.train, crop.load, data, device)
    else:
        source = PackSource(order, images.pack.train, crop, data, device=device)
    return Loader(order, source, _FinishTraining(data, seed, device), device=device)


def build_eval_loader(data: DataConfig, images: Images, *, device: torch.device) -> Loader:
    """Every image once, in the order of the split."""
    order = Order(len(images.val), data.batch_size, seed=None)
    packed = images.packed_val(data.img_size)
    source: Source
    if packed is None:
        source = _from_files(order, images.val, EvalCrop(data.img_size).load, data, device)
    else:
        source = PackSource(order, packed, None, data, device=device)
    normalise = Normalise(device)
    return Loader(order, source, lambda batch, _: normalise(batch.images), device=device)


def _from_files(
    order: Order, split: ImageFolder, load: Load, data: DataConfig, device: torch.device
) -> FolderSource:
    return FolderSource(
        order, split, load, img_size=data.img_size, workers=data.workers, device=device
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
