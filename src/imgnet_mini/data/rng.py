"""Random numbers that are a function of (seed, epoch, index) alone.

They depend on no generator state, and so not on workers, batches, ranks, the device or where a
run was stopped.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray

_GAMMA: Final = 0x9E3779B97F4A7C15
_MULTIPLIER_1: Final = 0xBF58476D1CE4E5B9
_MULTIPLIER_2: Final = 0x94D049BB133111EB
_MASK: Final = 2**64 - 1


def hash_seed(*values: int) -> int:
    """Hash integers to a 64-bit seed with splitmix64 (Steele et al. 2014)."""
    state = 0
    for value in values:
        state = (state + value + _GAMMA) & _MASK
        state = ((state ^ (state >> 30)) * _MULTIPLIER_1) & _MASK
        state = ((state ^ (state >> 27)) * _MULTIPLIER_2) & _MASK
        state ^= state >> 31
    return state


@dataclass(frozen=True)
class RandomStream:
    """The random numbers of one purpose, such as one augmentation, for each image.

    An image has the outputs of splitmix64 that follow `hash_seed(seed, epoch, index, *key)`, after
    the first `skip` of them.
    """

    key: tuple[int, ...] = ()
    skip: int = 0

    @classmethod
    def named(cls, name: str) -> Self:
        """Return the stream whose key is the first 64 bits of the name's SHA-256."""
        return cls((int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]),))


CROP_STREAM: Final = RandomStream()
"""Random resized crops and horizontal flips."""


def uniforms(
    seed: int,
    epoch: int,
    indices: NDArray[np.int64],
    count: int,
    *,
    stream: RandomStream = CROP_STREAM,
) -> NDArray[np.float64]:
    """Return `count` numbers in [0, 1) for each of N images: (N,) to (N, count)."""
    with np.errstate(over="ignore"):  # 64-bit arithmetic is meant to wrap around
        state = np.uint64(hash_seed(seed, epoch)) + indices.astype(np.uint64)
        state = _scramble(state + np.uint64(_GAMMA))
        for value in stream.key:
            state = _scramble(state + np.uint64(value) + np.uint64(_GAMMA))
        steps = np.arange(stream.skip + 1, stream.skip + count + 1, dtype=np.uint64)
        bits = _scramble(state[:, None] + steps * np.uint64(_GAMMA))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


@contextmanager
def seeded(*values: int) -> Iterator[None]:
    """Seed torch's global CPU generator with `hash_seed(*values)`, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(hash_seed(*values))
        yield


def _scramble(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(_MULTIPLIER_1)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(_MULTIPLIER_2)
    return state ^ (state >> np.uint64(31))
