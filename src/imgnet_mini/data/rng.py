"""Random numbers that are a function of (seed, epoch, index) alone.

Not of a generator's state: so neither workers nor batches, nor where a run was stopped, nor
the device show in what is drawn.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

_GAMMA: Final = 0x9E3779B97F4A7C15
_FIRST: Final = 0xBF58476D1CE4E5B9
_SECOND: Final = 0x94D049BB133111EB
_MASK: Final = 2**64 - 1


def hash_seed(*numbers: int) -> int:
    """Hash numbers to 64 bits (splitmix64, Steele et al. 2014); near ones give unrelated seeds."""
    state = 0
    for number in numbers:
        state = (state + number + _GAMMA) & _MASK
        state = ((state ^ (state >> 30)) * _FIRST) & _MASK
        state = ((state ^ (state >> 27)) * _SECOND) & _MASK
        state ^= state >> 31
    return state


def uniforms(seed: int, epoch: int, indices: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Numbers in [0, 1) for each of N images: (N,) to (N, count).

    Image i's are the outputs of splitmix64 that follow `mix(seed, epoch, i)`.
    """
    with np.errstate(over="ignore"):  # 64-bit arithmetic is meant to wrap around
        first = np.uint64(hash_seed(seed, epoch)) + indices.astype(np.uint64) + np.uint64(_GAMMA)
        start = _scramble(first)
        steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GAMMA)
        bits = _scramble(start[:, None] + steps)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Let what draws from torch's global generator of the CPU do so from `mix(*numbers)` on.

    Afterwards that generator is as it was; those of other devices are not touched.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(hash_seed(*numbers))
        yield


def _scramble(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(_FIRST)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(_SECOND)
    return state ^ (state >> np.uint64(31))
