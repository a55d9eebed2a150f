"""The images of each batch, their size, and the share of each rank."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from imgnet_mini.config.data_settings import DataConfig
from imgnet_mini.data.rng import hash_seed
from imgnet_mini.errors import ConfigError

_STEP: Final = 8
"""Pixels; sizes between the first and the last are multiples of it."""
_SMALLEST: Final = 32
_GROWING: Final = 0.75
"""Fraction of the epochs in which images grow."""


class BatchKey(NamedTuple):
    """One batch: its epoch, the indices of its images in the split, (N,), and their size in px."""

    epoch: int
    indices: NDArray[np.int64]
    size: int


@dataclass(frozen=True)
class RankShard:
    """The micro-batches that one rank takes of each batch.

    A batch is cut into `world_size * grad_accum_steps` micro-batches. The m-th of a rank is number
    `m * world_size + rank`, so that the micro-batches of a training step depend on their number
    only: 4 ranks or 2 ranks with 2 accumulation steps see the same ones.
    """

    rank: int = 0
    world_size: int = 1
    grad_accum_steps: int = 1

    @property
    def micro_batches(self) -> int:
        """Number of micro-batches per batch, on all ranks."""
        return self.world_size * self.grad_accum_steps

    def split(self, indices: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return this rank's micro-batches, as equal in size as possible: (N,) to (n,) each."""
        bounds = np.arange(self.micro_batches + 1) * len(indices) // self.micro_batches
        numbers = range(self.rank, self.micro_batches, self.world_size)
        return [indices[bounds[number] : bounds[number + 1]] for number in numbers]


FULL_SHARD = RankShard()


@dataclass(frozen=True)
class ProgressiveResize:
    """Image size of each epoch, in pixels: grows linearly from the first to the last.

    The last is reached after three quarters of the epochs, and at the latest in the last epoch.
    Small images first: Touvron et al. 2019 (arXiv:1906.06423), Tan and Le 2021 (arXiv:2104.00298).
    """

    first: int
    last: int
    epochs: int

    @classmethod
    def constant(cls, size: int) -> Self:
        """Return a schedule with the same size in every epoch."""
        return cls(size, size, 1)

    def size_at(self, epoch: int) -> int:
        """Return the image size of an epoch, counted from 0."""
        growing = min(_GROWING * self.epochs, self.epochs - 1)
        if epoch >= growing:
            return self.last
        exact = self.first + (self.last - self.first) * epoch / growing
        return min(max(_round_to_step(exact), self.first), self.last)


def _round_to_step(size: float) -> int:
    return _STEP * math.floor(size / _STEP + 0.5)


def build_progressive_resize(data: DataConfig, epochs: int | None) -> ProgressiveResize:
    """Build the image sizes of a run with this number of epochs; None: the full size throughout.

    Raises:
        ConfigError: `progressive` does not end at the image size.
    """
    if data.progressive is None:
        return ProgressiveResize.constant(data.img_size)
    start, _, end = data.progressive.partition(":")
    if end == "1":
        last = data.img_size
        first = min(max(_round_to_step(float(start) * last), _SMALLEST), last)
    else:
        first, last = int(start), int(end)
    if last != data.img_size:
        cures = [f"--progressive {first}:{data.img_size}"] if first < data.img_size else []
        cures += [f"--img-size {last}"]
        raise ConfigError(
            f"--progressive {data.progressive} ends at {last} px, and --img-size is "
            f"{data.img_size}: use {' or '.join(cures)}"
        )
    return (
        ProgressiveResize.constant(last)
        if epochs is None
        else ProgressiveResize(first, last, epochs)
    )


def pixel_fraction(data: DataConfig, epochs: int) -> float:
    """Return the pixels of a run as a fraction of those at full size throughout.

    The FLOPs of a ResNet fall a little less, since its layers round sizes up: with ResNet-50 to
    0.70 instead of 0.68 in 142 epochs from 112 to 224 px.
    """
    sizes = build_progressive_resize(data, epochs)
    return math.fsum((sizes.size_at(epoch) / sizes.last) ** 2 for epoch in range(epochs)) / epochs


class ResumableBatchSampler(Sampler[BatchKey]):
    """Yields the batches of `epoch` from batch `start` on.

    seed: shuffles the images and drops an incomplete last batch; None: all images in order.
    sizes: image size of each epoch.
    shard: the part of each batch to yield; empty micro-batches are left out.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        *,
        seed: int | None,
        sizes: ProgressiveResize,
        shard: RankShard = FULL_SHARD,
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.sizes = sizes
        self.shard = shard
        self.epoch = 0
        self.start = 0

    @property
    def is_full_size(self) -> bool:
        """True if no later epoch has larger images than the current one."""
        return self.sizes.size_at(self.epoch) == self.sizes.last

    @property
    def max_micro_batch(self) -> int:
        """The largest number of images in a yielded batch."""
        return -(-self.batch_size // self.shard.micro_batches)

    def __len__(self) -> int:
        """Batches of a whole epoch, before they are split into micro-batches."""
        whole, rest = divmod(self.images, self.batch_size)
        return whole + (self.seed is None and rest > 0)

    def __iter__(self) -> Iterator[BatchKey]:
        order = torch.arange(self.images)
        if self.seed is not None:
            generator = torch.Generator().manual_seed(hash_seed(self.seed, self.epoch))
            order = torch.randperm(self.images, generator=generator)
        size = self.sizes.size_at(self.epoch)
        step = self.batch_size
        for first in range(self.start * step, len(self) * step, step):
            for indices in self.shard.split(order[first : first + step].numpy()):
                if len(indices):
                    yield BatchKey(self.epoch, indices.copy(), size)

    def positions(self) -> NDArray[np.int64]:
        """Return the indices of all images of an epoch that this shard yields, in order."""
        return np.concatenate([key.indices for key in self] or [np.empty(0, np.int64)])
