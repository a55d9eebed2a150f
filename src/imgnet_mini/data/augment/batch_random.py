"""Random numbers of an augmentation for the images of one batch."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgnet_mini.data.rng import RandomStream, seeded, uniforms
from imgnet_mini.data.sampler import BatchKey


@dataclass(frozen=True)
class BatchRandom:
    """One stream of random numbers for N images; a function of (seed, epoch, index) alone."""

    stream: RandomStream
    seed: int
    key: BatchKey

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Return `count` numbers in [0, 1) for each image: (N, count)."""
        return uniforms(self.seed, self.key.epoch, self.key.indices, count, stream=self.stream)

    def seeded(self, position: int) -> AbstractContextManager[None]:
        """Seed torch's global CPU generator for the image at a position of the batch.

        The generator's state is restored afterwards; `stream.skip` is not used.
        """
        index = int(self.key.indices[position])
        return seeded(self.seed, self.key.epoch, index, *self.stream.key)
