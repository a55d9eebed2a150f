"""Image sizes that grow during training.

Small images first: Touvron et al. 2019 (arXiv:1906.06423) and Tan and Le 2021 (arXiv:2104.00298).
"""

import math
from dataclasses import dataclass
from typing import Final, Self

from imgnet_mini.config.settings import DataConfig
from imgnet_mini.errors import ConfigError

_STEP: Final = 8
"""Pixels; sizes between the first and the last are multiples of it."""
_SMALLEST: Final = 32
_GROWING: Final = 0.75
"""Fraction of the epochs in which images grow."""


@dataclass(frozen=True)
class ProgressiveResize:
    """Image size of each epoch, in pixels: grows linearly from the first to the last.

    The last is reached after three quarters of the epochs, and at the latest in the last epoch.
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
        first, last = _round_to_step(float(start) * data.img_size), data.img_size
        first = min(max(first, _SMALLEST), last)
    else:
        first, last = int(start), int(end)
    if last != data.img_size:
        cures = [f"--progressive {first}:{data.img_size}"] if first < data.img_size else []
        cures += [f"--img-size {last}"]
        raise ConfigError(
            f"--progressive {data.progressive} ends at {last} px, and --img-size is "
            f"{data.img_size}: use {' or '.join(cures)}"
        )
    if epochs is None:
        return ProgressiveResize.constant(last)
    return ProgressiveResize(first, last, epochs)


def pixel_fraction(data: DataConfig, epochs: int) -> float:
    """Return the pixels of a run as a fraction of those at full size throughout.

    The mean of (size / last size)^2 over the epochs: for a long run that starts at r times the
    last size about (1 + r + r^2) / 4 + 1/4. The FLOPs of a ResNet fall a little less, since its
    layers round sizes up: with ResNet-50 to 0.70 instead of 0.68 in 142 epochs from 112 to 224 px,
    and to 0.74 instead of 0.68 in 33 epochs from 32 to 64 px.
    """
    sizes = build_progressive_resize(data, epochs)
    return math.fsum((sizes.size_at(epoch) / sizes.last) ** 2 for epoch in range(epochs)) / epochs
