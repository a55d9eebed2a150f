"""Whether an exported file says what the network says."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from imgnet_mini.export.formats import Run

_TOLERANCE: Final = 1e-3
"""Of the largest logit: other kernels add up float32 in another order, which costs some 1e-6."""


@dataclass(frozen=True)
class ParityResult:
    """What came of N images.

    same_top1: how many have the same likeliest class; difference: the largest one between two
    logits; scale: the largest logit.
    """

    images: int
    same_top1: int
    difference: float
    scale: float

    @property
    def holds(self) -> bool:
        """Whether it is the same network."""
        return self.same_top1 == self.images and self.difference <= _TOLERANCE * self.scale


def compare(model: nn.Module, exported: Run, images: Tensor) -> ParityResult:
    """Run both on (N, 3, S, S) images at once, and the exported one on the first by itself too.

    The latter since a file may have kept the batch size it was made with.
    """
    with torch.no_grad():
        expected = model(images)
        said = exported(images)
        alone = exported(images[:1])
    both = torch.cat([said, alone])
    difference = (both - torch.cat([expected, expected[:1]])).abs().max()
    return ParityResult(
        len(images),
        int((said.argmax(1) == expected.argmax(1)).sum()),
        float(difference) if bool(both.isfinite().all()) else float("inf"),
        max(1.0, float(expected.abs().max())),
    )
