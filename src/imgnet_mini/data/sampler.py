"""Which images make which batch, and which of them are whose."""

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
    """One batch: its epoch, the positions of its images in the split, (N,), and their side."""

    epoch: int
    indices: NDArray[np.int64]
    size: int


@dataclass(frozen=True)
class RankShard:
    """What one of several ranks takes of each batch, in so many parts, one after the other.

    A batch is cut into `ranks * parts` blocks, and a rank's part m is block `m * ranks + rank`: the
    blocks of a step are the same, whatever ranks and parts make their number.
    """

    rank: int = 0
    world_size: int = 1
    parts: int = 1

    def of(self, indices: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The blocks of this rank, sizes as equal as can be; (N,) to a list of (n,)."""
        blocks = self.world_size * self.parts
        bounds = np.arange(blocks + 1) * len(indices) // blocks
        mine = range(self.rank, blocks, self.world_size)
        return [indices[bounds[block] : bounds[block + 1]] for block in mine]


FULL_SHARD = RankShard()


class ResumableBatchSampler(Sampler[BatchKey]):
    """The batches of an epoch. With a seed: shuffled, whole batches only.

    sizes: how large the images are to be.
    share: what is taken of each; parts without an image are left out.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        *,
        seed: int | None,
        sizes: ProgressiveResize,
        share: RankShard = FULL_SHARD,
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.sizes = sizes
        self.share = share
        self.epoch = 0
        self.start = 0

    @property
    def at_full_size(self) -> bool:
        """Whether the images of the current epoch are as large as they will ever be."""
        return self.sizes.of(self.epoch) == self.sizes.last

    @property
    def max_micro_batch(self) -> int:
        """The most images that are handed out at once."""
        return -(-self.batch_size // (self.share.world_size * self.share.parts))

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        whole, rest = divmod(self.images, self.batch_size)
        return whole + (self.seed is None and rest > 0)

    def __iter__(self) -> Iterator[BatchKey]:
        order = torch.arange(self.images)
        if self.seed is not None:
            generator = torch.Generator().manual_seed(hash_seed(self.seed, self.epoch))
            order = torch.randperm(self.images, generator=generator)
        size = self.sizes.of(self.epoch)
        for batch in range(self.start, len(self)):
            first = batch * self.batch_size
            for part in self.share.of(order[first : first + self.batch_size].numpy()):
                if len(part):
                    yield BatchKey(self.epoch, part.copy(), size)

    def positions(self) -> NDArray[np.int64]:
        """Those of all images of an epoch that are this share's, in their order."""
        return np.concatenate([key.indices for key in self] or [np.empty(0, np.int64)])
