"""How large the images of each epoch are, where they grow while training goes on.

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
"""Share of the epochs in which images grow."""


@dataclass(frozen=True)
class ProgressiveResize:
    """Side of the images of each epoch, in pixels: from the first on a line up to the last.

    The last is reached after three quarters of the epochs, and in the last epoch at the latest.
    """

    first: int
    last: int
    epochs: int

    @classmethod
    def always(cls, size: int) -> Self:
        """The same in every epoch."""
        return cls(size, size, 1)

    def of(self, epoch: int) -> int:
        """The side in this epoch, which is counted from 0."""
        growing = min(_GROWING * self.epochs, self.epochs - 1)
        if epoch >= growing:
            return self.last
        exact = self.first + (self.last - self.first) * epoch / growing
        return min(max(_to_step(exact), self.first), self.last)


def _to_step(side: float) -> int:
    """The nearest multiple of the step."""
    return _STEP * math.floor(side / _STEP + 0.5)


def build_progressive_resize(data: DataConfig, epochs: int | None) -> ProgressiveResize:
    """The sides of the training crops of a run of so many epochs; None: the last side throughout.

    Raises:
        ConfigError: `progressive` does not end at the image size.
    """
    if data.progressive is None:
        return ProgressiveResize.always(data.img_size)
    share, _, last_share = data.progressive.partition(":")
    if last_share == "1":
        first, last = _to_step(float(share) * data.img_size), data.img_size
        first = min(max(first, _SMALLEST), last)
    else:
        first, last = int(share), int(last_share)
    if last != data.img_size:
        cures = [f"--progressive {first}:{data.img_size}"] if first < data.img_size else []
        cures += [f"--img-size {last}"]
        raise ConfigError(
            f"--progressive {data.progressive} ends at {last} px, and --img-size is "
            f"{data.img_size}: use {' or '.join(cures)}"
        )
    return (
        ProgressiveResize(first, last, epochs)
        if epochs is not None
        else ProgressiveResize.always(last)
    )


def pixel_fraction(data: DataConfig, epochs: int) -> float:
    """Pixels of a run of so many epochs, as a share of those at full size throughout.

    The mean of (side / last side)^2 over the epochs: (1 + r + r^2) / 4 + 1/4 for a long run that
    starts at r times the last side, but for the rounding of the sides. The arithmetic of a ResNet
    is a larger share of its own, since its layers round sides up: with ResNet-50, 0.70 in place of
    0.68 for 142 epochs from 112 to 224 px, and 0.74 in place of 0.68 for 33 from 32 to 64.
    """
    sizes = build_progressive_resize(data, epochs)
    return math.fsum((sizes.of(epoch) / sizes.last) ** 2 for epoch in range(epochs)) / epochs
