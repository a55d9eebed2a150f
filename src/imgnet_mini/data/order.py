"""Which images make which batch."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from imgnet_mini.data.draws import mix


class Key(NamedTuple):
    """One batch: its epoch, and the positions of its images in the split, (N,)."""

    epoch: int
    indices: NDArray[np.int64]


class Order(Sampler[Key]):
    """The batches of an epoch. With a seed: shuffled, whole batches only."""

    def __init__(self, images: int, batch_size: int, *, seed: int | None) -> None:
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        whole, rest = divmod(self.images, self.batch_size)
        return whole + (self.seed is None and rest > 0)

    def __iter__(self) -> Iterator[Key]:
        order = torch.arange(self.images)
        if self.seed is not None:
            generator = torch.Generator().manual_seed(mix(self.seed, self.epoch))
            order = torch.randperm(self.images, generator=generator)
        for batch in range(self.start, len(self)):
            first = batch * self.batch_size
            yield Key(self.epoch, order[first : first + self.batch_size].numpy().copy())
