"""The images of each batch, and the share of each rank."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from imgnet_mini.data.progressive_resize import ProgressiveResize
from imgnet_mini.data.rng import hash_seed


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
        for batch in range(self.start, len(self)):
            first = batch * self.batch_size
            for indices in self.shard.split(order[first : first + self.batch_size].numpy()):
                if len(indices):
                    yield BatchKey(self.epoch, indices.copy(), size)

    def positions(self) -> NDArray[np.int64]:
        """Return the indices of all images of an epoch that this shard yields, in order."""
        return np.concatenate([key.indices for key in self] or [np.empty(0, np.int64)])
