"""Batches on a device; (seed, epoch, index) alone decide their order and augmentation."""

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from imgnet_mini.config import DataConfig
from imgnet_mini.data.folder import ImageFolder
from imgnet_mini.data.transforms import EvalLoad, Load, Normalise, TrainLoad
from imgnet_mini.errors import ConfigError, DataError

Batch = tuple[Tensor, Tensor]
"""images and targets: (N, 3, S, S) and (N,)."""

_Key = tuple[int, list[int]]
"""An epoch, and the positions of the images of one batch."""


_GRACE_SECONDS = 20


class Loader:
    """Batches of a split: images (N, 3, S, S) float32, normalised, and targets (N,) int64."""

    def __init__(
        self, order: "_Order", images: "_Batches", *, workers: int, device: torch.device
    ) -> None:
        self._order = order
        self._device = device
        self._normalise = Normalise(device)
        self.images = order.images
        self.images_per_step = order.batch_size
        self._loader: DataLoader[Batch | DataError] = DataLoader(
            images,
            sampler=order,
            batch_size=None,  # the dataset makes whole batches
            collate_fn=_as_it_is,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            worker_init_fn=_outlive_the_last_step,
            generator=torch.Generator(),  # else each epoch draws from the global one
        )

    def __len__(self) -> int:
        return len(self._order)

    def close(self) -> None:
        """End the workers; without this, an error would leave the process waiting for them."""
        del self._loader

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on.

        Raises:
            DataError: an image cannot be decoded; names it.
        """
        self._order.epoch, self._order.start = epoch, start
        for batch in self._loader:
            if isinstance(batch, DataError):
                raise batch
            images, targets = batch
            yield (
                self._normalise(images.to(self._device, non_blocking=True)),
                targets.to(self._device, non_blocking=True),
            )

    def endless(self) -> Iterator[Batch]:
        """Epoch after epoch."""
        epoch = 0
        while True:
            yield from self.epoch(epoch)
            epoch += 1


def build_train_loader(
    data: DataConfig, split: ImageFolder, *, seed: int, device: torch.device
) -> Loader:
    """Shuffled, augmented batches; images that do not fill the last batch sit out the epoch.

    Raises:
        ConfigError: the batch size is above the number of images.
    """
    if data.batch_size > len(split):
        raise ConfigError(
            f"--batch-size {data.batch_size} is more than the {len(split)} images of {split.root}; "
            f"use --batch-size {len(split)} or less"
        )
    return Loader(
        _Order(len(split), data.batch_size, seed=seed),
        _Batches(split, TrainLoad(data), seed),
        workers=data.workers,
        device=device,
    )


def build_eval_loader(data: DataConfig, split: ImageFolder, *, device: torch.device) -> Loader:
    """Every image once, in the order of the split."""
    return Loader(
        _Order(len(split), data.batch_size, seed=None),
        _Batches(split, EvalLoad(data.img_size), seed=None),
        workers=data.workers,
        device=device,
    )


class _Order(Sampler[_Key]):
    """Which images make which batch. With a seed: shuffled, whole batches only."""

    def __init__(self, images: int, batch_size: int, *, seed: int | None) -> None:
        self.images = images
        self.batch_size = batch_size
        self._seed = seed
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        whole, rest = divmod(self.images, self.batch_size)
        return whole + (self._seed is None and rest > 0)

    def __iter__(self) -> Iterator[_Key]:
        order = torch.arange(self.images)
        if self._seed is not None:
            generator = torch.Generator().manual_seed(mix(self._seed, self.epoch))
            order = torch.randperm(self.images, generator=generator)
        for batch in range(self.start, len(self)):
            first = batch * self.batch_size
            yield self.epoch, order[first : first + self.batch_size].tolist()


class _Batches(Dataset[Batch | DataError]):
    """Loads whole batches, into one tensor, so that images are not copied once more."""

    def __init__(self, split: ImageFolder, load: Load, seed: int | None) -> None:
        self._split = split
        self._load = load
        self._seed = seed

    def __getitem__(self, key: _Key) -> Batch | DataError:
        """Load a batch; an error is returned, since DataLoader would bury it in a traceback."""
        epoch, indices = key
        state = torch.get_rng_state()
        try:
            pixels = [self._pixels(epoch, index) for index in indices]
        except DataError as error:
            return error
        finally:
            torch.set_rng_state(state)
        shape = (len(pixels), *pixels[0].shape)
        images = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last)
        torch.stack(pixels, out=images)
        return images, torch.from_numpy(self._split.targets[indices])

    def _pixels(self, epoch: int, index: int) -> Tensor:
        if self._seed is not None:
            # 50 times quicker than torch.manual_seed, which also visits every other device.
            torch.default_generator.manual_seed(mix(self._seed, epoch, index))
        return self._load(self._split.path(index))


def mix(*numbers: int) -> int:
    """Hash numbers to 64 bits (splitmix64, Steele et al. 2014); near ones give unrelated seeds."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state


def _as_it_is(batch: Any) -> Any:
    return batch


def _outlive_the_last_step(worker: int) -> None:
    """Signals often reach the whole process group; workers live until the run is saved."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):  # not on Windows, where SIGTERM cannot be handled either
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SECONDS))
