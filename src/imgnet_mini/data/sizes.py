"""How large the images of each epoch are, where they grow while training goes on.

Small images first: Touvron et al. 2019 (arXiv:1906.06423) and Tan and Le 2021 (arXiv:2104.00298).
"""

import math
from dataclasses import dataclass
from typing import Final, Self

from imgnet_mini.errors import ConfigError
from imgnet_mini.sections import DataConfig

_STRIDE: Final = 32
"""Pixels of the image to one of a ResNet's last layer: a side between two multiples of it takes
more arithmetic than its pixels, since layers round their sides up (40 px are 0.39 of the pixels of
64, and 0.56 of ResNet-50's arithmetic)."""


@dataclass(frozen=True)
class Sizes:
    """Side of the images of each epoch, in pixels, which grows in stages of equally many epochs.

    sides: that of each stage, rising. Where they do not divide the epochs, or are more than
        these, it is the first stages that are shorter, or left out.
    """

    sides: tuple[int, ...]
    epochs: int

    @classmethod
    def always(cls, size: int) -> Self:
        """The same in every epoch."""
        return cls((size,), 1)

    @classmethod
    def growing(cls, first: int, last: int, epochs: int) -> Self:
        """From the first side to the last, by way of the multiples of 32 between them."""
        between = range(first // _STRIDE * _STRIDE + _STRIDE, last, _STRIDE)
        return cls((first, *between, last) if first < last else (last,), epochs)

    @property
    def last(self) -> int:
        """The largest."""
        return self.sides[-1]

    def of(self, epoch: int) -> int:
        """The side in this epoch, which is counted from 0."""
        left = max(self.epochs - 1 - epoch, 0)
        return self.sides[-1 - left * len(self.sides) // self.epochs]


def training_sizes(data: DataConfig, epochs: int | None) -> Sizes:
    """The sides of the training crops of a run of so many epochs; None: the last side throughout.

    Raises:
        ConfigError: `progressive` does not end at the image size.
    """
    if data.progressive is None:
        return Sizes.always(data.img_size)
    share, _, last_share = data.progressive.partition(":")
    if last_share == "1":
        last = data.img_size
        strides = max(1, math.floor(float(share) * last / _STRIDE + 0.5))
        first = min(strides * _STRIDE, last)
    else:
        first, last = int(share), int(last_share)
    if last != data.img_size:
        cures = [f"--progressive {first}:{data.img_size}"] if first < data.img_size else []
        cures += [f"--img-size {last}"]
        raise ConfigError(
            f"--progressive {data.progressive} ends at {last} px, and --img-size is "
            f"{data.img_size}: use {' or '.join(cures)}"
        )
    return Sizes.always(last) if epochs is None else Sizes.growing(first, last, epochs)


def relative_cost(data: DataConfig, epochs: int) -> float:
    """Arithmetic of a run of so many epochs, as a share of what it takes at full size throughout.

    The mean of (side / last side)^2 over the epochs, since a convolution's work goes with the
    number of pixels. That is true of ResNets where all sides are multiples of 32, within 0.5 %.
    """
    sizes = training_sizes(data, epochs)
    return math.fsum((sizes.of(epoch) / sizes.last) ** 2 for epoch in range(epochs)) / epochs
